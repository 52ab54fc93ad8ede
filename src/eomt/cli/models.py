"""`eomt models`: list the published models, describe one, fetch, check and remove its files.

What is published stands in `weights.zoo`, how files come and go in `weights.hub`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from eomt.cli import models_tune
from eomt.cli.console import log_lines, note, print_json, print_table, printable
from eomt.cli.options import TASKS, Switch, parse, run_action
from eomt.config import TaskName
from eomt.errors import CheckError, ConfigError, ModelError
from eomt.weights import hub, zoo
from eomt.weights.zoo import MODELS, Published

__all__ = ["run"]

PURPOSE = """\
The published models by short names, and their files. Files come from the
Hugging Face hub into the cache that is shared with other programs (HF_HOME);
what is there is used without a network."""

DatasetName = Literal["coco", "ade20k", "cityscapes", "nuclei"]
ModelName = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME", help_behavior_hint="")]


@dataclass(frozen=True)
class ListArguments:
    """What `eomt models ls` accepts."""

    task: Annotated[TaskName | None, tyro.conf.arg(metavar=TASKS, help_behavior_hint="")] = None
    """Only models of this task."""
    dataset: Annotated[
        DatasetName | None, tyro.conf.arg(metavar="{coco,ade20k,cityscapes,nuclei}", help_behavior_hint="")
    ] = None
    """Only models that were trained on this data set."""
    json: Switch = False
    """Print one JSON object: models, a list of all that is known of each."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""


@dataclass(frozen=True)
class InfoArguments:
    """What `eomt models info` accepts."""

    name: ModelName = ""
    """A name of `eomt models ls`."""
    json: Switch = False
    """Print one JSON object instead."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""


@dataclass(frozen=True)
class NameArguments:
    """What `eomt models get` and `rm` accept."""

    name: ModelName = ""
    """A name of `eomt models ls`, or OWNER/NAME of any repository on the Hugging Face hub."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""


@dataclass(frozen=True)
class VerifyArguments:
    """What `eomt models verify` accepts."""

    name: ModelName = ""
    """A name of `eomt models ls`, OWNER/NAME of a repository, or a folder; all published models that are in the
    cache, and the bundled one, when left out."""
    traceback: Switch = False
    """Show where in the program an error arose (also: EOMT_TRACEBACK=1)."""


def run(arguments: Sequence[str]) -> int:
    """Do what the first argument names; give the exit code."""
    actions = {
        "ls": (_list, "List the published models."),
        "info": (_info, "Show all that is known of one, licences too."),
        "get": (_get, "Fetch the files of one and print their folder."),
        "verify": (_verify, "Compare files with their checksums."),
        "tune": (models_tune.run, "Choose the best threshold of the score, and store it in a model."),
        "rm": (_remove, "Remove the files of one from the cache."),
    }
    return run_action("models", PURPOSE, actions, arguments)


def _list(arguments: Sequence[str]) -> int:
    description = """\
List the published models. Scores are those of the authors, in percent; none
was measured by this project.

Example: eomt models ls --task panoptic"""
    options = parse(ListArguments, arguments, "eomt models ls", description)
    models = [
        model
        for model in MODELS.values()
        if options.task in (None, model.task) and options.dataset in (None, model.dataset)
    ]
    if options.json:
        print_json({"models": [_facts(model) for model in models]})
        return 0
    if not models:
        print(f"no published model does {options.task} segmentation on {options.dataset}")
        return 0
    columns = ["name", "task", "data set", "licence of the weights", "view", "score", "params", "cached"]
    print_table("Published models", columns, [_row(model) for model in models], text=4)
    note("eomt models info NAME: more about one; eomt models get NAME: fetch it")
    return 0


def _row(model: Published) -> list[str | float]:
    score = f"{model.score.value:.1f} {model.score.metric}" if model.score else "–"
    parameters = f"{model.parameters:.0f} M" if model.parameters else "–"
    here = "bundled" if model.repository is None else "yes" if hub.cached(model.repository) else "no"
    view = str(model.image_size[0])
    return [model.name, model.task, model.dataset, model.weights_license, view, score, parameters, here]


def _facts(model: Published) -> dict[str, Any]:
    """Give all that is known of a model as JSON can hold it."""
    folder = hub.BUNDLED_FOLDER if model.repository is None else hub.cached(model.repository)
    score = model.score._asdict() if model.score else None
    return {**asdict(model), "score": score, "loadable": model.loadable, "cached": str(folder) if folder else None}


