"""The published models and their files, against a local stand-in for the hub. Nothing here reaches the network."""

import errno
import hashlib
import inspect
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants, save_torch_state_dict
from safetensors.numpy import load_file, save

from eomt.cli import main
from eomt.config import ModelConfig
from eomt.errors import ModelError, ResourceError
from eomt.inference.segmenter import Segmenter
from eomt.models.eomt import EoMT
from eomt.recipes import RECIPES
from eomt.weights import authors, hugging_face, source, zoo
from eomt.weights import hub as files
from eomt.weights.architecture import BACKBONES
from eomt.weights.checkpoint import ModelInfo
from eomt.weights.tensors import read_tensors
from hub_server import COMMIT, Hub, Repository

ROOT = Path(__file__).parent.parent
NAME = "owner/model"
PUBLISHED = "tue-mps/coco_panoptic_eomt_small_640_2x"
WEIGHTS = {"query.weight": np.random.default_rng(0).standard_normal((500, 100)).astype(np.float32)}
SMALL = save(WEIGHTS)  # 200 kB
CONFIG = b'{"model_type": "eomt"}'
INDEX = "model.safetensors.index.json"
SHA256 = hashlib.sha256(SMALL).hexdigest()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # what was written when a connection breaks off
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    return folder


@pytest.fixture
def hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    files = {
        "config.json": CONFIG,
        "model.safetensors": SMALL,
        "README.md": b"words",
        "pytorch_model.bin": b"pickle",
    }
    with Hub({NAME: Repository(files)}) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield server


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


# The table


def test_models_are_those_of_the_authors_pages() -> None:
    published = [model for model in zoo.MODELS.values() if model.repository]
    assert len(published) == 22
    assert sum(model.base is not None for model in published) == 7
    assert len({model.repository for model in published}) == 22
    assert Counter(model.task for model in published) == {"panoptic": 15, "instance": 4, "semantic": 3}
    assert [model.name for model in published if not model.loadable] == ["coco_panoptic_7b_640"]
    for model in published:
        parts = model.name.split("_")
        assert parts[:2] == [model.dataset, model.task]
        assert int(parts[3]) == model.image_size[0]
        assert model.repository is not None
        assert model.repository.startswith("tue-mps/")
        assert model.name.endswith("_dinov3") == (model.base is not None)


@pytest.mark.parametrize(
    ("name", "score", "queries", "joint_blocks", "repository"),
    [  # one of each page and size, read off the authors' pages
        ("coco_panoptic_small_640_2x", ("PQ", 46.7), 200, 3, "coco_panoptic_eomt_small_640_2x"),
        ("coco_panoptic_giant_1280", ("PQ", 59.2), 200, 5, "coco_panoptic_eomt_giant_1280"),
        ("coco_panoptic_7b_640", ("PQ", 58.4), None, None, "coco_panoptic_eomt_7b_640"),
        ("ade20k_panoptic_large_1280", ("PQ", 51.7), 200, 4, "ade20k_panoptic_eomt_large_1280"),
        ("cityscapes_semantic_large_1024", ("mIoU", 84.2), 100, 4, "cityscapes_semantic_eomt_large_1024"),
        ("coco_instance_large_640", ("AP", 45.2), 200, 4, "coco_instance_eomt_large_640"),
        ("coco_panoptic_base_640_2x_dinov3", ("PQ", 53.1), 200, 3, "coco_panoptic_eomt_base_640_dinov3"),
        ("ade20k_semantic_large_512_dinov3", ("mIoU", 59.5), 100, 4, "ade_semantic_eomt_large_512_dinov3"),
    ],
)
def test_facts(name: str, score: tuple, queries: int, joint_blocks: int, repository: str) -> None:
    model = zoo.MODELS[name]
    assert model.score is not None
    assert model.score[:2] == score
    assert (model.num_queries, model.num_joint_blocks) == (queries, joint_blocks)
    assert model.repository == f"tue-mps/{repository}"


