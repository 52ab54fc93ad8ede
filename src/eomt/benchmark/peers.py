"""Our path beside others' on the same weights and image: equality of the results first, then time and memory.

Others are Hugging Face's EoMT, in this process, and the authors' code, in one of its own (`authors`). What they
need is imported only here and only when it is asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor, nn

from eomt.benchmark.costs import Peak, peak_memory
from eomt.benchmark.findings import FINDINGS, Findings, Ids
from eomt.benchmark.model import machine_facts
from eomt.benchmark.rounds import Clock, Stages, ratios, time_interleaved
from eomt.benchmark.scene import confident_logits
from eomt.benchmark.subject import Setting, prepare
from eomt.config import ModelConfig, TaskName
from eomt.devices import waiting
from eomt.errors import CheckError, ConfigError
from eomt.inference.geometry import Tiling, plan, split
from eomt.tasks import TASKS
from eomt.timing import stage
from eomt.types import Prediction, QueryLogits
from eomt.weights import hugging_face

__all__ = ["Equality", "HuggingFace", "Logits", "Other", "Ours", "Peer", "PeersReport", "check", "compare"]

Logits = tuple[Float[Tensor, "1 q lh lw"], Float[Tensor, "1 q classes"]]
"""Masks and classes of all queries."""
TOLERANCE = 1e-4
"""Of the largest logit, in fp32: more is another model."""
SEEDS = range(3)
"""Scenes whose decoding is compared."""


@dataclass(frozen=True)
class Equality:
    """How far one peer's results agree with ours, of which the same logits become the same: `check` sees to it."""

    logits: float
    """Largest difference of mask and class logits in fp32 from the same view, over the largest logit."""
    whole: float
    """How far whole runs, as they are timed, agree: 1 where they give the same."""
    unit: str
    """What this is a share of: pixels or instances."""

    def to_json(self) -> dict[str, float | str]:
        """Give all by name."""
        return {"logits": self.logits, "whole": self.whole, "unit": self.unit}


@dataclass(frozen=True)
class Peer:
    """What was measured of one side."""

    name: str
    version: str
    times: Stages
    memory: Peak | None
    equality: Equality | None
    """With ours; None for ours."""

    def to_json(self) -> dict[str, Any]:
        """Give all by name; times in milliseconds, memory in MiB."""
        return {
            "version": self.version,
            "milliseconds": {stage: times.to_json(1e3) for stage, times in self.times.items()},
            "memory_mib": None if self.memory is None else self.memory.to_json(),
            "equality": None if self.equality is None else self.equality.to_json(),
        }


@dataclass(frozen=True)
class PeersReport:
    """Ours and the others', on one model and one image."""

    machine: dict[str, Any]
    clock: Clock
    setting: Setting
    task: TaskName
    dtype: str
    ours: Peer
    others: tuple[Peer, ...]

    def ratios(self, other: Peer) -> Stages:
        """Ours over another's, stage by stage, of pairs."""
        return ratios(self.ours.times, other.times)

    def to_json(self) -> dict[str, Any]:
        """Give all by name."""
        model, photo = self.setting.model, self.setting.photo
        return {
            "machine": self.machine,
            "clock": self.clock,
            "model": model.backbone if isinstance(model, ModelConfig) else model,
            "weights": "random" if isinstance(model, ModelConfig) else "own",
            "photo": photo if isinstance(photo, str) else list(photo),
            "task": self.task,
            "precision": self.dtype,
            "ours": self.ours.to_json(),
            "others": {peer.name: peer.to_json() for peer in self.others},
            "ratios": {
                peer.name: {name: times.to_json() for name, times in self.ratios(peer).items()}
                for peer in self.others
            },
        }


