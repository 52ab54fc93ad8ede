"""`eomt benchmark peers`: what it compares is equal, and it does not time what is not. Weights are random."""

import json
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eomt.benchmark import peers
from eomt.benchmark.authors import Authors, Place
from eomt.benchmark.findings import Ids, Instances
from eomt.benchmark.peers import HuggingFace, Ours, check, compare
from eomt.benchmark.subject import Setting
from eomt.cli import benchmark_peers, main
from eomt.config import ModelConfig
from eomt.errors import CheckError, ConfigError

MODEL = ModelConfig(
    "vit_small_patch14_reg4_dinov2", image_size=(96, 96), depth=2, num_queries=20, num_joint_blocks=1
)
SETTING = Setting(MODEL, photo=(120, 160), confident=8, device="cpu", precision="fp32")
OPTIONS = "--image-size 64 64 --photo-size 48 64 --confident 5 --rounds 1 --warm-up 0 --precision fp32"
STAND_IN = {
    "models/vit.py": """
        class ViT:
            def __init__(self, img_size, patch_size, backbone_name, ckpt_path):
                self.arguments = img_size, patch_size, backbone_name
        """,
    "models/eomt.py": """
        from torch import nn
        from eomt.config import ModelConfig
        from eomt.models.eomt import EoMT as Ours
        from eomt.weights.names import AUTHORS, to_ours

        class EoMT(nn.Module):
            def __init__(self, encoder, classes, queries, joint_blocks, masked_attn_enabled):
                super().__init__()
                print("what is printed is no answer")
                size, patch, backbone = encoder.arguments
                config = ModelConfig(
                    backbone, "none", size, patch_size=patch, depth=2, num_queries=queries,
                    num_joint_blocks=joint_blocks
                )
                self.model = Ours(config, classes)

            def load_state_dict(self, state):
                named = {f"network.{name}": value for name, value in state.items()}
                self.model.load_state_dict(to_ours(named, AUTHORS), strict=False)

            def forward(self, images):
                logits = self.model((images.float() * 255).round())[-1]
                return [logits.mask_logits], [logits.class_logits]
        """,
    "training/mask_classification_panoptic.py": """
        import torch
        from torch import nn
        from eomt.inference.geometry import plan, split

        class MaskClassificationPanoptic(nn.Module):
            def __init__(self, network, img_size, classes, stuff, attn_mask_annealing_enabled, mask_thresh,
                         overlap_thresh):
                super().__init__()
                self.network, self.img_size, self.stuff_classes = network, img_size, stuff
                self.mask_thresh, self.overlap_thresh = mask_thresh, overlap_thresh

            def forward(self, images):
                return self.network(images / 255)

            def resize_and_pad_imgs_instance_panoptic(self, images):
                self.tiling = plan(tuple(images[0].shape[1:]), self.img_size, "contain")
                return split(images[0], self.tiling)

            def revert_resize_and_pad_logits_instance_panoptic(self, masks, sizes):
                scaled = plan(tuple(sizes[0]), self.img_size, "contain").scaled
                cut = masks[:, :, : scaled[0], : scaled[1]]
                return [nn.functional.interpolate(cut, tuple(sizes[0]), mode="bilinear")[0]]

            def to_per_pixel_preds_panoptic(self, masks, classes, stuff, threshold, overlap):
                scores, labels = classes[0].softmax(-1).max(-1)
                kept = (labels < classes.shape[-1] - 1) & (scores > threshold)
                inside, labels = masks[0][kept].sigmoid(), labels[kept].tolist()
                winner = (scores[kept][:, None, None] * inside).argmax(0)
                result = torch.full((*winner.shape, 2), -1)
                count, first = 0, {}
                for index, label in enumerate(labels):
                    own, won = inside[index] >= 0.5, winner == index
                    if not (own & won).any() or won.sum() / own.sum() < overlap:
                        continue
                    segment = first.get(label, count)
                    if segment == count:
                        count += 1
                        if label in stuff:
                            first[label] = segment
                    result[own & won] = torch.tensor([label, segment])
                return [result]
        """,
    "training/mask_classification_instance.py": """
        from torch import nn
        from training.mask_classification_panoptic import MaskClassificationPanoptic

        class MaskClassificationInstance(MaskClassificationPanoptic):
            def __init__(self, network, img_size, classes, attn_mask_annealing_enabled, eval_top_k_instances):
                super().__init__(network, img_size, classes, [], attn_mask_annealing_enabled, 0, 0)
                self.count, self.classes = eval_top_k_instances, classes

            def eval_step(self, batch):
                photos, targets = batch
                masks, classes = (part[-1] for part in self(self.resize_and_pad_imgs_instance_panoptic(photos)))
                masks = nn.functional.interpolate(masks, self.img_size, mode="bilinear")
                (masks,) = self.revert_resize_and_pad_logits_instance_panoptic(masks, [photos[0].shape[1:]])
                best = classes[0].softmax(-1)[:, :-1].flatten().topk(self.count)
                masks = masks[best.indices // self.classes]
                inside = masks > 0
                sure = (masks.sigmoid() * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6)
                found = {"masks": inside, "labels": best.indices % self.classes, "scores": best.values * sure}
                self.update_metrics_instance([found], [target["masks"] for target in targets], 0)

            def update_metrics_instance(self, found, targets, layer):
                raise AssertionError("there are no targets")
        """,
}


