"""Image segmentation with a plain Vision Transformer: the Encoder-only Mask Transformer (EoMT, CVPR 2025).

>>> import eomt
>>> segmenter = eomt.Segmenter.from_pretrained("bundled")        # or a run folder
>>> prediction = segmenter.predict("cells.png")                   # doctest: +SKIP

The names below are promised; everything else may change. Importing the package does not import torch.
"""

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eomt.categories import Category
    from eomt.config import Recipe, Thresholds
    from eomt.data.detect import open_data
    from eomt.errors import EomtError
    from eomt.evaluation.evaluate import Evaluation, evaluate
    from eomt.inference.segmenter import Segmenter
    from eomt.models.eomt import EoMT
    from eomt.training.loop import TrainResult, train
    from eomt.types import Dataset, Prediction, QueryLogits, Sample, Segment, Segments, Target

_HOMES = {
    "eomt.categories": ("Category",),
    "eomt.config": ("Recipe", "Thresholds"),
    "eomt.data.detect": ("open_data",),
    "eomt.errors": ("EomtError",),
    "eomt.evaluation.evaluate": ("Evaluation", "evaluate"),
    "eomt.inference.segmenter": ("Segmenter",),
    "eomt.models.eomt": ("EoMT",),
    "eomt.training.loop": ("TrainResult", "train"),
    "eomt.types": ("Dataset", "Prediction", "QueryLogits", "Sample", "Segment", "Segments", "Target"),
}

__all__ = [
    "Category",
    "Dataset",
    "EoMT",
    "EomtError",
    "Evaluation",
    "Prediction",
    "QueryLogits",
    "Recipe",
    "Sample",
    "Segment",
    "Segmenter",
    "Segments",
    "Target",
    "Thresholds",
    "TrainResult",
    "evaluate",
    "open_data",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name == "__version__":
        return metadata.version("eomt")
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'eomt' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _refuse_clash() -> None:
    """Stop where another project has been installed into the same folder: files of the two would be mixed."""
    try:
        metadata.distribution("attr-eomt")
    except metadata.PackageNotFoundError:
        return
    raise ImportError(
        "the package attr-eomt is installed too, and it uses the same import name, eomt: each overwrites files of "
        "the other. Keep one in this environment: pip uninstall attr-eomt eomt, then install the one you want"
    )


_refuse_clash()