class Ours:
    """Our path: what `Segmenter.predict` does."""

    def __init__(self, setting: Setting) -> None:
        self.subject = prepare(setting)
        segmenter = self.subject.segmenter
        self.task = segmenter.check_task(setting.task)
        if self.task not in FINDINGS:
            raise ConfigError(f"task {self.task}: peers are compared by {' and '.join(FINDINGS)} results")
        # Others see an image in one view, so ours does, too, where it would see it in tiles.
        segmenter.info = replace(segmenter.info, model=replace(segmenter.info.model, zoom=None))
        if isinstance(setting.model, ModelConfig):
            draw_weights(segmenter.model)
        size = self.subject.photos[0].shape[:2]
        self.tiling: Tiling = plan((size[0], size[1]), self.subject.view, TASKS[self.task].fit)
        (prediction,) = self()
        self.found = FINDINGS[self.task].of(prediction)
        """What a whole run gives."""

    def __call__(self) -> list[Prediction]:
        """Predict the photo."""
        return self.subject()

    @property
    def photo(self) -> UInt8[NDArray[Any], "h w 3"]:
        """The image."""
        return self.subject.photos[0]

    @property
    def sure(self) -> Logits | None:
        """What all sides decode in the place of what random weights say; None where weights are trained."""
        made = None if self.subject.sure is None else self.subject.sure.last
        return None if made is None else logits_of(made)

    def view(self) -> UInt8[Tensor, "1 3 h w"]:
        """Give the photo as the model sees it."""
        image = torch.from_numpy(self.photo).permute(2, 0, 1)
        return split(image, self.tiling).to(self.subject.segmenter.device)

    @torch.inference_mode()
    def forward(self, view: UInt8[Tensor, "1 3 h w"]) -> QueryLogits:
        """Give what the model says of a view in fp32, though it be random."""
        return self.subject.segmenter.model.forward(view)[-1]  # hooks, which replace it, are passed by

    def decode(self, logits: QueryLogits) -> Findings:
        """Turn what the model says into what it found."""
        segmenter = self.subject.segmenter
        decode = TASKS[self.task].decode
        return FINDINGS[self.task].of(decode(logits, self.tiling, segmenter.categories, segmenter.thresholds))


def draw_weights(model: nn.Module) -> None:
    """Draw weights with which every part counts: LayerScale begins too small for differences to be seen."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            std = 0.3 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
            mean = float("norm" in name and name.endswith("weight"))
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std + mean)


def logits_of(logits: QueryLogits) -> Logits:
    """Compute the masks of all queries, as decoding does those of a few; in fp32."""
    every = torch.arange(logits.mask_embeddings.shape[1], device=logits.features.device)
    return logits.masks(0, every)[None].float(), logits.class_logits.float()


@runtime_checkable
class Other(Protocol):
    """Another implementation, with our weights."""

    name: str
    version: str

    def forward(self, view: UInt8[Tensor, "1 3 h w"]) -> Logits:
        """Give what its model says of a view, in fp32."""

    def settle(self) -> None:
        """Go over to the precision that is timed."""

    def __call__(self) -> object:
        """Do what is timed: from the photo to what is found in it."""

    def decode(self, logits: Logits) -> Findings:
        """Turn what the model says into what it found."""

    def found(self) -> Findings:
        """Give what a whole run gives."""

    def peak(self) -> Peak | None:
        """Measure the memory of a run, in a process of its own."""


class HuggingFace:
    """EoMT of transformers: its processor, its model with all weights in the precision, its post-processing.

    What it decodes is in fp32. Raises ConfigError where transformers is not installed, and for instances, which it
    takes for something else.
    """

    name = "transformers"

    def __init__(self, ours: Ours) -> None:
        left_out = FINDINGS[ours.task].left_out
        if self.name in left_out:
            raise ConfigError(f"task {ours.task}: {self.name} is not compared: {left_out[self.name]}")
        try:
            import transformers
            from transformers import AutoModelForUniversalSegmentation, EomtImageProcessor
        except ImportError as error:
            raise ConfigError(
                f"eomt benchmark peers needs transformers, 5.0 or later ({error}): pip install 'transformers>=5'"
            ) from error
        self.version = f"transformers {transformers.__version__}"
        self.setting, self.dtype, self.photo = ours.subject.setting, ours.subject.dtype, ours.photo
        segmenter = ours.subject.segmenter
        self.device, self.thresholds = segmenter.device, segmenter.thresholds
        self.stuff = [label for label, category in enumerate(segmenter.categories) if not category.is_thing]
        info, state = segmenter.info, segmenter.model.state_dict()
        values = hugging_face.their_config(info, len(segmenter.categories))
        config = transformers.AutoConfig.for_model(**values)
        self.model = AutoModelForUniversalSegmentation.from_config(config).eval()
        self.model.load_state_dict(hugging_face.their_state(state, info, values))
        self.model.to(self.device)
        self.processor = EomtImageProcessor(**hugging_face.their_processor(info))
        self.sure = ours.sure

    @torch.inference_mode()
    def forward(self, view: UInt8[Tensor, "1 3 h w"]) -> Logits:
        """Give what the model says of a view, in fp32."""
        mean, std = (torch.tensor(part, device=view.device).view(3, 1, 1) for part in self._pixels())
        found = self.model(pixel_values=(view / 255 - mean) / std)
        return found.masks_queries_logits, found.class_queries_logits

    def _pixels(self) -> tuple[Sequence[float], Sequence[float]]:
        return self.processor.image_mean, self.processor.image_std

    def settle(self) -> None:
        """Convert all weights."""
        self.model.to(self.dtype)

    @torch.inference_mode()
    def __call__(self) -> Findings:
        """Prepare the photo, run the model, decode."""
        with stage("preprocess"):
            pixels = self.processor(images=self.photo, return_tensors="pt")["pixel_values"]
        with stage("forward"):
            found = self.model(pixel_values=pixels.to(self.device, self.dtype))
        logits = self.sure or (found.masks_queries_logits.float(), found.class_queries_logits.float())
        return self.decode(logits)

    found = __call__

    @stage("decode")
    def decode(self, logits: Logits) -> Findings:
        """Give the id of each pixel's segment, from 1 on."""
        outputs = SimpleNamespace(masks_queries_logits=logits[0], class_queries_logits=logits[1])
        (result,) = self.processor.post_process_panoptic_segmentation(
            outputs,
            [self.photo.shape[:2]],
            threshold=self.thresholds.score,
            mask_threshold=self.thresholds.mask,
            overlap_mask_area_threshold=self.thresholds.overlap,
            stuff_classes=self.stuff,
        )
        return Ids(result["segmentation"].cpu().numpy() + 1)

    def peak(self) -> Peak | None:
        """Measure the memory of a run, in a process of its own."""
        return peak_memory(prepare_hugging_face, self.setting, device=self.device)


