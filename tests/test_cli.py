"""The command line: what it accepts, what it answers to mistakes, and how it ends. Models are stood in for."""

import errno
import json
import logging
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import eomt.cli.console
from eomt.categories import Category
from eomt.cli import main
from eomt.cli.console import print_json, printable, progress, report
from eomt.cli.evaluate import FIGURES, EvalArguments, read_groups
from eomt.cli.options import known_options, override_thresholds
from eomt.cli.predict import PredictArguments, find_images
from eomt.cli.train import TrainArguments
from eomt.cli.usage import nearest
from eomt.config import Recipe, Thresholds
from eomt.errors import CheckError, ConfigError, DataError, ModelError, NonFiniteError, ResourceError
from eomt.masks import IdMap, RleMasks
from eomt.recipes import RECIPES
from eomt.types import Prediction

CATEGORIES = (Category("cell", True, 7, (255, 0, 0)), Category("glass", False, 9, (0, 0, 255)))
COMMANDS = ("train", "eval", "predict")


def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    """Run the command in a process of its own."""
    environment = {**os.environ, **(env or {})}
    return subprocess.run(
        [sys.executable, "-m", "eomt", *arguments], capture_output=True, text=True, env=environment, timeout=60
    )


def last_json(text: str) -> dict:
    return json.loads(text.splitlines()[-1])