@pytest.fixture(scope="module")
def ours() -> Ours:
    return Ours(SETTING)


@pytest.fixture(scope="module")
def instances() -> Ours:
    return Ours(replace(SETTING, task="instance"))


@pytest.fixture
def stand_in(tmp_path: Path) -> Place:
    """What is called like the authors' code, made of ours: what is tested is how the two processes talk."""
    for name, text in STAND_IN.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    return Place(tmp_path, Path(sys.executable))


@pytest.mark.parametrize("backbone", ["vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3_qkvb"])
def test_transformers_gives_the_same(backbone: str) -> None:
    report = compare(replace(SETTING, model=replace(MODEL, backbone=backbone)), 1, warm_up=0, with_memory=False)
    (other,) = report.others
    assert other.equality is not None
    assert other.equality.logits < 1e-5
    assert other.equality.to_json() == {"logits": other.equality.logits, "whole": 1, "unit": "pixels"}
    found = Ours(SETTING).found
    assert isinstance(found, Ids)
    assert len(np.unique(found.ids)) > 4  # there is something to see
    assert set(report.ratios(other)) == {"preprocess", "forward", "decode", "whole"}


def test_the_bundled_model_has_a_peer() -> None:
    """Without register tokens, and with tiles, which a peer has not: all sides see the photo in one view."""
    bundled = Ours(replace(SETTING, model="bundled"))
    equality = check(bundled, HuggingFace(bundled))
    assert equality.logits < 1e-5


def test_another_model_is_not_timed(ours: Ours) -> None:
    theirs = HuggingFace(ours)
    with torch.no_grad():
        theirs.model.query.weight[3] *= -1
    with pytest.raises(CheckError, match=r"transformers: logits differ by .*: this is another model"):
        check(ours, theirs)


def test_another_decoding_is_not_timed(ours: Ours, monkeypatch) -> None:
    theirs = HuggingFace(ours)
    theirs.stuff = []
    monkeypatch.setattr(peers, "SEEDS", range(12))  # in one of them, a class of stuff comes twice
    with pytest.raises(CheckError, match="the same logits become other ids"):
        check(ours, theirs)


def test_transformers_finds_other_instances(instances: Ours) -> None:
    with pytest.raises(ConfigError, match="transformers is not compared: it gives a query one label"):
        HuggingFace(instances)


def test_the_authors_process(ours: Ours, stand_in: Place) -> None:
    with Authors(stand_in, ours, "processor") as theirs:
        equality = check(ours, theirs)
        assert equality.logits < 1e-6
        assert equality.whole == 1
        seconds = theirs()
        assert set(seconds) == {"preprocess", "forward", "decode", "whole"}
        assert sum(seconds[name] for name in ("preprocess", "forward", "decode")) == pytest.approx(
            seconds["whole"]
        )
        assert theirs.peak().most >= theirs.peak().before
        assert f"torch {torch.__version__.partition('+')[0]}" in theirs.version
        with pytest.raises(ConfigError, match="unknown question what"):
            theirs._ask("what")
        folder, process = theirs.folder, theirs._process
    assert not folder.exists()
    assert process.poll() is not None


def test_other_instances_are_not_timed(instances: Ours, stand_in: Place) -> None:
    theirs = stand_in.code / "training" / "mask_classification_instance.py"
    theirs.write_text(theirs.read_text().replace("masks > 0", "masks > 0.5"))
    with (
        Authors(stand_in, instances, "wall") as other,
        pytest.raises(CheckError, match="the same logits become other instances"),
    ):
        check(instances, other)


