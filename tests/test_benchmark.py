"""What `eomt benchmark` counts, and that it times what it says. No test depends on how long anything takes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import TOY
from eomt import recipes
from eomt.benchmark.costs import Peak, measure_size, multiply_adds, peak_memory
from eomt.benchmark.model import BASELINES, baseline_of
from eomt.benchmark.operations import Operations, kind_of, profile
from eomt.benchmark.pictures import Bar, bars
from eomt.benchmark.rounds import Times, ratios, time_interleaved
from eomt.benchmark.scene import confident_logits, draw_photo
from eomt.benchmark.subject import BareViT, Setting, build, prepare
from eomt.categories import Category
from eomt.cli import main
from eomt.cli.benchmark import WORDS
from eomt.config import Thresholds
from eomt.errors import ConfigError
from eomt.inference import decode
from eomt.inference.geometry import plan
from eomt.models.backbone import Backbone
from eomt.timing import stage
from memory import refuse, take_64_mib

MIB = 2**20
TOY_OPTIONS = "--backbone test_vit --image-size 64 64 --photo-size 72 96 --confident 5 --rounds 2 --warm-up 0"
SETTING = Setting(TOY, photo=(72, 96), confident=5, device="cpu", precision="fp32")


@pytest.mark.parametrize(
    ("recipe", "parameters", "published"),
    [  # table 3 of the paper: 640 pixels, 133 classes, in G
        (recipes.small, 23_975_942, 68),
        (recipes.base, 93_663_110, 216),
        (recipes.large, 316_695_686, 669),
        (recipes.giant, 1_163_622_022, 2261),
    ],
)
def test_counts_are_those_of_the_paper(recipe, parameters: int, published: int) -> None:
    size = measure_size(recipe().model, 133)
    assert size.parameters == parameters
    assert size.multiply_adds / 1e9 == pytest.approx(published, rel=0.01)


def test_masked_inference_costs_less_than_the_paper_says() -> None:
    """828 G with masks of all queries before each of four blocks; here features are brought to the grid first."""
    model = recipes.large().model
    masked, plain = (
        measure_size(replace(model, masked_inference=flag), 133).multiply_adds for flag in (True, False)
    )
    a_product = 200 * 160 * 160 * 1024
    assert masked + 4 * a_product == pytest.approx(828e9, rel=0.01)
    assert plain < masked < 828e9


def test_multiply_adds_of_a_product() -> None:
    assert multiply_adds(lambda: torch.ones(2, 3) @ torch.ones(3, 5)) == 30
    queries = torch.ones(1, 2, 7, 4)
    with torch.device("cpu"):
        attention = multiply_adds(
            lambda: torch.nn.functional.scaled_dot_product_attention(queries, queries, queries)
        )
    assert attention == 2 * 2 * 7 * 7 * 4


def test_a_profile_leaves_no_operation_out() -> None:
    """Its multiply-adds are those of a whole pass, and each attention is seen once."""
    subject = prepare(SETTING)
    found = profile(subject, rounds=1)
    model, views = subject.segmenter.model, subject.views()
    assert sum(kind.multiply_adds for kind in found.kinds.values()) == multiply_adds(lambda: model.forward(views))
    assert found.kinds["attention"].calls == len(model.backbone.blocks)
    assert found.rate > 0
    assert set(found.to_json()["operations"]) == set(found.kinds)


def test_kinds_of_operations() -> None:
    aten = torch.ops.aten
    kinds = [kind_of(function.default) for function in (aten.addmm, aten.native_layer_norm, aten.gelu, aten.clone)]
    assert kinds == ["matrix products", "norms", "activations", "copies and casts"]
    with Operations() as operations:
        torch.ones(2, 3).view(6).view(3, 2).reshape(2, 3)
    assert sum(kind.calls for kind in operations.kinds.values()) == 1  # views are none


@pytest.mark.parametrize("backbone", ["vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3_qkvb"])
def test_the_bare_vit_is_timms_on_the_same_weights(backbone: str) -> None:
    config = replace(TOY, backbone=backbone, depth=3)
    model = build(config, 3).eval()
    before = [getattr(block.attn, "num_prefix_tokens", None) for block in model.backbone.blocks]
    bare = BareViT(model.backbone).eval()
    assert {id(each) for each in bare.parameters()} == {id(each) for each in model.backbone.parameters()}
    assert [getattr(block.attn, "num_prefix_tokens", None) for block in model.backbone.blocks] == before
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    plain = Backbone(config).eval()  # nobody told its blocks of queries
    plain.load_state_dict(model.backbone.state_dict())
    with torch.no_grad():
        tokens, rope = plain.embed(images)
        for index in range(3):
            tokens = plain.run(index, tokens, rope)
        torch.testing.assert_close(bare(images), plain.norm(tokens))
    assert measure_size(config, 3, bare=True).parameters == sum(p.numel() for p in model.backbone.parameters())


def test_contestants_run_in_turns() -> None:
    ran: list[str] = []

    def run(name: str):
        def do() -> None:
            with stage("work"):
                ran.append(name)

        return do

    shown: list[tuple[int, int]] = []
    times = time_interleaved(
        {"a": run("a"), "b": run("b")}, 3, warm_up=1, show=lambda done, of: shown.append((done, of))
    )
    assert ran == list("ab" + "abbaab")
    assert shown[0] == (0, 3)
    assert shown[-1] == (2, 3)
    for stages in times.values():
        assert set(stages) == {"work", "whole"}
        assert all(
            part <= whole for part, whole in zip(stages["work"].values, stages["whole"].values, strict=True)
        )
        assert len(stages["whole"].values) == 3


def test_medians_quartiles_and_ratios() -> None:
    mine, theirs = Times((1.0, 9.0, 3.0, 2.0, 4.0)), Times((2.0, 3.0, 6.0, 4.0, 8.0))
    assert (mine.median, mine.quartiles) == (3.0, (2.0, 4.0))
    assert Times((5.0,)).quartiles == (5.0, 5.0)
    assert mine.over(theirs).median == 0.5  # round by round: 9 / 3 moves nothing
    assert mine.to_json(1e3) == {"median": 3000.0, "quartiles": [2000.0, 4000.0], "rounds": 5}
    assert list(ratios({"forward": mine, "decode": mine}, {"forward": theirs})) == ["forward"]


def test_peak_memory_is_that_of_the_run() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux tells the peak of a process anew")
    peak = peak_memory(take_64_mib)
    assert peak.above == pytest.approx(64 * MIB, rel=0.05)
    assert peak.before > 32 * MIB
    assert Peak(2 * MIB, 5 * MIB).to_json() == {"before": 2.0, "most": 5.0, "above": 3.0}


def test_what_goes_wrong_there_is_told_here() -> None:
    with pytest.raises(ConfigError, match="not like this"):
        peak_memory(refuse)


@pytest.mark.parametrize("confident", [0, 1, 5, 12])
def test_sure_queries_are_decoded(confident: int) -> None:
    (like,) = build(TOY, 7).eval()(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    logits = confident_logits(like, confident, shown=(0.75, 1.0))
    for mine, other in zip(logits, like, strict=True):
        assert (mine.shape, mine.dtype, mine.stride()) == (other.shape, other.dtype, other.stride())
    categories = tuple(Category(f"class {label}", True, label, (0, 0, 0)) for label in range(7))
    one = type(logits)(*(part[:1] for part in logits))
    found = decode.panoptic(one, plan((72, 96), (64, 64), "contain"), categories, Thresholds())
    assert confident * 0.6 <= len(found) <= confident
    if confident > 1:
        assert (found.id_map().ids > 0).mean() > 0.5


def test_more_sure_queries_than_there_are() -> None:
    (like,) = build(TOY, 7).eval()(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(ConfigError, match="--confident 13: the model has 12 queries"):
        confident_logits(like, 13)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (72, 96)])
def test_pictures_of_any_size(size) -> None:
    photo = draw_photo(size)
    assert (photo.shape, photo.dtype) == ((*size, 3), np.uint8)


def test_a_subject_runs_what_users_call() -> None:
    subject = prepare(SETTING)
    (found,) = subject()
    assert found.size == (72, 96)
    assert len(found) > 2
    shared = prepare(replace(SETTING, precision="bf16"), subject)
    assert shared.segmenter is subject.segmenter
    assert prepare(replace(SETTING, confident=4), subject).segmenter is not subject.segmenter


@pytest.mark.parametrize(
    ("model", "task", "count"),
    [
        (TOY, "panoptic", 2),  # one view an image
        (TOY, "semantic", 4),  # two windows side by side
        (replace(TOY, zoom=1.0), "panoptic", 12),  # 2 x 3 tiles that overlap
    ],
)
def test_the_bare_vit_sees_what_the_model_sees(model, task, count: int) -> None:
    subject = prepare(Setting(model, task, photo=(72, 140), batch=2, confident=5, device="cpu", precision="fp32"))
    seen: list[int] = []
    subject.segmenter.model.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    subject()
    assert sum(seen) == subject.view_count == len(subject.views()) == count


def test_baselines() -> None:
    assert baseline_of("none", SETTING) is None
    assert baseline_of("vit", SETTING) == replace(SETTING, bare=True)
    assert baseline_of("bundled", SETTING) == replace(SETTING, model="bundled")
    with pytest.raises(ConfigError, match="--baseline fp32: that is what is measured"):
        baseline_of("fp32", SETTING)


def test_the_command_knows_the_baselines() -> None:
    assert {*WORDS} == {"none", *BASELINES}


def test_the_command(tmp_path: Path, capsys) -> None:
    picture = tmp_path / "times.png"
    assert main(["benchmark", *TOY_OPTIONS.split(), "--picture", str(picture), "--json"]) == 0
    text = capsys.readouterr().out
    found = json.loads(text.splitlines()[-1])
    assert set(found["milliseconds"]) == {"preprocess", "forward", "decode", "whole"}
    assert set(found["ratios"]) == {"forward"}  # of the bare ViT there is nothing else to compare
    assert found["baseline"]["part"] == "bare ViT"
    assert found["multiply_adds"] > found["baseline"]["multiply_adds"] > 0
    assert found["memory_mib"]["most"] >= found["memory_mib"]["before"] > 0
    assert found["machine"]["threads"] == 1
    assert found["milliseconds"]["whole"]["rounds"] == 2
    assert "multiply-adds" in text
    with Image.open(picture) as image:
        assert image.size[0] == 860


def test_the_command_with_a_model_and_another_one(tmp_path: Path, capsys) -> None:
    Image.fromarray(draw_photo((60, 80))).save(tmp_path / "photo.png")
    options = (
        f"--model bundled --photo {tmp_path / 'photo.png'} --baseline bf16 --precision fp32 --no-memory --json"
    )
    assert main(["benchmark", *options.split(), "--rounds", "1", "--warm-up", "0"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["model"], found["weights"], found["memory_mib"]) == ("bundled", "own", None)
    assert (found["precision"], found["baseline"]["precision"]) == ("float32", "bfloat16")
    assert set(found["ratios"]) == {"preprocess", "forward", "decode", "whole"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--rounds 0", "--rounds 0: expected a whole number from 1 on"),
        ("--batch 0", "--batch 0: expected"),
        ("--photo-size 0 5", "--photo-size 0 5: expected sides from 1 on"),
        ("--model bundled --backbone test_vit", "--backbone goes without --model"),
        ("--model bundled --confident 3", "--confident goes without --model, which has its own"),
        ("--photo-size 9 9 --photo pyproject.toml", "--photo-size goes without --photo"),
        ("--profile --compile default", "--profile goes without --compile"),
        ("peers --model bundled --size base", "--size goes without --model"),
        ("--picture times.jpg", "--picture times.jpg: the picture is a PNG file"),
        ("--recipe smal", "smal"),
        ("--compile always", "--compile always: expected off"),
        ("--baseline vits", "vits"),
        ("--precision bf16 --baseline bf16", "--baseline bf16: that is what is measured"),
        ("--confident 500", "--confident 500: the model has 200 queries"),
    ],
)
def test_what_is_refused(options: str, message: str, capsys) -> None:
    start = "" if "--model" in options or "--recipe" in options else "--backbone test_vit --image-size 64 64 "
    assert main(["benchmark", *(start + options).split(), "--no-memory"]) in (2, 4)
    assert message in capsys.readouterr().err


def test_bars() -> None:
    """A bar is as long as its value; the colours of parts follow their names."""
    image = np.asarray(bars("two", [Bar("a", {"x": 3.0, "y": 1.0}, "4"), Bar("b", {"y": 2.0}, "2")]))
    blue, red = ((image == np.array(color)).all(-1) for color in ((31, 119, 180), (214, 39, 40)))
    rows = np.flatnonzero(red.any(1))
    first, second = rows[5], rows[rows > rows[0] + 25][5]
    assert blue[first].sum() == pytest.approx(3 * red[first].sum(), abs=4)
    assert red[second].sum() == pytest.approx(2 * red[first].sum(), abs=4)