def test_models_are_what_their_recipes_build() -> None:
    for model in zoo.MODELS.values():
        if model.repository is None or not model.loadable:
            continue
        recipe = RECIPES[model.name]()
        config = recipe.model
        for name in ("backbone", "image_size", "patch_size", "num_queries", "num_joint_blocks"):
            assert getattr(config, name) == getattr(model, name), (model.name, name)
        assert recipe.task == model.task
        assert model.score is not None  # the page of recipes is compared with the docstrings in test_recipes
        assert f": {model.score.metric} {model.score.value} (" in (inspect.getdoc(RECIPES[model.name]) or "")


def test_a_width_gives_the_joint_blocks_of_the_published_models_away() -> None:
    published = [model for model in zoo.MODELS.values() if model.repository and model.loadable]
    assert len(published) == 21
    for model in published:
        width = BACKBONES[model.backbone or ""].width
        assert authors.JOINT_BLOCKS[width] == model.num_joint_blocks, model.name


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("coco_panoptic_large_640", "coco_panoptic_large_640"),
        ("COCO-Panoptic-Large-640", "coco_panoptic_large_640"),
        ("tue-mps/coco_panoptic_eomt_large_640", "coco_panoptic_large_640"),
        ("bundled", "bundled"),
        ("", None),
        ("coco_panoptic_large", None),
    ],
)
def test_find(name: str, found: str | None) -> None:
    model = zoo.find(name)
    assert (model.name if model else None) == found


def test_suggest() -> None:
    assert zoo.suggest("coco_panoptic_larg_640")[0] == "coco_panoptic_large_640"
    assert zoo.suggest("tue-mps/coco_instance_eomt_large_64")[0] == "coco_instance_large_640"
    assert zoo.suggest("resnet") == []


def test_tables_in_the_documentation_are_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "models_table", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, eomt.weights.zoo; print({'torch', 'huggingface_hub', 'timm'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


# Files


def test_fetch_takes_what_a_model_needs(hub: Hub, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert files.cached(NAME) is None
    with caplog.at_level(logging.INFO, "eomt"):
        folder = zoo.fetch(NAME)
    assert names(folder) == ["config.json", "model.safetensors"]
    assert (folder / "config.json").read_bytes() == CONFIG
    np.testing.assert_array_equal(load_file(folder / "model.safetensors")["query.weight"], WEIGHTS["query.weight"])
    assert caplog.messages == [f"fetching {NAME} into {cache}: config.json, model.safetensors (200 kB)"]
    assert zoo.cached(NAME) == folder == zoo.cached(NAME, COMMIT)
    assert folder.is_relative_to(cache)


def test_second_use_needs_no_network(hub: Hub) -> None:
    folder = zoo.fetch(NAME)
    asked = len(hub.requests)
    assert zoo.fetch(NAME) == folder
    assert len(hub.requests) == asked
    hub.stop()
    assert zoo.fetch(NAME) == folder


def test_settings_that_another_program_left_out_are_fetched(hub: Hub) -> None:
    """Only the weights are in the cache: they do where the hub cannot be reached, else the rest is fetched."""
    folder = zoo.fetch(NAME)
    (folder / "config.json").unlink()
    assert names(zoo.fetch(NAME)) == ["config.json", "model.safetensors"]
    (folder / "config.json").unlink()
    hub.stop()
    assert names(zoo.fetch(NAME)) == ["model.safetensors"]


@pytest.mark.parametrize(
    ("stored", "fetched"),
    [
        (["pytorch_model.bin", "training.bin"], ["pytorch_model.bin"]),
        (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
        (
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "preprocessor_config.json"],
            ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "preprocessor_config.json"],
        ),
        (["model.safetensors", INDEX], ["model.safetensors"]),
    ],
)
def test_choice_of_files(hub: Hub, stored: list[str], fetched: list[str]) -> None:
    hub.repositories[NAME].files = {name: name.encode() for name in stored}
    folder = zoo.fetch(NAME)
    assert names(folder) == fetched
    (folder / fetched[0]).unlink()
    assert zoo.cached(NAME) is None  # weights, or a part of them, are missing


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A small random model as `eomt convert --to hf` writes it."""
    config = ModelConfig("vit_small_patch14_reg4_dinov2", "none", (64, 64), depth=2, num_joint_blocks=1)
    hugging_face.write(EoMT(config, 80).state_dict(), ModelInfo("instance", (), config), tmp_path / "theirs")
    return tmp_path / "theirs"


def save_anew(folder: Path) -> None:
    """Add to `config.json` what transformers adds when it saves a folder."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_version": "5.0"}))


