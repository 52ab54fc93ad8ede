"""One way from an image to a prediction, for users, validation, servers and exported models alike.

Fits the image, or its tiles, to the model's view, runs the model, and decodes. How views lie is `geometry`'s
business, what logits mean is `decode`'s, and how tiles go together `tiles`'.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from eomt.categories import CLASS_TABLES, Category
from eomt.config import Precision, TaskName, Thresholds
from eomt.data.images import read_image
from eomt.devices import choose_device, choose_precision, computing
from eomt.errors import ConfigError
from eomt.inference import decode
from eomt.inference.geometry import Fit, Tiling, plan, split
from eomt.inference.tiles import lay
from eomt.models.ladder import Model
from eomt.tasks import TASKS
from eomt.timing import stage
from eomt.types import Prediction, QueryLogits
from eomt.weights import checkpoint
from eomt.weights.checkpoint import ModelInfo, Storage
from eomt.weights.hub import BUNDLED
from eomt.weights.source import Classes, Told, load

__all__ = ["ImageLike", "Segmenter"]

ImageLike = Image.Image | NDArray[np.uint8] | Path | str | bytes


class Segmenter:
    """A model with all that is needed to use it.

    `model` is the network: called on a uint8 batch [b 3 h w] it gives a list of `QueryLogits`. It stays in the
    precision that it was saved in (fp32); `precision` acts inside the calls.
    """

    def __init__(self, model: Model, info: ModelInfo, device: str | torch.device = "auto") -> None:
        self.device = choose_device(str(device))
        self.model = model.to(self.device).eval()
        self.info = info

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = BUNDLED,
        device: str = "auto",
        *,
        task: TaskName | None = None,
        classes: Classes | None = None,
        image_size: tuple[int, int] | None = None,
        base: str | None = None,
    ) -> "Segmenter":
        """Load a model: a folder of ours or a run, one of Hugging Face's layout, or a file of the authors'.

        `source` may also be `bundled`, a published name (`eomt models ls`) or OWNER/NAME of a repository; these
        are fetched unless they are in the cache. The rest says what a file leaves open, or otherwise: the task,
        the classes (name of a class table, path of a categories.json or classes.txt, or categories), the size of
        the view, to which positions are resampled; `base` is where DINOv3's own weights are, for the authors'
        files that hold differences from them. Raises ModelError or ConfigError.

        >>> segmenter = Segmenter.from_pretrained("bundled", device="cpu")
        >>> [category.name for category in segmenter.categories]
        ['nucleus', 'background']
        """
        model, info = load(source, Told(task=task, classes=classes, image_size=image_size, base=base))
        return cls(model, info, device)

    def save(self, folder: str | Path, storage: Storage = "fp32") -> None:
        """Write the model so that `from_pretrained` reads it; `storage` may shrink the file (fp16, int8)."""
        checkpoint.save(self.model, self.info, Path(folder), storage)

    @property
    def task(self) -> TaskName:
        """The task that is meant when a call names none. Raises ConfigError where the model's files name none."""
        return self.check_task(None)

    @property
    def categories(self) -> tuple[Category, ...]:
        """The classes that the model knows. Raises ConfigError where its files do not name them."""
        if not self.info.categories:
            count = self.model.class_head.out_features - 1
            raise ConfigError(
                f"the model's file does not say what its {count} classes are: give --classes (classes=), one of "
                f"{', '.join(CLASS_TABLES)} or a categories.json or classes.txt"
            )
        return self.info.categories

    @property
    def thresholds(self) -> Thresholds:
        """The thresholds that are used when a call gives none."""
        return self.info.thresholds

    def merge_tokens(self, threshold: float | None) -> None:
        """From now on, merge patches that look alike to the model: faster, and a little less exact.

        `threshold` is the cosine similarity from which on tokens are merged, such as 0.98; None: none are (ALGM,
        arXiv 2406.09936). Raises ConfigError for a model that cannot do it.
        """
        self.model.merge_tokens(threshold)

    def predict(
        self,
        image: ImageLike,
        *,
        task: TaskName | None = None,
        thresholds: Thresholds | None = None,
        image_size: tuple[int, int] | None = None,
        zoom: float | None = None,
        precision: Precision = "auto",
    ) -> Prediction:
        """Segment one image: a path, encoded bytes, a PIL image or an array [h w 3] of RGB, 0-255.

        `image_size` (height, width) overrides the size of the view that the model sees. `zoom` overrides how many
        of its pixels show one of the image: larger images are then seen in overlapping tiles, and what is found in
        them is joined; 0 shows the whole image at once. The prediction is in the pixels of the upright image.
        """
        return self.predict_batch(
            [image], task=task, thresholds=thresholds, image_size=image_size, zoom=zoom, precision=precision
        )[0]

    def predict_batch(
        self,
        images: Sequence[ImageLike],
        *,
        task: TaskName | None = None,
        thresholds: Thresholds | None = None,
        image_size: tuple[int, int] | None = None,
        zoom: float | None = None,
        precision: Precision = "auto",
        batch_size: int = 8,
    ) -> list[Prediction]:
        """Segment images of any sizes, `batch_size` views at a time through the model.

        So many images are open at once; of the others, only their predictions are held.
        """
        chosen = self.check_task(task)
        if batch_size < 1:
            raise ConfigError(f"batch size {batch_size}: at least 1")
        predictions: list[Prediction] = []
        for start in range(0, len(images), batch_size):
            part = images[start : start + batch_size]
            pixels = [torch.from_numpy(read_image(image)).permute(2, 0, 1) for image in part]
            found = self.segment(
                pixels,
                [chosen],
                thresholds=thresholds,
                image_size=image_size,
                zoom=zoom,
                precision=precision,
                batch_size=batch_size,
            )
            predictions += [tasks[chosen] for tasks in found]
        return predictions

    def segment(
        self,
        images: Sequence[UInt8[Tensor, "3 _h _w"]],
        tasks: Sequence[TaskName],
        *,
        thresholds: Thresholds | None = None,
        image_size: tuple[int, int] | None = None,
        zoom: float | None = None,
        precision: Precision = "auto",
        batch_size: int = 8,
    ) -> list[dict[TaskName, Prediction]]:
        """Do several tasks on each image, with one look where they share a fit."""
        limits = thresholds or self.thresholds
        rows = self.segment_each(
            images,
            [(task, limits) for task in tasks],
            image_size=image_size,
            zoom=zoom,
            precision=precision,
            batch_size=batch_size,
        )
        return [dict(zip(tasks, row, strict=True)) for row in rows]

    def segment_each(
        self,
        images: Sequence[UInt8[Tensor, "3 _h _w"]],
        wanted: Sequence[tuple[TaskName, Thresholds]],
        *,
        image_size: tuple[int, int] | None = None,
        zoom: float | None = None,
        precision: Precision = "auto",
        batch_size: int = 8,
    ) -> list[list[Prediction]]:
        """Decode each image for each task at its thresholds, with one look where tasks share a fit."""
        view = image_size or self.info.model.image_size
        zoom = self.info.model.zoom if zoom is None else zoom
        fits: list[Fit] = [
            "contain" if zoom else TASKS[task].fit for task, _ in wanted
        ]  # a tile is one view in any fit
        sizes = [(image.shape[1], image.shape[2]) for image in images]
        windows = [lay(size, view, zoom) if zoom else [(0, 0, *size)] for size in sizes]
        found: list[list[list[Prediction]]] = [[[] for _ in wanted] for _ in images]
        tiles = [(number, window) for number, own in enumerate(windows) for window in own]
        for start in range(0, len(tiles), batch_size):
            part = tiles[start : start + batch_size]
            shown = [images[number][:, y : y + h, x : x + w] for number, (y, x, h, w) in part]
            for fit in dict.fromkeys(fits):
                seen = self.look(
                    shown, fit, image_size=view, zoom=zoom, precision=precision, batch_size=batch_size
                )
                for (number, _), (logits, tiling) in zip(part, seen, strict=True):
                    for place, (task, limits) in enumerate(wanted):
                        if fits[place] == fit:
                            prediction = TASKS[task].decode(logits, tiling, self.categories, limits)
                            found[number][place].append(prediction)
        return [
            [
                TASKS[task].join(parts, own, size, limits)
                for parts, (task, limits) in zip(each, wanted, strict=True)
            ]
            for each, own, size in zip(found, windows, sizes, strict=True)
        ]

    def confidence(
        self,
        image: ImageLike,
        *,
        image_size: tuple[int, int] | None = None,
        zoom: float | None = None,
        precision: Precision = "auto",
    ) -> Float[np.ndarray, "h w"]:
        """Tell of every pixel how sure the model is of its likeliest class, from 0 to 1; low where it knows none.

        For `eomt.evaluation.anomalies`. Of tiles that overlap, a pixel has the mean. The arguments are those of
        `predict`.
        """
        pixels = torch.from_numpy(read_image(image)).permute(2, 0, 1)
        size, view = (pixels.shape[1], pixels.shape[2]), image_size or self.info.model.image_size
        zoom = self.info.model.zoom if zoom is None else zoom
        total, seen = (np.zeros(size, dtype=np.float32) for _ in range(2))
        for y, x, h, w in lay(size, view, zoom) if zoom else [(0, 0, *size)]:
            part = pixels[:, y : y + h, x : x + w]
            fit: Fit = "contain" if zoom else "cover"
            [(logits, tiling)] = self.look([part], fit, image_size=view, zoom=zoom, precision=precision)
            total[y : y + h, x : x + w] += decode.confidence(logits, tiling, self.categories)
            seen[y : y + h, x : x + w] += 1
        return total / seen

    def check_task(self, task: str | None) -> TaskName:
        """Give the task that is asked for, or the model's own. Raises ConfigError for an unknown one, or none."""
        chosen = task or self.info.task
        if chosen is None:
            raise ConfigError(f"the model's file does not say its task: give --task (task=), {', '.join(TASKS)}")
        if chosen not in TASKS:
            raise ConfigError(f"task {task!r}: known are {', '.join(TASKS)}")
        return chosen

    @torch.inference_mode()
    def look(
        self,
        images: Sequence[Tensor],
        fit: Literal["contain", "cover"],
        *,
        image_size: tuple[int, int] | None = None,
        zoom: float | None = None,
        precision: Precision = "auto",
        batch_size: int = 8,
    ) -> list[tuple[QueryLogits, Tiling]]:
        """Show images, uint8 [3 h w], to the model: the query logits of each one's views, and how these lie.

        Several tasks may be decoded from one look where they share the fit. `zoom`, where it is given and not 0,
        is the scale instead of the fit's.
        """
        view = image_size or self.info.model.image_size
        tilings = [plan((image.shape[1], image.shape[2]), view, fit, zoom) for image in images]
        views = torch.cat([split(image, tiling) for image, tiling in zip(images, tilings, strict=True)])
        dtype = choose_precision(precision, self.device)
        parts: list[QueryLogits] = []
        with computing(self.device, dtype):
            for chunk in torch.split(views, batch_size):
                with stage("forward"):
                    parts.append(self.model(chunk.to(self.device))[-1])
        logits = parts[0] if len(parts) == 1 else QueryLogits(*map(torch.cat, zip(*parts, strict=True)))
        counts = [len(tiling.corners) for tiling in tilings]
        split_parts = (torch.split(part, counts) for part in logits)
        return [(QueryLogits(*each), tiling) for *each, tiling in zip(*split_parts, tilings, strict=True)]
