"""The published models under short names, and what is known of each before any of its files is read.

The facts are those of the authors' model zoo, not ours. Files are left to `hub`, whose functions are at hand here
too; what the tensors of a file mean is left to the loader. Free of torch.
"""

import json
import re
from dataclasses import dataclass
from difflib import get_close_matches
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from eomt.config import TaskName
from eomt.errors import ModelError
from eomt.weights.hub import BUNDLED, BUNDLED_FOLDER, cached, fetch, remove, verify

__all__ = ["MODELS", "Published", "Score", "cached", "check", "fetch", "find", "remove", "suggest", "verify"]


REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


class Score(NamedTuple):
    """A published figure."""

    metric: str
    value: float
    """In the unit of the publication: percent."""
    source: str
    """Page that states it."""


@dataclass(frozen=True)
class Published:
    """What is known of a model before any of its files is read."""

    name: str
    """Also the name of its recipe, where it has one: not the bundled model, and not what cannot be loaded."""
    task: TaskName
    dataset: str
    classes: str | None
    """Name of the class table; None where the model's own files list the classes."""
    backbone: str | None
    """timm name; None where timm has no such model."""
    image_size: tuple[int, int]
    """Height and width of the view, in pixels."""
    patch_size: int | None
    """In pixels. None, as the next two, where the authors published weights but no configuration."""
    num_queries: int | None
    num_joint_blocks: int | None
    score: Score | None
    parameters: float | None
    """Millions, counted here; where they were published, that is the same number."""
    code_license: str
    weights_license: str
    repository: str | None
    """Where the files are, on the Hugging Face hub; None: they come with the package."""
    class_names: tuple[str, ...] = ()
    """What the classes are called, where no table has them."""
    base: str | None = None
    """Repository of the weights that the authors' file holds differences from; None: the file is whole."""
    note: str = ""
    """What to know before loading it or comparing its score."""

    @property
    def loadable(self) -> bool:
        """Tell whether there is an architecture for it here."""
        return self.backbone is not None


Row = tuple[str, TaskName, str, int, str, int | None, float, str]
"""Data set, task, size, side of the view, suffix of the name, million parameters, score, authors' repository."""

# The names of repositories are as published: they do not follow from ours.
DINOV2: tuple[Row, ...] = (
    ("coco", "panoptic", "small", 640, "_2x", 24, 46.7, "coco_panoptic_eomt_small_640_2x"),
    ("coco", "panoptic", "base", 640, "_2x", 93, 51.6, "coco_panoptic_eomt_base_640_2x"),
    ("coco", "panoptic", "large", 640, "", 316, 56.0, "coco_panoptic_eomt_large_640"),
    ("coco", "panoptic", "giant", 640, "", 1164, 57.0, "coco_panoptic_eomt_giant_640"),
    ("coco", "panoptic", "7b", 640, "", None, 58.4, "coco_panoptic_eomt_7b_640"),
    ("coco", "panoptic", "large", 1280, "", 322, 58.3, "coco_panoptic_eomt_large_1280"),
    ("coco", "panoptic", "giant", 1280, "", 1171, 59.2, "coco_panoptic_eomt_giant_1280"),
    ("ade20k", "panoptic", "large", 640, "", 316, 50.6, "ade20k_panoptic_eomt_large_640"),
    ("ade20k", "panoptic", "giant", 640, "", 1164, 51.3, "ade20k_panoptic_eomt_giant_640"),
    ("ade20k", "panoptic", "large", 1280, "", 322, 51.7, "ade20k_panoptic_eomt_large_1280"),
    ("ade20k", "panoptic", "giant", 1280, "", 1171, 52.8, "ade20k_panoptic_eomt_giant_1280"),
    ("cityscapes", "semantic", "large", 1024, "", 319, 84.2, "cityscapes_semantic_eomt_large_1024"),
    ("ade20k", "semantic", "large", 512, "", 316, 58.4, "ade20k_semantic_eomt_large_512"),
    ("coco", "instance", "large", 640, "", 316, 45.2, "coco_instance_eomt_large_640"),
    ("coco", "instance", "large", 1280, "", 322, 48.8, "coco_instance_eomt_large_1280"),
)
DINOV3: tuple[Row, ...] = (
    ("coco", "panoptic", "small", 640, "_2x_dinov3", 23, 47.2, "coco_panoptic_eomt_small_640_dinov3"),
    ("coco", "panoptic", "base", 640, "_2x_dinov3", 92, 53.1, "coco_panoptic_eomt_base_640_dinov3"),
    ("coco", "panoptic", "large", 640, "_dinov3", 315, 56.8, "coco_panoptic_eomt_large_640_dinov3"),
    ("coco", "panoptic", "large", 1280, "_dinov3", 315, 58.9, "coco_panoptic_eomt_large_1280_dinov3"),
    ("ade20k", "semantic", "large", 512, "_dinov3", 315, 59.5, "ade_semantic_eomt_large_512_dinov3"),
    ("coco", "instance", "large", 640, "_dinov3", 315, 45.9, "coco_instance_eomt_large_640_dinov3"),
    ("coco", "instance", "large", 1280, "_dinov3", 315, 49.9, "coco_instance_eomt_large_1280_dinov3"),
)

ZOO = "https://github.com/tue-mps/eomt/blob/master/model_zoo/"
METRICS: dict[TaskName, str] = {"panoptic": "PQ", "instance": "AP", "semantic": "mIoU"}
JOINT_BLOCKS = {"small": 3, "base": 3, "large": 4, "giant": 5}