def _info(arguments: Sequence[str]) -> int:
    description = (
        "Show all that is known of a published model.\n\nExample: eomt models info coco_panoptic_large_640"
    )
    options = parse(InfoArguments, arguments, "eomt models info", description)
    model = zoo.find(_named(options.name, "info"))
    if model is None:
        raise ModelError(_unknown(options.name))
    facts = _facts(model)
    if options.json:
        print_json(facts)
        return 0
    if model.score:
        facts["score"] = f"{model.score.value:.1f} {model.score.metric}, the authors': {model.score.source}"
    if model.parameters:
        facts["parameters"] = f"{model.parameters:.0f} million"
    facts["image_size"] = " x ".join(map(str, model.image_size))
    names = facts.pop("class_names")
    facts["classes"] = model.classes or ", ".join(names)
    for key, value in facts.items():
        print(f"{key.replace('_', ' '):<17} {printable(_said(value))}")
    return 0


def _said(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value in (None, "") else str(value)


def _get(arguments: Sequence[str]) -> int:
    description = """\
Fetch the files of a model (config.json, preprocessor_config.json, weights) and
print their folder. What is there already is not fetched again; a download that
was interrupted goes on where it ended.

Example: eomt models get coco_panoptic_large_640"""
    options = parse(NameArguments, arguments, "eomt models get", description)
    model, repository = _meant(options.name, "get")
    if repository is None:
        note("the bundled model comes with the package; there is nothing to fetch")
        print(hub.BUNDLED_FOLDER)
        return 0
    with log_lines():
        folder = hub.fetch(repository)
    if model and model.note:
        note(model.note)
    if model and model.base and not hub.cached(model.base):
        note(
            f"The base weights are {model.base}, which Meta gives to those who accept its licence:\n"
            f"  1. open https://huggingface.co/{model.base}, log in and accept the licence\n"
            "  2. hf auth login\n"
            f"  3. eomt models get {model.base}"
        )
    print(folder)
    return 0


def _verify(arguments: Sequence[str]) -> int:
    description = """\
Compare the files of a model with their checksums: those by which the cache
names them, or which config.json states. Ends with 7 when one differs.

Example: eomt models verify"""
    options = parse(VerifyArguments, arguments, "eomt models verify", description)
    problems = []
    for name, source in _to_verify(options.name):
        found = hub.verify(source)
        print(f"{printable(name)}: {'as it should be' if not found else 'NOT as it should be'}")
        problems += found
    if problems:
        lines = "\n".join(problems)
        raise CheckError(f"{lines}\nFetch it anew: eomt models rm NAME, then eomt models get NAME")
    return 0


def _to_verify(name: str) -> Iterator[tuple[str, str | Path]]:
    """Give the name and the place of what is to be checked."""
    if name and Path(name).is_dir():
        yield name, Path(name)
        return
    models: Iterable[tuple[str, str | None]]
    if name:
        models = [(name, _meant(name, "verify")[1])]
    else:
        models = ((model.name, model.repository) for model in MODELS.values())
    for each, repository in models:
        if repository is None:
            yield each, hub.BUNDLED_FOLDER
        elif name or hub.cached(repository):
            yield each, repository


def _remove(arguments: Sequence[str]) -> int:
    description = """\
Remove the files of a model from the cache, also those of a download that was
not finished. Other programs that use the cache lose them too.

Example: eomt models rm coco_panoptic_large_640"""
    options = parse(NameArguments, arguments, "eomt models rm", description)
    _, repository = _meant(options.name, "rm")
    if repository is None:
        raise ConfigError("the bundled model is a part of the package and is not removed; uninstall eomt for that")
    freed = hub.remove(repository)
    said = (
        f"removed {repository}: {hub.in_words(freed)} freed"
        if freed
        else f"nothing of {repository} is in the cache"
    )
    print(printable(said))
    return 0


def _meant(name: str, action: str) -> tuple[Published | None, str | None]:
    """Find what a name means: a published model, and the repository (None: the bundled model)."""
    model = zoo.find(_named(name, action))
    if model:
        return model, model.repository
    if name.count("/") == 1:
        return None, name
    raise ModelError(_unknown(name))


def _named(name: str, action: str) -> str:
    if not name:
        raise ConfigError(
            f"eomt models {action} needs a name\nExample: eomt models {action} coco_panoptic_large_640"
        )
    return name


def _unknown(name: str) -> str:
    """Say that a model is not there, and what may have been meant."""
    near = zoo.suggest(name)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"there is no published model {name}{hint}\neomt models ls lists them"
