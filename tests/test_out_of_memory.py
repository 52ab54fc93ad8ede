"""Where memory runs out in a step, the step is taken again in smaller micro-batches: the run is that of those."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import TOY
from eomt.config import AugmentConfig, DataConfig, LossConfig, OptimConfig, Recipe, TrackConfig
from eomt.errors import NonFiniteError, ResourceError, is_out_of_memory
from eomt.training import capture, loop, state
from eomt.training.loop import train
from eomt.training.replay import replay
from test_resume import assert_same_run, curve

WORDS = "CUDA out of memory. Tried to allocate 2.00 GiB"


def recipe(root: Path, micro_batch: int | None = None, steps: int = 2) -> Recipe:
    """Steps of five images, with chance in the model and an average of the weights."""
    return Recipe(
        task="instance",
        steps=steps,
        model=replace(TOY, drop_path=0.2),
        data=DataConfig(root=str(root), batch_size=5, micro_batch=micro_batch, workers=0),
        augment=AugmentConfig(scale=(0.8, 1.2)),
        loss=LossConfig(num_points=128),
        optim=OptimConfig(lr=1e-3, layer_decay=1.0, ema=0.9),
        track=TrackConfig(report=False),
        device="cpu",
    )


class Exhausting(torch.autograd.Function):
    """A number that passes, and whose gradient there is no memory for."""

    @staticmethod
    def forward(context, number):  # type: ignore[no-untyped-def]
        return number.clone()

    @staticmethod
    def backward(context, gradient):  # type: ignore[no-untyped-def]
        raise torch.OutOfMemoryError(WORDS)


def limit(monkeypatch: pytest.MonkeyPatch, where: str, images: int, from_step: int = 0) -> None:
    """Let memory hold so many images of a micro-batch, from a step on."""
    judged_batch, segmentation_loss = loop.judged_batch, loop.segmentation_loss
    steps = []

    def noting(accelerator, model, batch, chance, *rest):  # type: ignore[no-untyped-def]
        steps.append(chance[1])
        return judged_batch(accelerator, model, batch, chance, *rest)

    def exhausting(outputs, targets, *rest):  # type: ignore[no-untyped-def]
        terms = segmentation_loss(outputs, targets, *rest)
        if len(targets) <= images or steps[-1] < from_step:
            return terms
        if where == "forward":
            raise torch.OutOfMemoryError(WORDS)
        return replace(terms, total=Exhausting.apply(terms.total))

    monkeypatch.setattr(loop, "judged_batch", noting)
    monkeypatch.setattr(loop, "segmentation_loss", exhausting)


@pytest.mark.parametrize(
    ("where", "begun_with", "held", "then"),
    [
        ("forward", None, 3, 3),  # 5 are too many, 3 and 2 are not
        ("backward", None, 3, 3),
        ("backward", 4, 1, 1),  # 4 and 1, then 2, 2 and 1
    ],
)
def test_the_run_is_that_of_smaller_micro_batches(
    shapes: Path, tmp_path: Path, monkeypatch, caplog, where, begun_with, held, then
) -> None:
    train(recipe(shapes, then), tmp_path / "small")
    limit(monkeypatch, where, held)
    train(recipe(shapes, begun_with), tmp_path / "halved")
    assert_same_run(tmp_path / "small", tmp_path / "halved")
    assert "step 1: memory does not suffice for" in caplog.text
    assert f"it is {then} at once" in caplog.text


def test_a_resumed_run_knows_what_memory_holds(shapes: Path, tmp_path: Path, monkeypatch, caplog) -> None:
    """Stopped after the step that was halved, it goes on as the one that was not stopped, with no second try."""
    limit(monkeypatch, "backward", 3, from_step=1)
    train(recipe(shapes, steps=4), tmp_path / "whole")
    assert [row["micro_batch"] for row in curve(tmp_path / "whole") if "loss" in row] == [5, 3, 3, 3]

    optimizer_step = loop.optimizer_step

    def killed(run, batches):  # type: ignore[no-untyped-def]
        if run.progress.step == 2:
            raise KeyboardInterrupt  # at once, with no state saved
        return optimizer_step(run, batches)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "optimizer_step", killed)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(shapes, steps=4), tmp_path / "run")
    caplog.clear()
    train(recipe(shapes, steps=4), tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")
    assert "memory does not suffice" not in caplog.text


def test_the_capture_of_a_step_that_was_taken_again_is_of_the_second_time(
    shapes: Path, tmp_path: Path, monkeypatch
) -> None:
    """Each view is in it once, in the micro-batches whose gradients there are; the replay gives the same bits."""

    def refuse(values, step, *_):  # type: ignore[no-untyped-def]
        raise NonFiniteError(f"step {step}: asked for")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "check_finite", refuse)
        limit(patch, "backward", 3)
        with pytest.raises(NonFiniteError, match="eomt debug replay"):
            train(recipe(shapes, 4), tmp_path / "run")
    kept = capture.read(tmp_path / "run")
    assert [len(each.batch.targets) for each in kept.passes] == [2, 2, 1]
    assert [each.chance[-1] for each in kept.passes] == [0, 2, 4]
    assert replay(kept).is_same


def test_one_image_is_the_end(shapes: Path, tmp_path: Path, monkeypatch) -> None:
    limit(monkeypatch, "backward", 0)
    with pytest.raises(
        ResourceError, match=r"step 1: memory does not suffice for one image.*checkpointing"
    ) as error:
        train(recipe(shapes), tmp_path / "run")
    assert error.value.exit_code == 5
    found = state.newest(tmp_path / "run")
    assert found is not None
    assert found[1]["step"] == 0


def test_other_errors_are_not_taken_for_it(shapes: Path, tmp_path: Path, monkeypatch) -> None:
    def failing(*_):  # type: ignore[no-untyped-def]
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(loop, "segmentation_loss", failing)
    with pytest.raises(RuntimeError, match="device-side"):
        train(recipe(shapes), tmp_path / "run")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(WORDS), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_is_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
