"""What is benchmarked: a model in a setting, ready to run through the calls that users make."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from eomt.benchmark.scene import Confident, draw_photo
from eomt.categories import Category, class_table
from eomt.config import ModelConfig, Precision, TaskName
from eomt.data.images import read_image
from eomt.devices import choose_precision, computing
from eomt.inference.geometry import plan
from eomt.inference.segmenter import Segmenter
from eomt.inference.tiles import lay
from eomt.models import ladder
from eomt.models.backbone import Backbone
from eomt.models.ladder import Model
from eomt.tasks import TASKS
from eomt.timing import stage
from eomt.types import Prediction
from eomt.weights.checkpoint import ModelInfo

__all__ = ["BareViT", "Compile", "Setting", "Subject", "bare_run", "build", "prepare"]

Compile = Literal["off", "default", "reduce-overhead", "max-autotune"]
CLASSES: dict[TaskName, str] = {
    "panoptic": "coco_panoptic",
    "instance": "coco_instance",
    "semantic": "ade20k_semantic",
}
"""Classes of a model with random weights."""


@dataclass(frozen=True)
class Setting:
    """A model and how it is run. A process of its own can be handed it."""

    model: str | ModelConfig
    """What `Segmenter.from_pretrained` loads; or an architecture, which gets random weights."""
    task: TaskName | None = None
    """None: the model's own; panoptic for random weights."""
    photo: str | tuple[int, int] = (960, 1280)
    """An image file, or the height and width of a drawn picture."""
    image_size: tuple[int, int] | None = None
    """Height and width of the view; None: the model's own."""
    batch: int = 1
    precision: Precision = "auto"
    compile: Compile = "off"
    merge: float | None = None
    """Similarity from which on tokens are merged; None: none are."""
    device: str = "auto"
    confident: int = 20
    """Queries that are sure, where weights are random."""
    bare: bool = False
    """The backbone alone, without queries: its `forward_features`."""


@dataclass
class Subject:
    """A loaded model with its pictures; called, it predicts them all."""

    setting: Setting
    segmenter: Segmenter
    photos: list[UInt8[NDArray[Any], "h w 3"]]
    sure: Confident | None = None
    """What replaces what random weights say."""

    def __post_init__(self) -> None:
        self._run = bare_run(self) if self.setting.bare else self._predict

    def __call__(self) -> list[Prediction]:
        """Do what is timed: from pixels to predictions, or through the bare ViT to none."""
        return self._run()

    def _predict(self) -> list[Prediction]:
        setting = self.setting
        return self.segmenter.predict_batch(
            self.photos,
            task=setting.task,
            image_size=setting.image_size,
            precision=setting.precision,
            batch_size=setting.batch,
        )

    @property
    def view(self) -> tuple[int, int]:
        """Height and width of what the model sees."""
        return self.setting.image_size or self.segmenter.info.model.image_size

    @property
    def dtype(self) -> torch.dtype:
        """What matrix products are computed in."""
        return choose_precision(self.setting.precision, self.segmenter.device)

    @property
    def shown(self) -> tuple[float, float]:
        """The shares of a view's height and width that the first photo takes."""
        height, width = self.photos[0].shape[:2]
        tiling = plan((height, width), self.view, TASKS[self.segmenter.check_task(self.setting.task)].fit)
        down, across = (min(1.0, scaled / side) for scaled, side in zip(tiling.scaled, tiling.view, strict=True))
        return down, across

    @property
    def view_count(self) -> int:
        """How many views the model sees of all photos: several of one that is seen in tiles or windows."""
        sizes = [photo.shape[:2] for photo in self.photos]
        zoom = self.segmenter.info.model.zoom
        if zoom:
            return sum(len(lay(size, self.view, zoom)) for size in sizes)
        fit = TASKS[self.segmenter.check_task(self.setting.task)].fit
        return sum(len(plan(size, self.view, fit)) for size in sizes)

    def views(self) -> UInt8[Tensor, "b 3 h w"]:
        """Give as many views as the model sees, on the device; what they show does not matter to time."""
        height, width = self.view
        views = [draw_photo((height, width), seed) for seed in range(self.view_count)]
        return torch.stack([torch.from_numpy(view).permute(2, 0, 1) for view in views]).to(self.segmenter.device)


def prepare(setting: Setting, beside: Subject | None = None) -> Subject:
    """Load or make the model, and the pictures. Raises ConfigError, ModelError, DataError.

    Where another subject has the same model in another precision, or with its queries, the two share it.
    """
    if beside is not None and replace(beside.setting, precision=setting.precision, bare=setting.bare) == setting:
        return Subject(setting, beside.segmenter, beside.photos, beside.sure)
    photos = [
        read_image(setting.photo) if isinstance(setting.photo, str) else draw_photo(setting.photo, seed)
        for seed in range(setting.batch)
    ]
    segmenter = _segmenter(setting)
    segmenter.merge_tokens(setting.merge)
    if setting.compile != "off":
        compiled = torch.compile(segmenter.model, mode=setting.compile)
        segmenter.model = cast(Model, compiled)  # a module that is called alike
    subject = Subject(setting, segmenter, photos)
    if isinstance(setting.model, ModelConfig) and not setting.bare:
        subject.sure = Confident(setting.confident, subject.shown)
        segmenter.model.register_forward_hook(subject.sure)
    return subject


def _segmenter(setting: Setting) -> Segmenter:
    if not isinstance(setting.model, ModelConfig):
        return Segmenter.from_pretrained(
            setting.model, setting.device, task=setting.task, image_size=setting.image_size
        )
    task = setting.task or "panoptic"
    categories: tuple[Category, ...] = class_table(CLASSES[task])
    torch.manual_seed(0)
    config = setting.model
    return Segmenter(build(config, len(categories)), ModelInfo(task, categories, config), setting.device)


def build(config: ModelConfig, num_classes: int) -> Model:
    """Make a model of this architecture, without the backbone's weights."""
    return ladder.build(replace(config, weights="none"), num_classes)


class BareViT(nn.Module):
    """A model's backbone without queries, on the same weights: pixels to tokens by timm's `forward_features`."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        tensors = [*backbone.parameters(), *backbone.buffers()]
        self.backbone = copy.deepcopy(backbone, {id(tensor): tensor for tensor in tensors})  # all but these
        self.backbone.prepend(0, 0)  # no queries stand in front of any block

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Give the tokens after the final norm."""
        mean = self.backbone.pixel_mean
        tokens: Tensor = self.backbone.vit.forward_features(
            (images.to(mean.dtype) - mean) / self.backbone.pixel_std
        )
        return tokens


def bare_run(subject: Subject) -> Callable[[], list[Prediction]]:
    """Give what sends views through the bare ViT of a subject, in its precision."""
    bare: Callable[[Tensor], Tensor] = BareViT(subject.segmenter.model.backbone).eval()
    setting, device = subject.setting, subject.segmenter.device
    if setting.compile != "off":
        bare = torch.compile(bare, mode=setting.compile)
    views = subject.views()

    @torch.inference_mode()
    def run() -> list[Prediction]:
        with computing(device, subject.dtype), stage("forward"):
            for part in torch.split(views, setting.batch):
                bare(part)
        return []

    return run