class StandInSegmenter:
    """Finds a cell in the left half of every image, and glass in the right."""

    task = "panoptic"
    categories = CATEGORIES
    thresholds = Thresholds()

    def __init__(self, calls: list) -> None:
        self.calls = calls

    def predict(self, image, *, task, thresholds, image_size, zoom, precision):
        self.calls.append(SimpleNamespace(task=task, thresholds=thresholds, image_size=image_size, zoom=zoom))
        height, width = image.shape[:2]
        ids = np.full((height, width), 2, dtype=np.int32)
        ids[:, : width // 2] = 1
        masks = IdMap(ids, 2)
        if task == "instance":
            return Prediction(
                RleMasks.encode([masks.mask(0)], masks.size), np.array([0]), np.array([0.5]), CATEGORIES
            )
        return Prediction(masks, np.array([0, 1]), np.array([0.9, 0.8]), CATEGORIES)


@pytest.fixture
def segmenter_calls(monkeypatch):
    calls: list = []
    loaded: list = []

    def from_pretrained(source="bundled", device="auto", task=None, classes=None, image_size=None):
        loaded.append((source, device))
        return StandInSegmenter(calls)

    monkeypatch.setattr("eomt.inference.segmenter.Segmenter.from_pretrained", from_pretrained)
    monkeypatch.setattr("eomt.weights.zoo.check", lambda source: None)
    return SimpleNamespace(predict=calls, loaded=loaded)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Two good images, one of the same stem, a broken one and something else."""
    monkeypatch.chdir(tmp_path)
    for name in ("in/a.png", "in/b=1 é.jpg", "in/other/a.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), "gray").save(name)
    Path("in/broken.png").write_bytes(Path("in/a.png").read_bytes()[:40])
    Path("in/notes.txt").write_text("no image")
    Path("in/.hidden.png").write_bytes(b"")
    return tmp_path


# Help, versions, mistakes


@pytest.mark.parametrize(
    "arguments", [("--help",), ("debug", "replay", "--help"), *((command, "--help") for command in COMMANDS)]
)
def test_help_comes_without_torch(arguments):
    code = "import sys; from eomt.cli import main; "
    code += f"\ntry: main({list(arguments)})\nexcept SystemExit as end: assert not end.code\n"
    code += "print('HEAVY', sorted({'torch', 'timm', 'numpy', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("HEAVY []\n")
    assert "usage: eomt" in done.stdout


@pytest.mark.parametrize(
    ("command", "cls"), [("train", TrainArguments), ("eval", EvalArguments), ("predict", PredictArguments)]
)
def test_every_option_of_the_help_is_known_and_explained(command, cls, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert not end.value.code
    text = capsys.readouterr().out
    shown = set(re.findall(r"(?<![\w`(])--[a-z][\w.-]*\w", text.partition("options")[2], re.ASCII))
    assert shown <= set(known_options(cls))
    assert {option for option in known_options(cls) if option not in text} == set()
    assert not re.search(r"--[\w.-]+ [A-Z{][^│]*│\n│\s+\(default", text), "an option has no words of explanation"


def test_version(capsys):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"eomt \d+\.\d+\.\S+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["usage: eomt"]),
        (["predct", "a.png"], ["no command predct", "did you mean predict?"]),
        (["evaluate"], ["did you mean eval?"]),
        (["predict"], ["needs images", "Example"]),
        (
            ["predict", "a.png", "--scroe", "1", "--otu", "x"],
            ["--scroe; did you mean --score", "--otu; did you mean --out"],
        ),
        (["predict", "a.png", "--image_siez=3"], ["--image_siez; did you mean --image-size"]),
        (["predict", "a.png", "--image-size", "0", "64"], ["--image-size 0 64", "from 1 on"]),
        (["eval", "--data", "x", "--xyzzy", "1"], ["no option --xyzzy", "All options: eomt eval --help"]),
        (["train", "--lr", "1", "--batch-size", "2", "--out", "x"], ["--optim.lr", "--data.batch-size"]),
        (["train", "smal", "--out", "x"], ["no recipe smal; did you mean small?", "Recipes: small"]),
        (["train", "lr=1e-3", "--out", "x"], ["lr=1e-3 is no recipe", "--optim.lr 1e-3"]),
        (["train", "--out", "x"], ["eomt train needs --data PATH"]),
        (["train"], ["needs --data PATH", "and --out DIR"]),
        (["train", "--out", "x", "--data", "a", "--data.root", "b"], ["name two data sets"]),
    ],
)
def test_mistakes_of_usage(arguments, words, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [word for word in words if word not in err] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["predict", "a.png", "--task", "panoptc"],
            "--task panoptc: expected instance, panoptic or semantic; did you mean panoptic?",
        ),
        (["eval", "--data", "x", "--precision", "fp16"], "--precision fp16: expected auto, fp32 or bf16"),
        (["eval", "--data", "x", "--task", "all"], "--task all: expected semantic, instance or panoptic"),
        (["eval"], "eomt eval needs --data PATH\n  --data PATH: The data set"),
        (["eval", "--data", "x", "y"], "eomt eval does not know what to do with y"),
        (
            ["train", "--data", "x", "--out", "y", "--steps", "many"],
            "--steps many: expected a whole number or None",
        ),
        (["train", "--data", "x", "--out", "y", "--optim.lr=fast"], "--optim.lr fast: expected a number"),
        (["train", "--model.image-size", "3", "x"], "--model.image-size 3 x: expected two whole numbers"),
        (
            ["train", "--data", "x", "--out", "y", "--task", "all"],
            "--task all: expected instance, panoptic or semantic",
        ),
        (["config", "show", "--data.on-bad-sample", "skp"], "expected error or skip; did you mean skip?"),
        (["convert", "a", "b", "--kind", "foo"], "--kind foo: expected auto, delta or absolute"),
        (["convert", "a", "b", "--to", "author"], "expected eomt, hf or authors; did you mean authors?"),
        (["models", "ls", "--dataset", "coca"], "ade20k, cityscapes, coco or nuclei; did you mean coco?"),
        (["data", "convert", "a"], "eomt data convert needs DST and --to {coco,coco-panoptic,yolo,masks}"),
        (["data", "convert", "a", "b", "--to", "foo"], "--to foo: expected coco, coco-panoptic, yolo or masks"),
        (["data", "convert", "a", "b", "--to"], "--to needs a value"),
        (["data", "split", "a", "b", "--to", "foo"], "--to foo: expected coco, coco-panoptic, masks or yolo\n"),
        (["data", "split", "a", "b", "--val", "x"], "--val x: expected 0..1"),
        (["data", "sample", "a", "b", "--to", "mask"], "did you mean masks?"),
        (["data", "inspect"], "eomt data inspect needs PATH"),
        (["predict", "a.png", "--image-size", "640"], "--image-size needs 2 values"),
    ],
)
def test_values_that_do_not_fit(arguments, words, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert words in err
    assert f"All options: eomt {arguments[0]}" in err
    assert not re.search("[│╭]|helptext|Got errors", err)


BOXES = (
    "╭─ Odd ───╮\n│ \x1b[31mStrange\x1b[0m thing. │\n│ ─────── │\n│ For full helptext, run x │\n╰───╯",
    " Odd      \n ---------- \n  Strange thing.   \n  -----\n  For full helptext, run x \n   ",
)


@pytest.mark.parametrize("box", BOXES)
def test_what_is_not_recognised_is_passed_on_without_its_box(box, capsys, monkeypatch):
    def refuse(*_, **__):
        print(
            "╭─ Odd ───╮\n│ \x1b[31mStrange\x1b[0m thing. │\n│ ─────── │\n│ For full helptext, run x │\n╰───╯",
            file=sys.stderr,
        )
        raise SystemExit(2)

    monkeypatch.setattr("eomt.cli.options.tyro.cli", refuse)
    assert main(["eval"]) == 2
    assert capsys.readouterr().err == "error: Strange thing.\n  All options: eomt eval --help\n"


@pytest.mark.parametrize("cls", [TrainArguments, EvalArguments, PredictArguments])
def test_one_wrong_letter_still_finds_the_option(cls):
    known = known_options(cls)
    for option in known:
        for place in range(3, len(option), 1 if len(known) < 30 else 9):
            typos = (
                option[:place] + option[place + 1 :],
                option[:place] + "x" + option[place:],
                option[:place] + option[place : place + 2][::-1] + option[place + 2 :],
            )
            for typo in typos:
                assert option in nearest(typo, known), typo


# How it ends


class OutOfMemoryError(RuntimeError):
    """What torch raises on an accelerator, by name."""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConfigError("x: 3\nuse 4"), 2, "error: x: 3\n  use 4\n"),
        (DataError("bad.png: cut short"), 3, "error: bad.png: cut short\n"),
        (ModelError("m"), 4, "error: m\n"),
        (ResourceError("r"), 5, "error: r\n"),
        (NonFiniteError("n"), 6, "error: n\n"),
        (CheckError("c"), 7, "error: c\n"),
        (MemoryError(), 5, "memory does not suffice"),
        (OutOfMemoryError("CUDA out of memory. Tried"), 5, "--data.micro-batch"),
        (torch.OutOfMemoryError("CUDA out of memory"), 5, "memory does not suffice"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 5, "memory does not suffice"),
        (OSError(errno.ENOSPC, "No space left on device", "x.png"), 5, "error: x.png: No space left on device\n"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), 2, "error: out: Permission denied\n"),
        (KeyError("oops"), 1, "unexpected KeyError: 'oops'\n  This is a fault of the program"),
        (DataError("a\x1b[2Jb.png: bad"), 3, r"a\x1b[2Jb.png: bad"),
    ],
)
def test_errors_and_exit_codes(error, code, words, capsys):
    assert report(error, with_traceback=False) == code
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err
    assert err.startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "env", "shown"),
    [
        ((), {}, False),
        (("--traceback",), {}, True),
        ((), {"EOMT_TRACEBACK": "1"}, True),
        ((), {"EOMT_TRACEBACK": "0"}, False),
    ],
)
def test_traceback_only_when_asked(arguments, env, shown, monkeypatch, capsys):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert main(["predict", *arguments]) == 2
    assert ("Traceback" in capsys.readouterr().err) == shown


def test_interrupt(monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("eomt.cli.predict.run", interrupted)
    assert main(["predict", "x"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_reader_of_a_pipe_may_leave():
    process = subprocess.Popen(
        [sys.executable, "-m", "eomt", "train", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0
    assert error == b""


def test_ascii_terminal_without_colour():
    done = run("eval", env={"PYTHONIOENCODING": "ascii", "NO_COLOR": "1"})
    assert done.returncode == 2
    assert done.stderr.isascii()
    assert "--data PATH" in done.stderr


def test_json_has_null_for_what_is_not_finite(capsys):
    print_json({"a": math.nan, "b": [1, math.inf], "c": {"d": 0.5}, "e": "ü\udc80"})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1, None], "c": {"d": 0.5}, "e": "ü\udc80"}


def test_progress_away_from_a_terminal_is_a_line_now_and_then(monkeypatch, capsys):
    with progress("eval") as show:
        show(1, 3)
        monkeypatch.setattr(eomt.cli.console, "QUIET_SECONDS", 0.0)
        show(2, 3)
    assert capsys.readouterr().err == "eval: 2 of 3\n"


def test_printable():
    assert printable("a b\nc\x1b\udcffé") == "a b\\nc\\x1b\\udcffé"


# Options that several commands share


def test_thresholds_are_overridden_one_by_one():
    own = Thresholds(score=0.1, mask=0.2, overlap=0.3, max_detections=4)
    assert override_thresholds(own, PredictArguments()) == own
    changed = override_thresholds(own, PredictArguments(mask=0.0, duplicate=0.5, max_detections=9))
    assert changed == replace(own, mask=0.0, duplicate=0.5, max_detections=9)


@pytest.mark.parametrize("wrong", [{"score": 1.1}, {"mask": -0.1}, {"overlap": math.nan}, {"max_detections": 0}])
def test_thresholds_out_of_range(wrong):
    with pytest.raises(ConfigError, match="expected a"):
        override_thresholds(Thresholds(), PredictArguments(**wrong))


# predict


@pytest.mark.parametrize(
    ("inputs", "found", "failed"),
    [
        (["in/a.png", "in/a.png", "./in/a.png"], ["in/a.png"], []),  # once each
        (["in"], ["in/a.png", "in/b=1 é.jpg", "in/broken.png"], []),  # one level, no hidden files, images only
        (["in/**/a.png"], ["in/a.png", "in/other/a.png"], []),  # a quoted pattern
        (["in/notes.txt"], ["in/notes.txt"], []),  # named: tried, and refused by the codec
        (["in/*.txt"], [], ["matches this pattern"]),
        (["nowhere.png"], [], ["no such file"]),
        (["x" * 300], [], ["too long"]),
        (["/dev/zero"], [], ["no regular file"]),
        (["empty"], [], ["no images directly inside"]),
        (["odd[1].png"], ["odd[1].png"], []),  # a name that looks like a pattern
    ],
)
def test_find_images(photos, inputs, found, failed):
    Path("empty").mkdir()
    Path("odd[1].png").touch()
    files, failures = find_images(inputs)
    assert [str(file) for file in files] == found
    assert len(failures) == len(failed)
    assert all(words in failure.error for words, failure in zip(failed, failures, strict=True))


def test_predict_does_the_rest_when_one_image_is_broken(photos, segmenter_calls, capsys):
    assert main(["predict", "in/**/*.*", "--out", "my out", "--json"]) == 3
    out, err = capsys.readouterr()
    result = last_json(out)
    assert out.count("\n") == 1
    assert result["out"] == "my out"
    assert [Path(image["overlay"]).name for image in result["images"]] == [
        "in_a.overlay.png",
        "b=1 é.overlay.png",
        "other_a.overlay.png",
    ]
    assert [image["segments"] for image in result["images"]] == [2, 2, 2]
    assert [failure["file"] for failure in result["failed"]] == ["in/broken.png"]
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [
        f"error: {result['failed'][0]['error']}"
    ]
    assert all(
        Path(image[kind]).exists() for image in result["images"] for kind in ("overlay", "labels", "panoptic")
    )


def test_predict_says_where_the_results_are(photos, segmenter_calls, capsys):
    assert main(["predict", "in/a.png", "--model", "some model"]) == 0
    out, err = capsys.readouterr()
    assert out == "1 image segmented, results in predictions\n"
    assert "in/a.png: 2 segments: 1 cell, 1 glass" in err
    assert segmenter_calls.loaded == [("some model", "auto")]
    assert sorted(path.name for path in Path("predictions").iterdir()) == [
        "a.labels.png",
        "a.overlay.png",
        "categories.json",
        "instances.json",
        "panoptic",
        "panoptic.json",
    ]


def test_predict_passes_its_options_on(photos, segmenter_calls):
    options = ["--task", "instance", "--mask", "0.3", "--max-detections", "7", "--image-size", "32", "64"]
    assert main(["predict", "--out", "o", *options, "--zoom", "2", "in/a.png"]) == 0
    [call] = segmenter_calls.predict
    assert (call.task, call.image_size, call.zoom) == ("instance", (32, 64), 2.0)
    assert call.thresholds == Thresholds(mask=0.3, max_detections=7)
    assert [path.name for path in Path("o/panoptic").iterdir()] == ["a.png"]
    [entry] = json.loads(Path("o/instances.json").read_text())
    assert (entry["category_id"], entry["score"], entry["area"]) == (7, 0.5, 24)


def test_predict_never_replaces_an_input(photos, segmenter_calls, capsys):
    Image.new("RGB", (4, 4)).save("in/a.overlay.png")
    before = Path("in/a.overlay.png").read_bytes()
    assert main(["predict", "in", "--out", "in"]) == 2
    assert "choose another --out" in capsys.readouterr().err
    assert Path("in/a.overlay.png").read_bytes() == before


def test_predict_without_any_image(photos, capsys):
    assert main(["predict", "nowhere.png", "in/*.gif"]) == 3
    err = capsys.readouterr().err
    assert "nowhere.png: no such file" in err
    assert "in/*.gif: no image matches" in err
    assert not Path("predictions").exists()


def test_predict_into_a_file_is_an_error_of_usage(photos, segmenter_calls, capsys):
    assert main(["predict", "in/a.png", "--out", "in/notes.txt"]) == 2
    assert "in/notes.txt" in capsys.readouterr().err


# eval


@pytest.fixture
def evaluation(monkeypatch, tmp_path, segmenter_calls):
    """An evaluation that was not run, and the arguments that it was called with."""
    from eomt.evaluation.evaluate import Evaluation

    given: dict = {}

    def evaluate(segmenter, dataset, tasks=None, **options):
        given.update(options, tasks=tasks, dataset=dataset)
        options["progress"](1, 2)
        figures = {"PQ": 0.25, "SQ": 0.5, "RQ": 0.5, "PQ_things": 0.25, "PQ_stuff": math.nan}
        parts = {"cell": {"PQ": 0.25}, "glass": {"PQ": math.nan}}
        groups = {"bright": {"PQ": 0.1}} if options["groups"] else {}
        return Evaluation(
            figures, parts, groups, tuple(tasks) or ("panoptic",), images=2, precision="fp32", seconds=1.0
        )

    monkeypatch.setattr("eomt.evaluation.evaluate.evaluate", evaluate)
    for part in ("images", "masks"):
        folder = tmp_path / "data" / part / "val"
        folder.mkdir(parents=True)
        Image.new("L", (4, 4)).save(folder / "x.png")
    (tmp_path / "data" / "categories.json").write_text('[{"name": "cell", "is_thing": true}]')
    (tmp_path / "data" / "images.csv").write_text("﻿image_id,light\nx,bright\n", encoding="utf-8")
    return SimpleNamespace(data=str(tmp_path / "data"), given=given)


def test_eval_as_json(evaluation, capsys):
    arguments = ["--task", "panoptic", "--score", "0.4", "--max-detections", "300", "--group-by", "light"]
    assert main(["eval", "--data", evaluation.data, *arguments, "--json"]) == 0
    result = last_json(capsys.readouterr().out)
    assert {name: result[name] for name in FIGURES} == {
        **dict.fromkeys(FIGURES),
        "PQ": 0.25,
        "SQ": 0.5,
        "RQ": 0.5,
        "PQ_things": 0.25,
    }
    assert result["groups"] == {"bright": {"PQ": 0.1}}
    assert result["per_class"] == {"cell": {"PQ": 0.25}, "glass": {"PQ": None}}
    about = ("images", "tasks", "split", "model", "precision", "seconds")
    assert [result[key] for key in about] == [2, ["panoptic"], "val", "bundled", "fp32", 1.0]
    assert evaluation.given["thresholds"] == Thresholds(score=0.4, max_detections=300)
    assert evaluation.given["max_detections"] == 300
    assert evaluation.given["groups"] == {"x": "bright"}


def test_eval_as_tables(evaluation, capsys):
    assert main(["eval", "--data", evaluation.data, "--group-by", "light"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"PQ_stuff\s+│\s+–", out)  # the figure of no class
    assert re.search(r"cell\s+│\s+0\.250", out)
    assert re.search(r"bright\s+│\s+0\.100", out)
    assert "2 images" in out
    assert evaluation.given["tasks"] == ()  # evaluation chooses
    assert "data, val: panoptic" in out  # and says what it chose


def test_eval_of_a_split_that_is_not_there(evaluation, capsys):
    assert main(["eval", "--data", evaluation.data, "--split", "tset"]) == 3
    err = capsys.readouterr().err
    assert "tset" in err
    assert "val" in err


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "no such file"),
        ("image_id,light\n", r"has no column lens; it has image_id, light"),
        ("name,lens\n", r"has no column image_id; it has name, lens"),
        ("", "it has none"),
        ("a\0,b", None),
    ],
)
def test_groups_that_cannot_be_read(tmp_path, table, message):
    if table is not None:
        (tmp_path / "images.csv").write_text(table)
    with pytest.raises(DataError, match=message):
        read_groups(tmp_path, "lens")


# train


@pytest.fixture
def trained(monkeypatch):
    """The recipe that training was called with; nothing is trained."""
    given = SimpleNamespace()

    def train(recipe, out, init_from=None, resume=False, change=False, origins=None):
        logging.getLogger("eomt").info("step 1/1")
        given.recipe, given.out, given.init_from = recipe, out, init_from
        return SimpleNamespace(metrics={"PQ": 0.5, "AP": math.nan}, folder=out)

    monkeypatch.setattr("eomt.training.loop.train", train)
    return given


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], lambda recipe: recipe),
        (["--steps", "300"], lambda recipe: replace(recipe, steps=300)),
        (["--optim.lr=2e-4"], lambda recipe: replace(recipe, optim=replace(recipe.optim, lr=2e-4))),
        (
            ["--optim.masked-attention", "never"],
            lambda r: replace(r, optim=replace(r.optim, masked_attention="never")),
        ),
        (["--model.weights", "none"], lambda recipe: replace(recipe, model=replace(recipe.model, weights="none"))),
        (["--model.image_size", "32", "64"], lambda r: replace(r, model=replace(r.model, image_size=(32, 64)))),
        (["--data.val", "None"], lambda recipe: replace(recipe, data=replace(recipe.data, val=None))),
    ],
)
@pytest.mark.parametrize("name", ["small", "nuclei"])
def test_train_changes_the_recipe_field_by_field(trained, capsys, name, arguments, expected):
    for order in (
        [name, *arguments, "--data", "a b=ü", "--out", "o"],
        ["--data", "a b=ü", "--out", "o", *arguments, name],
    ):
        assert main(["train", *order, "--json"]) == 0
        recipe: Recipe = RECIPES[name]()
        recipe = expected(replace(recipe, data=replace(recipe.data, root="a b=ü")))
        assert trained.recipe == recipe
        out, err = capsys.readouterr()
        assert last_json(out) == {"out": "o", "metrics": {"PQ": 0.5, "AP": None}}
        assert err.splitlines() == ["step 1/1", "next: eomt predict --model o IMAGES"]


def test_train_prints_a_table(trained, capsys):
    assert main(["train", "--data", "d", "--out", "o", "--init-from", "bundled"]) == 0
    assert trained.init_from == "bundled"
    out = capsys.readouterr().out
    assert re.search(r"PQ\s+│\s+0\.500", out)
    assert "results in o" in out


@pytest.mark.parametrize(("score", "segments"), [("0.5", 1), ("0.6", 0)])
def test_score_drops_instances(photos, segmenter_calls, capsys, score, segments):
    assert main(["predict", "in/a.png", "--task", "instance", "--score", score, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["images"][0]["segments"] == segments