DELTA = "The authors' file holds differences from the base weights, which are needed too."
LONGER = "Trained for 24 epochs, twice the usual schedule."
FROM_COCO = "Trained from weights of a COCO panoptic model."
PYCOCOTOOLS = "AP by pycocotools; the authors saw about 0.4 less with TorchMetrics."
NO_ARCHITECTURE = (
    "Cannot be loaded: timm has no such backbone (facebook/webssl-dino7b-full8b-518), and the authors published "
    "no configuration."
)

# The cards of the authors' repositories could not be read when this was written; the backbones' terms are known.
DINOV2_LICENSE = "see its card; backbone Apache-2.0"
DINOV3_LICENSE = "see its card; backbone DINOv3 License (gated)"
WEBSSL_LICENSE = "see its card; backbone: see card of Web-SSL"


def _published(row: Row, dinov3: bool) -> Published:
    """Spell out a row of the authors' pages."""
    dataset, task, size, side, suffix, parameters, value, repository = row
    name = f"{dataset}_{task}_{size}_{side}{suffix}"
    known = size in JOINT_BLOCKS
    # The DINOv3 variant with biases of query and value: fine-tuned, they are not zero.
    backbone = f"vit_{size}_patch16_dinov3_qkvb" if dinov3 else f"vit_{size}_patch14_reg4_dinov2"
    notes = {
        DELTA: dinov3,
        LONGER: "_2x" in suffix,
        FROM_COCO: (dataset, task) == ("ade20k", "panoptic"),
        PYCOCOTOOLS: task == "instance" and not dinov3,  # the page of DINOv3 does not say by what
        NO_ARCHITECTURE: not known,
    }
    return Published(
        name=name,
        task=task,
        dataset=dataset,
        classes=f"{dataset}_{task}",
        backbone=backbone if known else None,
        image_size=(side, side),
        patch_size=16 if known else None,
        num_queries=(100 if task == "semantic" else 200) if known else None,
        num_joint_blocks=JOINT_BLOCKS.get(size),
        score=Score(METRICS[task], value, f"{ZOO}{'dinov3' if dinov3 else 'dinov2'}.md"),
        parameters=None if parameters is None else float(parameters),
        code_license="MIT",
        weights_license=DINOV3_LICENSE if dinov3 else DINOV2_LICENSE if known else WEBSSL_LICENSE,
        repository=f"tue-mps/{repository}",
        base=f"facebook/dinov3-vit{size[0]}16-pretrain-lvd1689m" if dinov3 else None,
        note=" ".join(note for note, holds in notes.items() if holds),
    )


def _bundled() -> Published:
    """Describe the model that comes with the package, as its own file does."""
    config: dict[str, Any] = json.loads((BUNDLED_FOLDER / "config.json").read_text(encoding="utf-8"))
    height, width = config["model"]["image_size"]
    return Published(
        name="bundled",
        task=config["task"],
        dataset="nuclei",
        classes=None,
        backbone=config["model"]["backbone"],
        image_size=(height, width),
        patch_size=config["model"]["patch_size"],
        num_queries=config["model"]["num_queries"],
        num_joint_blocks=config["model"]["num_joint_blocks"],
        score=None,
        parameters=_count_parameters(BUNDLED_FOLDER / config["weights"]["file"]) / 1e6,
        code_license="MIT",
        weights_license="see NOTICE; backbone Apache-2.0",
        repository=None,
        class_names=tuple(category["name"] for category in config["categories"]),
        note="Comes with the package; docs/nuclei.md has its scores.",
    )


def _count_parameters(weights: Path) -> int:
    """Count by the header of a safetensors file, but for the scales of weights in 8 bits."""
    with weights.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(prod(entry["shape"]) for name, entry in header.items() if not name.endswith((":scale", "__")))


MODELS: dict[str, Published] = {
    model.name: model
    for model in (
        *(_published(row, dinov3=False) for row in DINOV2),
        *(_published(row, dinov3=True) for row in DINOV3),
        _bundled(),
    )
}
"""The models by name, in the order of the authors' pages; the bundled one last."""


def find(name: str) -> Published | None:
    """Find a model by its name or its repository; case does not matter, and hyphens are underscores."""
    key = _plain(name)
    names = {
        alias: model for model in MODELS.values() for alias in (model.name, _plain(model.repository or model.name))
    }
    return names.get(key)


def check(source: str | Path) -> None:
    """Raise ModelError for what is neither a path, nor a published name, nor OWNER/NAME of a repository.

    Costs nothing: to be asked before anything heavy is imported.
    """
    path = Path(source)
    if path.exists() or source == BUNDLED or find(str(source)):
        return
    if REPOSITORY.fullmatch(str(source)) and not path.parent.exists():
        return
    near = suggest(str(source))
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ModelError(
        f"model {str(source)[:200]}: no such folder or file, and no published model of this name{hint}\n"
        "Give the folder of a run or of a model, a file of weights, OWNER/NAME of a repository, or a name that "
        "eomt models ls lists."
    )


def suggest(name: str) -> list[str]:
    """Give the names that look most like one that is not there, best first."""
    return get_close_matches(_plain(name.rpartition("/")[2]).replace("_eomt", ""), MODELS, n=3, cutoff=0.6)


def _plain(name: str) -> str:
    return name.strip().casefold().replace("-", "_")