def prepare_hugging_face(setting: Setting) -> HuggingFace:
    """Make Hugging Face's side alone: ours, of which it has its weights, is gone afterwards."""
    theirs = HuggingFace(Ours(setting))
    theirs.settle()
    return theirs


def check(ours: Ours, other: Other) -> Equality:
    """Compare the two sides. Raises CheckError where they are not the same model, or decode otherwise."""
    view = ours.view()
    with torch.backends.cudnn.flags(
        allow_tf32=False
    ):  # in which convolutions, not products, are rounded by default
        own = ours.forward(view)
        pairs = list(zip(logits_of(own), other.forward(view), strict=True))
    largest = max(float((mine - theirs).abs().max() / theirs.abs().max()) for mine, theirs in pairs)
    if not largest <= TOLERANCE:
        raise CheckError(f"{other.name}: logits differ by {largest:.2g} of the largest one: this is another model")
    scenes = [confident_logits(own, ours.subject.setting.confident, ours.subject.shown, seed) for seed in SEEDS]
    things, unit = FINDINGS[ours.task].things, FINDINGS[ours.task].unit
    if not all(ours.decode(scene).same(other.decode(logits_of(scene))) for scene in scenes):
        raise CheckError(
            f"{other.name}: the same logits become other {things}: times would be of two different things"
        )
    other.settle()
    found = other.found()
    share = ours.found.share(found)
    if ours.sure is not None and not ours.found.same(found):
        raise CheckError(f"{other.name}: whole runs agree in {share:.4%} of the {unit} only")
    return Equality(largest, share, unit)


def compare(
    setting: Setting,
    rounds: int,
    *,
    warm_up: int = 1,
    clock: Clock = "wall",
    with_memory: bool = True,
    others: Callable[[Ours], Sequence[Other]] = lambda ours: [HuggingFace(ours)],
    show: Callable[[int, int], None] = lambda done, of: None,
) -> PeersReport:
    """Check that all sides give the same, and time them in turns.

    Raises CheckError where they don't, and ConfigError where transformers is not installed.
    """
    ours = Ours(setting)
    theirs = list(others(ours))
    equalities = [check(ours, other) for other in theirs]
    runs: dict[str, Callable[[], object]] = {"ours": ours, **{other.name: other for other in theirs}}
    device = ours.subject.segmenter.device
    facts = machine_facts(device, clock)
    times = time_interleaved(runs, rounds, warm_up=warm_up, wait=waiting([device]), clock=clock, show=show)
    peaks = [other.peak() if with_memory else None for other in theirs]
    dtype = str(ours.subject.dtype).removeprefix("torch.")
    mine = Peer(
        "ours",
        f"eomt {facts['versions'].get('eomt', '')}",
        times["ours"],
        peak_memory(Ours, setting, device=device) if with_memory else None,
        None,
    )
    found = zip(theirs, peaks, equalities, strict=True)
    peers = tuple(Peer(o.name, o.version, times[o.name], peak, equality) for o, peak, equality in found)
    return PeersReport(facts, clock, setting, ours.task, dtype, mine, peers)
