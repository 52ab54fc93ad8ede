"""`eomt convert`: read a model in any layout, write it in another. What the layouts are is said in `weights`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from eomt.cli.console import log_lines, note, print_json, printable
from eomt.cli.options import TASKS, ClassSource, ImageSize, ModelSource, Switch, check_view, parse
from eomt.config import TaskName
from eomt.errors import ConfigError
from eomt.files import write_aside
from eomt.weights import zoo

if TYPE_CHECKING:
    from eomt.models.ladder import Model
    from eomt.weights.checkpoint import ModelInfo, Storage

__all__ = ["run"]

Layout = Literal["eomt", "hf", "authors"]

DESCRIPTION = """\
Read a model in any layout and write it in another:
  eomt      ours: config.json with task, classes and thresholds, safetensors, and
            a model card
  hf        Hugging Face's: what transformers loads, with a model card
  authors   pytorch_model.bin as the authors' code reads it (absolute weights)
Weights keep every bit. SRC may also be the name of a published model. A file of
the authors' does not say what it is for: --task and --classes do.

Example: eomt convert pytorch_model.bin my-model --task panoptic"""


@dataclass(frozen=True)
class ConvertArguments:
    """What `eomt convert` accepts."""

    source: Annotated[ModelSource, tyro.conf.Positional, tyro.conf.arg(metavar="SRC", help_behavior_hint="")]
    """A folder of a model or a run, a file of weights, a published name, or OWNER/NAME of a repository."""
    destination: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST", help_behavior_hint="")]
    """The folder to write; it must be new or empty."""
    to: Annotated[Layout, tyro.conf.arg(metavar="{eomt,hf,authors}")] = "eomt"
    """The layout to write."""
    task: Annotated[
        TaskName | None, tyro.conf.arg(metavar=TASKS, help_behavior_hint="(default: what SRC says)")
    ] = None
    """What the model is for."""
    classes: ClassSource = None
    """Its classes, in the order of the labels: coco-panoptic, coco-instance, ade20k-panoptic, ade20k-semantic,
    cityscapes-semantic, or a categories.json or classes.txt."""
    image_size: ImageSize = None
    """Size in pixels of the view that the model sees; positions are resampled to it."""
    patch_size: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: the model's own)")
    ] = None
    """Side of a patch in pixels; patches are resampled to it."""
    base: Annotated[str | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")] = None
    """DINOv3's own weights, for released DINOv3 models, whose files hold differences from them: a folder or file
    under Hugging Face's or timm's names, or auto to fetch timm's copy."""
    kind: Annotated[Literal["auto", "delta", "absolute"], tyro.conf.arg(metavar="{auto,delta,absolute}")] = "auto"
    """Whether a file with DINOv3 holds differences (delta) or absolute weights; auto measures it."""
    storage: Annotated[Literal["fp32", "fp16", "int8"], tyro.conf.arg(metavar="{fp32,fp16,int8}")] = "fp32"
    """Layout eomt: how weights are stored. fp16 and int8 are smaller and lose bits."""
    json: Switch = False
    """Print one JSON object as the last line of standard output, with what the model is."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""


def run(arguments: Sequence[str]) -> int:
    """Convert as the arguments say; give the exit code."""
    options = parse(ConvertArguments, arguments, "eomt convert", DESCRIPTION)
    check_view(options.image_size)
    zoo.check(options.source)
    if options.storage != "fp32" and options.to != "eomt":
        raise ConfigError(f"--storage {options.storage}: only with --to eomt")
    if options.destination.exists() and (not options.destination.is_dir() or any(options.destination.iterdir())):
        raise ConfigError(f"{options.destination}: it is there already and not an empty folder; name a new one")

    from eomt.weights.source import Told, load

    told = Told(options.task, options.classes, options.image_size, options.patch_size, options.base, options.kind)
    with log_lines():
        model, info = load(options.source, told)
        write(model, info, options.destination, options.to, options.storage)
    summary = _summary(model, info)
    if options.json:
        print_json({"out": str(options.destination), "layout": options.to, **summary})
    else:
        print(
            f"{printable(options.destination)}: " + ", ".join(f"{name} {value}" for name, value in summary.items())
        )
    if options.to == "authors":
        note(
            "the authors' layout holds weights only: task, classes, things and stuff, thresholds were left out; "
            "eomt predict takes them as options"
        )
    if options.to == "eomt":
        note(f"next: eomt predict --model {options.destination} IMAGES")
    return 0


def write(model: "Model", info: "ModelInfo", folder: Path, layout: Layout, storage: "Storage") -> None:
    """Write a model in one of the layouts."""
    from eomt.weights import authors, checkpoint, hugging_face
    from eomt.weights.card import card

    if layout == "eomt":
        checkpoint.save(model, info, folder, storage)
        write_aside(folder / "README.md", card(info, "eomt").encode())
    elif layout == "hf":
        hugging_face.write(model.state_dict(), info, folder)
    else:
        authors.write(model.state_dict(), info, folder / "pytorch_model.bin")


def _summary(model: "Model", info: "ModelInfo") -> dict[str, str | int | None]:
    height, width = info.model.image_size
    return {
        "task": info.task,
        "classes": model.class_head.out_features - 1,
        "kind": info.model.kind,
        "backbone": info.model.backbone,
        "view": f"{height}x{width}",
        "patch": info.model.patch_size,
        "queries": info.model.num_queries,
        "joint_blocks": info.model.num_joint_blocks if info.model.kind == "eomt" else None,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