def test_a_model_in_parts_is_loaded_by_name(hub: Hub, theirs: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Cut as transformers cuts large models; which part has which weight stands in the index."""
    whole = source.load(theirs)[0].state_dict()
    save_torch_state_dict(read_tensors(theirs / "model.safetensors"), theirs, max_shard_size="5MB")
    save_anew(theirs)
    assert len(list(theirs.glob("model-*-of-*.safetensors"))) > 2
    hub.repositories[NAME].files = {file.name: file.read_bytes() for file in theirs.iterdir()}
    with caplog.at_level(logging.INFO, "eomt"):
        loaded = source.load(NAME)[0].state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in whole.items())
    assert INDEX in caplog.text
    hub.stop()
    assert source.load(NAME)[0].state_dict().keys() == whole.keys()
    assert zoo.verify(NAME) == []


def test_an_index_that_another_program_left_out_is_fetched(hub: Hub) -> None:
    parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    hub.repositories[NAME].files = {name: name.encode() for name in (*parts, INDEX)}
    folder = zoo.fetch(NAME)
    (folder / INDEX).unlink()
    assert names(zoo.fetch(NAME)) == [*parts, INDEX]


def test_interrupted_download_goes_on(hub: Hub, cache: Path) -> None:
    hub.repositories[NAME].cut_at = 123_456
    with pytest.raises(
        ModelError, match=r"interrupted.* 120 kB are kept, and the same command goes on from there"
    ):
        zoo.fetch(NAME)
    assert zoo.cached(NAME) is None
    hub.repositories[NAME].cut_at = None
    folder = zoo.fetch(NAME)
    assert (folder / "model.safetensors").read_bytes() == SMALL
    assert hub.ranges() == [None, "bytes=120000-", "bytes=120000-"]  # the second was answered by 503
    assert not list(cache.rglob("*.incomplete"))


def test_whole_but_unnamed_download_is_used(hub: Hub, cache: Path) -> None:
    """The process ended between the last byte and the check."""
    blobs = cache / "models--owner--model" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{SHA256}.incomplete").write_bytes(SMALL)
    assert (zoo.fetch(NAME) / "model.safetensors").read_bytes() == SMALL
    assert hub.ranges() == []


def test_damaged_download_is_thrown_away(hub: Hub, cache: Path) -> None:
    hub.repositories[NAME].damaged = True
    with pytest.raises(ModelError, match=r"model\.safetensors came with other content than .* \(sha256\)"):
        zoo.fetch(NAME)
    assert zoo.cached(NAME) is None
    assert not [name for name in names(cache / "models--owner--model" / "blobs") if SHA256 in name]
    hub.repositories[NAME].damaged = False
    assert (zoo.fetch(NAME) / "model.safetensors").read_bytes() == SMALL


@pytest.mark.parametrize(
    ("repository", "revision", "said"),
    [
        ("owner/gated", None, r"gated(.|\n)*Open http://127.*/owner/gated (.|\n)*hf auth login"),
        ("owner/nothing", None, "there is no such repository at http://127.* or it is private"),
        (NAME, "v2", "no revision v2"),
        ("owner/words", None, r"no \*\.safetensors and no pytorch_model\.bin \(it has README\.md\)"),
        ("owner", None, "expected OWNER/NAME"),
        ("../../etc", None, "expected OWNER/NAME"),
    ],
)
def test_refusals(hub: Hub, repository: str, revision: str | None, said: str) -> None:
    hub.repositories["owner/gated"] = Repository({"config.json": CONFIG, "model.safetensors": SMALL}, gated=True)
    hub.repositories["owner/words"] = Repository({"README.md": b"words"})
    with pytest.raises(ModelError, match=said):
        zoo.fetch(repository, revision)


def test_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.stop()
    with pytest.raises(ModelError, match=r"not in the cache, and http://127.* cannot be reached"):
        zoo.fetch(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE forbids"):
        zoo.fetch(NAME)


def test_disk_too_small(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 999, 999))
    with pytest.raises(ResourceError, match=r"200 kB are to be fetched, but .* has 999 bytes free"):
        zoo.fetch(NAME)
    assert hub.ranges() == []


def test_disk_runs_full(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(ResourceError, match="is full; make room"):
        zoo.fetch(NAME)


def test_verify(hub: Hub) -> None:
    folder = zoo.fetch(NAME)
    assert zoo.verify(NAME) == zoo.verify(folder) == []
    for name in ("config.json", "model.safetensors"):
        content = bytearray((folder / name).read_bytes())
        content[7] ^= 1
        (folder / name).resolve().write_bytes(content)
    sums = (_git(folder / "config.json"), _git(CONFIG)), (_sha(folder / "model.safetensors"), SHA256[:8])
    assert [re.sub(r".*/", "", problem) for problem in zoo.verify(NAME)] == [
        f"{name}: its content has changed (checksum {now}, not {then})"
        for name, (now, then) in zip(("config.json", "model.safetensors"), sums, strict=True)
    ]
    (folder / "model.safetensors").resolve().unlink()
    assert "model.safetensors: cannot be read" in zoo.verify(NAME)[1]


def _git(content: bytes | Path) -> str:
    content = content.read_bytes() if isinstance(content, Path) else content
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()[:8]


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:8]


def test_verify_folders(cache: Path, tmp_path: Path) -> None:
    """Our checkpoints name their checksum; a file that somebody copied has none."""
    assert zoo.verify("bundled") == []
    copy = shutil.copytree(files.BUNDLED_FOLDER, tmp_path / "copy")
    assert zoo.verify(copy) == []
    weights = next(copy.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert [problem.partition(": ")[2][:24] for problem in zoo.verify(copy)] == ["its content has changed "]
    (copy / "other.safetensors").write_bytes(b"other")
    weights.unlink()
    assert [problem.partition(": ")[2][:22] for problem in zoo.verify(copy)] == [
        "missing",
        "no checksum of it is k",
    ]
    with pytest.raises(ModelError, match="nothing to check"):
        zoo.verify(NAME)


def test_verify_what_was_written_for_transformers(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Until transformers saves it anew, which copies our sum of the weights that were there before."""
    assert zoo.verify(theirs) == []
    weights = theirs / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert [problem.partition(": ")[2][:24] for problem in zoo.verify(theirs)] == ["its content has changed "]
    save_anew(theirs)
    assert ["no checksum of it is known" in problem for problem in zoo.verify(theirs)] == [True]
    assert main(["models", "verify", str(theirs)]) == 7
    assert "no checksum of it is known" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "sums"),
    [
        ({"weights": {"file": "model-12.safetensors", "sha256": "ab"}}, {"model-12.safetensors": "ab"}),
        ({"model_type": "eomt", "eomt": {"sha256": "ab"}}, {"model.safetensors": "ab"}),
        ({"eomt": {"sha256": "ab"}, "transformers_version": "5.0"}, {}),
        ({"weights": {"file": 3, "sha256": "ab"}}, {}),
        ({"weights": [], "eomt": "ab"}, {}),
        ({}, {}),
        ([], {}),
        (None, {}),
    ],
)
def test_promised_sums(config: object, sums: dict[str, str]) -> None:
    assert files.promised(config) == sums


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{", b"\xff", b"[]"])
def test_a_config_that_promises_nothing(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    (tmp_path / "model.safetensors").write_bytes(SMALL)
    assert ["no checksum of it is known" in problem for problem in zoo.verify(tmp_path)] == [True]


def test_remove(hub: Hub, cache: Path) -> None:
    assert zoo.remove(NAME) == 0
    zoo.fetch(NAME)
    assert zoo.remove(NAME) == len(SMALL) + len(CONFIG)
    assert zoo.cached(NAME) is None
    hub.repositories[NAME].cut_at = 50_000
    with pytest.raises(ModelError):
        zoo.fetch(NAME)
    assert zoo.remove(NAME) == 50_000 + len(CONFIG)
    assert not (cache / "models--owner--model").exists()


# The commands


def models(*arguments: str, hub: Hub, home: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "eomt", "models", *arguments],
        capture_output=True,
        text=True,
        env=_environment(hub, home),
        timeout=120,
    )


def _environment(hub: Hub, home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return {**kept, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}


def test_a_users_way(tmp_path: Path) -> None:
    """Processes of their own, told by the environment where the hub is: fetched, listed, used without it."""
    with Hub({PUBLISHED: Repository({"pytorch_model.bin": SMALL})}) as hub:
        done = models("get", "coco-panoptic-small-640-2x", hub=hub, home=tmp_path)
        assert done.returncode == 0, done.stderr
        folder = Path(done.stdout.strip())
        assert names(folder) == ["pytorch_model.bin"]
        assert f"fetching {PUBLISHED}" in done.stderr
        asked = len(hub.requests)
        again = models("get", PUBLISHED, hub=hub, home=tmp_path)
        assert again.stdout == done.stdout
        assert len(hub.requests) == asked
    assert models("get", PUBLISHED, hub=hub, home=tmp_path).stdout == done.stdout  # the server is shut down
    listed = json.loads(models("ls", "--dataset", "coco", "--json", hub=hub, home=tmp_path).stdout)["models"]
    assert [model["name"] for model in listed if model["cached"]] == ["coco_panoptic_small_640_2x"]
    elsewhere = models("get", "coco_panoptic_large_640", hub=hub, home=tmp_path)
    assert elsewhere.returncode == 4
    assert "cannot be reached" in elsewhere.stderr
    assert "Traceback" not in elsewhere.stderr


def test_killed_process_goes_on(tmp_path: Path) -> None:
    content = np.random.default_rng(1).bytes(24_000_000)  # more than two of huggingface_hub's chunks of 10 MB
    with Hub({NAME: Repository({"model.safetensors": content}, stall_at=23_000_000)}) as hub:
        command = [sys.executable, "-m", "eomt", "models", "get", NAME]
        with subprocess.Popen(command, env=_environment(hub, tmp_path), stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 60
            while _begun(tmp_path) < 20_000_000 and time.monotonic() < deadline:
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
        begun = _begun(tmp_path)
        assert begun >= 20_000_000
        hub.repositories[NAME].stall_at = None
        done = models("get", NAME, hub=hub, home=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "going on after" in done.stderr
        assert (Path(done.stdout.strip()) / "model.safetensors").read_bytes() == content
        assert hub.ranges() == [None, f"bytes={begun}-"]


def _begun(home: Path) -> int:
    return sum(file.stat().st_size for file in home.rglob("*.incomplete"))


def test_get_says_what_a_delta_needs(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    model = zoo.MODELS["coco_panoptic_large_640_dinov3"]
    assert model.repository is not None
    assert model.base is not None
    hub.repositories[model.repository] = Repository({"pytorch_model.bin": SMALL})
    hub.repositories[model.base] = Repository({"model.safetensors": SMALL}, gated=True)
    assert main(["models", "get", model.name]) == 0
    shown = capsys.readouterr()
    assert f"open https://huggingface.co/{model.base}" in shown.err
    assert main(["models", "get", model.base]) == 4
    assert "accept the licence" in capsys.readouterr().err
    hub.repositories[model.base].gated = False
    assert main(["models", "get", model.base]) == 0
    capsys.readouterr()
    assert main(["models", "get", model.name]) == 0
    assert "hf auth login" not in capsys.readouterr().err


def test_verify_and_remove(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.repositories[PUBLISHED] = hub.repositories[NAME]
    folder = zoo.fetch(PUBLISHED)
    assert main(["models", "verify"]) == 0
    assert capsys.readouterr().out == "coco_panoptic_small_640_2x: as it should be\nbundled: as it should be\n"
    (folder / "model.safetensors").resolve().write_bytes(SMALL[:-1])
    assert main(["models", "verify", "coco_panoptic_small_640_2x"]) == 7
    shown = capsys.readouterr()
    assert "NOT as it should be" in shown.out
    assert "model.safetensors: its content has changed" in shown.err
    assert main(["models", "rm", "coco_panoptic_small_640_2x"]) == 0
    assert capsys.readouterr().out == f"removed {PUBLISHED}: 200 kB freed\n"
    assert main(["models", "rm", "coco_panoptic_small_640_2x"]) == 0
    assert "nothing of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["rm", "bundled"], 2, "is not removed"),
        (["get"], 2, "needs a name"),
        (["info", "coco_panoptic_larg_640"], 4, "did you mean coco_panoptic_large_640"),
        (["get", "coco_panoptic_larg_640"], 4, "did you mean coco_panoptic_large_640"),
        (["verify", "coco_panoptic_large_640"], 4, "nothing to check"),
        (["gt"], 2, "did you mean get"),
        ([], 2, "actions:"),
    ],
)
def test_mistakes(
    cache: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    assert main(["models", *arguments]) == code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "shown", "absent"),
    [
        (["ls"], ["coco_panoptic_small_640_2x", "46.7 PQ", "bundled"], []),
        (["ls", "--task", "instance"], ["coco_instance_large_1280_dinov3", "49.9 AP"], ["panoptic"]),
        (["ls", "--dataset", "cityscapes"], ["84.2 mIoU"], ["coco_"]),
        (["ls", "--dataset", "cityscapes", "--task", "instance"], ["no published model"], ["coco_"]),
        (["info", "coco-panoptic-large-640"], ["316 million", "MIT", "backbone Apache-2.0", "dinov2.md"], []),
        (
            ["info", "coco-panoptic-7b-640"],
            ["classes           coco_panoptic\n", "patch size        –\n"],
            ["class names"],
        ),
        (
            ["info", "bundled"],
            ["docs/nuclei.md", "classes           nucleus, background\n", "patch size        14\n"],
            ["http"],
        ),
        (["info", "bundled", "--json"], ['"class_names": ["nucleus", "background"]', '"patch_size": 14'], []),
        (["get", "bundled"], [str(files.BUNDLED_FOLDER)], []),
    ],
)
def test_what_is_shown(
    cache: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], shown: list[str], absent: list[str]
) -> None:
    assert main(["models", *arguments]) == 0
    out = capsys.readouterr().out
    assert [text for text in shown if text not in out] == []
    assert [text for text in absent if text in out] == []


def test_parameters_are_those_that_the_recipes_count() -> None:
    """The recipes' own are counted on the meta device in test_recipes; the bundled model's by its tensors."""
    for model in zoo.MODELS.values():
        if model.name in RECIPES and model.name != "bundled":
            assert f"Cost: {model.parameters:.0f} M parameters" in inspect.getdoc(RECIPES[model.name])
    bundled, published = Segmenter.from_pretrained(device="cpu"), zoo.MODELS["bundled"]
    assert published.parameters == sum(each.numel() for each in bundled.model.parameters()) / 1e6
    assert published.class_names == tuple(category.name for category in bundled.categories)
