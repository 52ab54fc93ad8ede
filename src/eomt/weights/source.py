"""Load a model from whatever names it: a folder, a file, a published name or a repository.

Finds out what is there and hands it to its reader; what the source leaves open, the caller may say.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from eomt.categories import Category, class_table
from eomt.config import TaskName
from eomt.data.folder import read_categories
from eomt.errors import ConfigError, ModelError
from eomt.models.backbone import resample
from eomt.models.eomt import EoMT, num_upscale_blocks
from eomt.weights import authors, checkpoint, hub, hugging_face, zoo
from eomt.weights.authors import Kind
from eomt.weights.checkpoint import BUNDLED, ModelInfo, State
from eomt.weights.tensors import WEIGHTS_SUFFIXES
from eomt.weights.zoo import Published

__all__ = ["Classes", "Told", "load", "read"]

Classes = str | Path | Sequence[Category]
"""Name of a class table, a categories.json or classes.txt, or the categories themselves."""
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


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


def load(source: str | Path, told: Told | None = None) -> tuple[EoMT, ModelInfo]:
    """Load a model: ours, Hugging Face's, the authors', or a published one by name.

    `source` is a folder or a file; or `bundled`; or a name that `eomt models ls` lists, or OWNER/NAME of a
    repository: these are fetched unless they are in the cache. Raises ModelError or ConfigError.
    """
    told = told or Told()
    info, state = read(source, told)
    wanted = replace(
        info.model,
        image_size=told.image_size or info.model.image_size,
        patch_size=told.patch_size or info.model.patch_size,
    )
    if num_upscale_blocks(wanted) != num_upscale_blocks(info.model):  # which follows from the patches, if not said
        wanted = replace(wanted, num_upscale_blocks=num_upscale_blocks(info.model))
    if wanted != info.model:
        state, info = resample(state, info.model, wanted), replace(info, model=wanted)
    return checkpoint.build(info, state, source), info


def read(source: str | Path, told: Told) -> tuple[ModelInfo, State]:
    """Read a model's weights under our names, and what it is; its own view and patches are not changed yet."""
    published = None if source == BUNDLED or Path(source).exists() else zoo.find(str(source))
    if published is not None:
        told = _with_published(told, published)
    info, state = _read_place(_place(source, published), told)
    categories = info.categories if told.classes is None else _categories(told.classes)
    count = len(state["class_head.weight"]) - 1 if "class_head.weight" in state else len(categories)
    if categories and len(categories) != count:
        raise ConfigError(f"model {source} knows {count} classes, but --classes (classes=) has {len(categories)}")
    return replace(info, task=told.task or info.task, categories=categories), state


def _place(source: str | Path, published: Published | None) -> Path:
    """Give the folder or the file that a source means, fetched where it is remote."""
    if published is not None:
        if published.repository is None or not published.loadable:
            raise ModelError(f"model {published.name}: it cannot be loaded here; {published.note}")
        return hub.fetch(published.repository)
    path = Path(source)
    if source == BUNDLED or path.exists():
        return checkpoint.find(source) if source == BUNDLED or _is_ours(path) else path
    if REPOSITORY.fullmatch(str(source)) and not path.parent.exists():
        return hub.fetch(str(source))
    near = zoo.suggest(str(source))
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    raise ModelError(
        f"model {source}: no such folder or file, and no published model of this name{hint}\n"
        "Give the folder of a run or of a model, a file of weights, OWNER/NAME of a repository, or a name that "
        "eomt models ls lists."
    )


def _is_ours(path: Path) -> bool:
    """Tell whether a folder holds one of our checkpoints, or a run that has some."""
    if any((path / part / "config.json").is_file() for part in ("best", "last")):
        return True
    return path.is_dir() and not _model_type(path) and not any(_weights_in(path))


def _model_type(folder: Path) -> str | None:
    """Read the kind that Hugging Face's configurations name; None where there is none."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return None
    return None if kind is None else str(kind)


def _weights_in(folder: Path) -> list[Path]:
    """List the authors' files in a folder: ours and Hugging Face's have a configuration beside them."""
    if (folder / "config.json").is_file():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in WEIGHTS_SUFFIXES)


def _read_place(place: Path, told: Told) -> tuple[ModelInfo, State]:
    """Hand a folder or a file to the reader of its kind."""
    if place.is_dir():
        kind = _model_type(place)
        if kind in hugging_face.MODEL_TYPES:
            return hugging_face.read(place, told.image_size)
        if kind is not None:
            known = " and ".join(hugging_face.MODEL_TYPES)
            raise ModelError(f"model {place}: config.json says model_type {kind}; known are {known}")
        files = _weights_in(place)
        if not files:
            return checkpoint.read(place)
        if len(files) > 1:
            raise ModelError(f"model {place}: {', '.join(file.name for file in files)}; give one of these files")
        place = files[0]
    return authors.read(place, told.base, told.kind, told.image_size)


def _categories(classes: Classes) -> tuple[Category, ...]:
    """Give the categories that the caller means: a table's name, a file, or themselves."""
    if not isinstance(classes, str | Path):
        return tuple(classes)
    if isinstance(classes, Path) or Path(classes).is_file():
        return read_categories(classes)
    return class_table(classes)


def _with_published(told: Told, published: Published) -> Told:
    """Fill in what is known of a published model, where the caller says nothing else."""
    base = told.base
    if base is None and published.base is not None:
        cached = hub.cached(published.base)
        if cached is None:
            raise ModelError(
                f"model {published.name}: its file holds differences from {published.base}, which is not in the "
                f"cache. Either accept the licence on huggingface.co/{published.base} and run eomt models get "
                f"{published.base}; or fetch timm's copy by eomt convert {published.name} DIR --base auto"
            )
        base = str(cached)
    return replace(
        told,
        task=told.task or published.task,
        classes=told.classes or published.classes,
        image_size=told.image_size or published.image_size,
        base=base,
    )