MASKS = np.zeros((3, 4, 6), dtype=np.bool_)
MASKS[0, :2], MASKS[1, 1:3, :4] = True, True
FOUND = {"masks": MASKS, "labels": np.array([2, 5, 5]), "scores": np.array([0.9, 0.5, 0.0])}


@pytest.mark.parametrize(
    ("change", "same", "share"),
    [
        ({}, True, 1),
        ({name: part[[2, 1, 0]] for name, part in FOUND.items()}, True, 1),  # in another order
        ({name: part[:2] for name, part in FOUND.items()}, True, 1),  # the third one has no pixel
        ({"scores": FOUND["scores"] + 5e-6}, True, 1),
        ({"scores": FOUND["scores"] + 5e-5}, False, 1),
        ({"labels": np.array([2, 4, 4])}, False, 1 / 2),
        ({"masks": MASKS & (np.arange(6) != 3)}, False, (10 / 12 + 6 / 8) / 2),
        ({name: part[:1] for name, part in FOUND.items()}, False, 1 / 2),
        ({name: part[:0] for name, part in FOUND.items()}, False, 0),
    ],
)
def test_instances_are_equal_in_every_pixel(change: dict[str, np.ndarray], same: bool, share: float) -> None:
    mine, theirs = Instances.read(FOUND), Instances.read({**FOUND, **change})
    assert mine.same(theirs) is theirs.same(mine) is same
    assert mine.share(theirs) == pytest.approx(share)
    assert theirs.share(mine) == pytest.approx(share)


def test_where_nothing_is_found_all_agree() -> None:
    nothing = Instances.read({name: part[:0] for name, part in FOUND.items()})
    assert nothing.same(nothing)
    assert nothing.share(nothing) == 1


def test_what_their_process_cannot_do_is_told(ours: Ours, stand_in: Place) -> None:
    (stand_in.code / "models" / "eomt.py").write_text("import no_such_package")
    with pytest.raises(ConfigError, match="No module named 'no_such_package'\nTheir code was run by"):
        Authors(stand_in, ours, "wall")
    with pytest.raises(ConfigError, match="has ended"):
        Authors(Place(stand_in.code, Path("/bin/true")), ours, "wall")


def test_the_command(stand_in: Place, capsys, tmp_path: Path) -> None:
    """On a whole ViT-S at a small view. The stand-in builds two of its blocks only, and says so."""
    options = OPTIONS.split()
    picture = tmp_path / "times.png"
    assert main(["benchmark", "peers", *options, "--no-memory", "--json", "--picture", str(picture)]) == 0
    text = capsys.readouterr().out
    found = json.loads(text.splitlines()[-1])
    assert set(found["others"]) == set(found["ratios"]) == {"transformers"}
    assert found["others"]["transformers"]["equality"]["unit"] == "pixels"
    assert "ours / transformers" in text
    assert picture.is_file()
    place = ["--authors", str(stand_in.code), "--authors-python", str(stand_in.python)]
    assert main(["benchmark", "peers", *options, *place, "--no-transformers", "--no-memory"]) == 2
    assert "3 joint blocks" in capsys.readouterr().err


def test_the_command_compares_instances(stand_in: Place, monkeypatch, capsys) -> None:
    monkeypatch.setattr(benchmark_peers, "_architecture", lambda options: MODEL)
    options = [*OPTIONS.split(), "--task", "instance", "--no-memory", "--json"]
    place = ["--authors", str(stand_in.code), "--authors-python", str(stand_in.python)]
    assert main(["benchmark", "peers", *options, *place]) == 0
    text = capsys.readouterr().out
    found = json.loads(text.splitlines()[-1])
    assert found["task"] == "instance"
    assert found["others"]["authors"]["equality"]["whole"] == 1
    assert "the same logits give the same instances; whole runs agree in 100.0000% of the instances" in text
    assert "transformers is left out: it gives a query one label" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--task instance", "--task instance leaves nobody to compare with but the authors' code"),
        ("--authors .", "--authors FOLDER and --authors-python FILE go together"),
        ("--no-transformers", "--no-transformers leaves nobody to compare with"),
        ("--authors . --authors-python python", "--authors .: no models/eomt.py"),
        ("--rounds 0", "--rounds 0: expected"),
        ("--size huge", "--size huge: expected small"),
        ("--backbone vit_small_patch14_dinov3", "vit_small_patch14_dinov3"),
        ("--image-size 64 96", "sees squares"),
    ],
)
def test_what_is_refused(options: str, message: str, capsys) -> None:
    assert main(["benchmark", "peers", *options.split()]) == 2
    assert message in capsys.readouterr().err
