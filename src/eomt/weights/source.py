"""Load a model from whatever names it: a folder, a file, a published name or a repository.

Finds out what is there and hands it to its reader; what the source leaves open, the caller may say.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eomt.categories import Category, class_table
from eomt.config import TaskName, num_upscale_blocks
from eomt.data.readers.folder import read_categories
from eomt.errors import ConfigError, EomtError, ModelError
from eomt.models.backbone import check, resample
from eomt.models.ladder import Model
from eomt.weights import authors, checkpoint, hub, hugging_face, zoo
from eomt.weights.architecture import num_classes
from eomt.weights.authors import Kind
from eomt.weights.checkpoint import ModelInfo
from eomt.weights.hub import BUNDLED
from eomt.weights.names import State
from eomt.weights.tensors import WEIGHTS_SUFFIXES, first_line
from eomt.weights.zoo import Published

__all__ = ["Classes", "Told", "load", "read"]

log = logging.getLogger("eomt")

Classes = str | Path | Sequence[Category]
"""Name of a class table, a categories.json or classes.txt, or the categories themselves."""


@dataclass(frozen=True)
class Told:
    """What the caller says about a model, in addition to what its files say, or against it."""

    task: TaskName | None = None
    """What it is asked when a call does not say."""
    classes: Classes | None = None
    """Its classes, in the order of their labels."""
    image_size: tuple[int, int] | None = None
    """Height and width of its view; positions are resampled to it."""
    patch_size: int | None = None
    """Side of its patches; the patch kernel is resampled to it."""
    base: str | None = None
    """DINOv3's own weights, for released DINOv3 models: a path, or auto for timm's copy."""
    kind: Kind = "auto"
    """Whether a file of the authors' with DINOv3 holds differences or absolute weights."""


def load(source: str | Path, told: Told | None = None) -> tuple[Model, ModelInfo]:
    """Load a model: ours, Hugging Face's, the authors', or a published one by name.

    `source` is a folder or a file; or `bundled`; or a name that `eomt models ls` lists, or OWNER/NAME of a
    repository: these are fetched unless they are in the cache. Raises ModelError or ConfigError.
    """
    info, state = read(source, told or Told())
    return checkpoint.build(info, state, source), info


def read(source: str | Path, told: Told) -> tuple[ModelInfo, State]:
    """Read a model's weights under our names, resampled to the view and the patches told, and what it is."""
    try:
        published = None if source == BUNDLED or Path(source).exists() else zoo.find(str(source))
        if published is not None:
            told = _with_published(told, published)
        info, state = _resampled(*_read_place(_place(source, published), told), told)
        info = replace(info, task=told.task or info.task)
        return _with_classes(info, told.classes, num_classes(state), source), state
    except authors.BaseNeededError as error:
        if published is None:
            raise
        raise ModelError(_base_needed(published)) from error
    except EomtError:
        raise
    # Files come from anywhere, and each value in them may be of any kind: this is where all of it is caught.
    except (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(
            f"model {source}: it cannot be read ({type(error).__name__}: {first_line(error)}); its files are "
            "damaged, or not of a layout known here"
        ) from error


def _resampled(info: ModelInfo, state: State, told: Told) -> tuple[ModelInfo, State]:
    """Bring positions and patches to the view and the patch size told. Raises ConfigError for unfit ones."""
    old = info.model
    new = replace(
        old,
        image_size=old.image_size if told.image_size is None else told.image_size,
        patch_size=old.patch_size if told.patch_size is None else told.patch_size,
    )
    if new == old:
        return info, state
    check(new)
    if num_upscale_blocks(new) != num_upscale_blocks(old):  # which follows from the patches, if not said
        new = replace(new, num_upscale_blocks=num_upscale_blocks(old))
    return replace(info, model=new), resample(state, old, new)


def _place(source: str | Path, published: Published | None) -> Path:
    """Give the folder or the file that a source means, fetched where it is remote."""
    if published is not None:
        if not published.loadable:
            raise ModelError(f"model {published.name}: {published.note}")
        return hub.BUNDLED_FOLDER if published.repository is None else hub.fetch(published.repository)
    path = Path(source)
    if source == BUNDLED:
        return checkpoint.find(source)
    if path.exists():
        return path
    zoo.check(source)
    return hub.fetch(str(source))


def _read_place(place: Path, told: Told) -> tuple[ModelInfo, State]:
    """Hand a folder or a file to the reader of its kind."""
    if place.is_file():
        if (place.parent / "config.json").is_file():
            raise ModelError(f"model {place}: its configuration lies beside it; give their folder, {place.parent}")
        return authors.read(place, told.base, told.kind, told.image_size)
    if (place / "config.json").is_file():
        kind = _model_type(place / "config.json")
        if kind is None:
            return checkpoint.read(place)
        if kind in hugging_face.MODEL_TYPES:
            return hugging_face.read(place)
        known = " and ".join(hugging_face.MODEL_TYPES)
        raise ModelError(f"model {place}: config.json says model_type {kind}; known are {known}")
    if not place.is_dir():
        raise ModelError(f"model {place}: neither a folder nor a file")
    files = sorted(path for path in place.iterdir() if path.suffix in WEIGHTS_SUFFIXES)
    if not files or any((place / part / "config.json").is_file() for part in ("best", "last")):
        return checkpoint.read(place)
    if len(files) > 1:
        raise ModelError(f"model {place}: {', '.join(file.name for file in files)}; give one of these files")
    return _read_place(files[0], told)


def _model_type(config: Path) -> str | None:
    """Read the kind that Hugging Face's configurations name; None where there is none."""
    try:
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return None
    return None if kind is None else str(kind)


def _categories(classes: Classes) -> tuple[Category, ...]:
    """Give the categories that the caller means: a table's name, a file, or themselves."""
    if not isinstance(classes, str | Path):
        return tuple(classes)
    if isinstance(classes, Path) or classes.endswith((".json", ".txt", ".csv")):
        return read_categories(classes)
    return class_table(classes)


def _with_classes(info: ModelInfo, classes: Classes | None, known: int, source: str | Path) -> ModelInfo:
    """Give a model the classes that the caller says, if any. Raises ConfigError for another number of them."""
    if classes is None:
        return info
    categories = _categories(classes)
    if len(categories) != known:
        raise ConfigError(f"model {source} knows {known} classes, but --classes (classes=) has {len(categories)}")
    if info.task != "semantic" and not any(category.is_thing for category in categories):
        log.warning(
            "all classes of %s are stuff, of which objects are not told apart; a categories.json tells things",
            classes if isinstance(classes, str | Path) else "classes=",
        )
    return replace(info, categories=categories)


def _with_published(told: Told, published: Published) -> Told:
    """Fill in what is known of a published model, where the caller says nothing else."""
    base = None if published.base is None else hub.cached(published.base)
    return replace(
        told,
        task=told.task or published.task,
        classes=told.classes or published.classes,
        image_size=told.image_size or published.image_size,
        base=told.base if told.base is not None or base is None else str(base),
    )


def _base_needed(published: Published) -> str:
    return (
        f"model {published.name}: its file holds differences from {published.base}, which is not in the cache. "
        f"Either accept the licence on huggingface.co/{published.base} and run eomt models get {published.base}; "
        f"or fetch timm's copy by eomt convert {published.name} DIR --base auto"
    )
