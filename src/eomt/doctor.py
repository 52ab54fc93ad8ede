"""Is this machine ready? One small check a question: what was found, and what to do where that falls short.

What a check gives is safe to show to others: no home folder, token or host name is in it. Nothing is downloaded,
and nothing heavy is imported before a check needs it. Printing is left to `cli.doctor`.
"""

import importlib
import io
import locale
import math
import os
import platform
import re
import shutil
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from eomt import machine

if TYPE_CHECKING:
    import torch

__all__ = ["Check", "Finding", "State", "checks", "examine", "redact"]

State = Literal["ok", "warn", "fail"]
SHARED_MEMORY = Path("/dev/shm")
MODULES = {"pillow": "PIL"}
"""Modules that are not called like the package that holds them."""
MIB, GIB = 2**20, 2**30
TORCH_BUILDS = "https://pytorch.org/get-started/locally"
MAX_FILES = 50_000
"""So many files of the cache are added up: a large one on a network disk must not hold the report up."""
PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")


class Finding(NamedTuple):
    """What a check gives: how it is, in words, and what to do about it."""

    state: State
    found: str
    fix: str | None = None


@dataclass(frozen=True)
class Check:
    """A finding under the name of its check; `fix` says what to do; where all is ok, what one may do."""

    name: str
    state: State
    found: str
    fix: str | None


def examine() -> Iterator[Check]:
    """Run check after check. One that breaks is a failure of its own and keeps none of the others from running."""
    for name, check in checks().items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # such as those of a driver that is too old: the check tells
                finding = check()
        except Exception as error:
            finding = Finding(
                "fail",
                f"cannot be checked ({_in_short(error)})",
                "mend what the error names; if that is eomt, report it together with all that stands here",
            )
        state, found, fix = finding
        yield Check(name, state, redact(found), redact(fix, host="") if fix else None)


def checks() -> dict[str, Callable[[], Finding]]:
    """Name every check, in the order of the report."""
    special = {"torch": torch_build, "torchvision": torchvision_operators}
    packages = {_name(text): partial(special.get(_name(text), package), text) for text in _required()}
    extras = {f"extra {name}": partial(extra, name) for name in _metadata("Provides-Extra")}
    return {
        "python": python,
        "platform": operating_system,
        "eomt": installation,
        "import name": import_name,
        **packages,
        "accelerator": accelerator,
        "processor": processor,
        "bf16 on the processor": bf16,
        "memory": memory,
        "shared memory": shared_memory,
        "disk: this folder": partial(disk, os.curdir, GIB, "free space there, or work in another folder"),
        "disk: temporary files": partial(
            disk, None, GIB // 4, "free space there, or set TMPDIR to another folder"
        ),
        "disk: model cache": model_cache_disk,
        "open files": open_files,
        "PNG": partial(codec, "PNG", "RGB", {}),
        "PNG, 16 bits": partial(codec, "PNG", "I;16", {}),
        "JPEG": partial(codec, "JPEG", "RGB", {"quality": 95}),
        "WebP": partial(codec, "WEBP", "RGB", {"lossless": True}),
        "TIFF, deflate": partial(codec, "TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
        "TIFF, LZW": partial(codec, "TIFF", "RGB", {"compression": "tiff_lzw"}),
        "TIFF, 16 bits": partial(codec, "TIFF", "I;16", {}),
        "bundled model": bundled_model,
        "model cache": model_cache,
        "published models": published_models,
        "hub": hub,
        "hub token": hub_token,
        "proxies": proxies,
        **extras,
        "clock": clock,
        "text": text_encoding,
        "colour": colour,
    }


# What must not be shown


def redact(text: str, host: str | None = None) -> str:
    """Take the home folder, other people's, the name of the host and what looks like a hub token out of a text."""
    for home in sorted(_homes(), key=len, reverse=True):
        text = re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", text)
    text = re.sub(r"([/\\](?:home|Users)[/\\])[^/\\\s]+", r"\1(someone)", text)
    text = re.sub(r"\bhf_\w{8,}", "(token)", text)
    text = re.sub(r"(\w://)[^/\s@]+@", r"\1(hidden)@", text)
    host = socket.gethostname() if host is None else host
    for name in (host, host.partition(".")[0]):
        if len(name) > 1 and name != "localhost":
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "(host)", text, flags=re.IGNORECASE)
    return text


def _homes() -> set[str]:
    """Give the ways to write the home folder; a folder at the root of the disk hides nothing."""
    try:
        written = Path.home()
    except RuntimeError:  # none is known
        return set()
    paths = {written, Path(os.path.realpath(written))}
    return {str(path) for path in paths if path != path.parent}


def _in_short(error: BaseException) -> str:
    """Name an error by its kind and its first line."""
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


# Python and packages


def python() -> Finding:
    """Python, against what the package's metadata asks for."""
    version = platform.python_version().rstrip("+")  # of a build from between two versions
    wanted = "".join(_metadata("Requires-Python"))
    if wanted and not _fits(version, wanted):
        return Finding("fail", f"{version}, but eomt needs {wanted}", f"make an environment with Python {wanted}")
    return Finding("ok", f"{version} ({platform.python_implementation()}, {sys.maxsize.bit_length() + 1} bits)")


def operating_system() -> Finding:
    """The operating system; the tests run on Linux."""
    libc = " ".join(platform.libc_ver())
    found = " ".join(part for part in (platform.system(), platform.release(), platform.machine(), libc) if part)
    if sys.maxsize < 2**32:
        return Finding("fail", f"{found}, Python of 32 bits", "install Python of 64 bits: torch needs it")
    if platform.system() != "Linux":
        return Finding("warn", f"{found}; eomt is tested on Linux", "where something fails, try Linux (or WSL 2)")
    return Finding("ok", found)


def installation() -> Finding:
    """The version of eomt, and the folder that it is imported from."""
    folder = Path(str(importlib.import_module("eomt").__file__)).parent
    try:
        version = metadata.version("eomt")
    except metadata.PackageNotFoundError:
        return Finding(
            "fail",
            f"runs from {folder} without being installed: what it needs is not known",
            "pip install eomt, or pip install -e . in the folder that holds its pyproject.toml",
        )
    return Finding("ok", f"{version} in {folder}")


def import_name() -> Finding:
    """Whether another package has put files into the folder of the same name."""
    owners = set(metadata.packages_distributions().get("eomt", [])) - {"eomt"}
    if owners:
        names = ", ".join(sorted(owners))
        return Finding(
            "fail",
            f"{names} is imported as eomt too: files of the two are mixed",
            f"pip uninstall {' '.join(sorted(owners))} eomt, then install the one that you want",
        )
    return Finding("ok", "eomt belongs to this package alone")


def package(text: str) -> Finding:
    """A package that eomt requires: there, new enough, importable, and content with the others' versions."""
    from packaging.requirements import Requirement

    wanted = Requirement(text)
    install = f"pip install --upgrade '{wanted.name}{wanted.specifier}'"
    try:
        version = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return Finding("fail", "is not installed", install)
    if not _fits(version, str(wanted.specifier)):
        return Finding("fail", f"{version}, but eomt needs {wanted.specifier}", install)
    try:
        importlib.import_module(MODULES.get(wanted.name, wanted.name.replace("-", "_")))
    except Exception as error:  # a library that is missing below it, or of another version, may raise anything
        again = f"pip install --force-reinstall '{wanted.name}{wanted.specifier}'"
        return Finding("fail", f"{version} cannot be imported ({_in_short(error)})", again)
    unmet = list(_unmet(wanted.name))
    if unmet:
        names = " ".join([wanted.name, *(name for name, _ in unmet)])
        return Finding("fail", f"{version} {', '.join(words for _, words in unmet)}", f"pip install -U {names}")
    return Finding("ok", f"{version} (needs {wanted.specifier})" if wanted.specifier else version)


def torch_build(text: str) -> Finding:
    """Torch, and what it is built for."""
    finding = package(text)
    if finding.state != "ok":
        return finding._replace(fix=f"{finding.fix} ({TORCH_BUILDS} tells which build suits the machine)")
    import torch

    return finding._replace(found=f"{finding.found}, built for {_built_for(torch)}")


def torchvision_operators(text: str) -> Finding:
    """Torchvision, and whether its operators were made for this torch."""
    finding = package(text)
    if finding.state != "ok":
        return finding
    import torch
    import torchvision

    try:
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:
        return Finding(
            "fail",
            f"{finding.found}: its operators do not work with torch {torch.__version__} ({_in_short(error)})",
            f"pip install --upgrade torch torchvision, both from one place ({TORCH_BUILDS})",
        )
    return finding._replace(found=f"{finding.found}, operators work")


def extra(name: str) -> Finding:
    """An optional part of eomt, as its metadata lists them: what it needs is there, or how to install it."""
    install = f"pip install 'eomt[{name}]'"
    lacking, old = [], []
    for wanted in _extra_requirements(name):
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            lacking.append(wanted.name)
            continue
        if not _fits(version, str(wanted.specifier)):
            old.append(f"{wanted.name} {version}, but eomt[{name}] needs {wanted.specifier}")
    if old:
        return Finding("warn", "; ".join(old), f"pip install --upgrade 'eomt[{name}]'")
    if lacking:
        return Finding("ok", f"optional, without {', '.join(lacking)}: {install}", install)
    return Finding("ok", "installed")


def _required() -> list[str]:
    """List what eomt cannot be without, as its metadata writes it: `torch>=2.10`."""
    try:
        return [text for text in metadata.requires("eomt") or [] if "extra ==" not in text]
    except metadata.PackageNotFoundError:
        return []  # which `installation` reports


def _metadata(key: str) -> list[str]:
    """Give what the package's metadata says under a key."""
    try:
        return metadata.metadata("eomt").get_all(key) or []
    except metadata.PackageNotFoundError:
        return []


def _extra_requirements(name: str) -> Iterator[Any]:
    """Give the requirements of an extra, and of the extras that it names in turn."""
    from packaging.requirements import Requirement

    for wanted in map(Requirement, metadata.requires("eomt") or []):
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            continue
        if wanted.marker.evaluate({"extra": name}):
            if wanted.name == "eomt":
                for other in wanted.extras - {name}:
                    yield from _extra_requirements(other)
            else:
                yield wanted


def _name(text: str) -> str:
    """Give the name of the package in a requirement."""
    return re.split(r"[^\w.-]", text, maxsplit=1)[0].lower()


def _fits(version: str, specifier: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(specifier).contains(version, prereleases=True)


def _unmet(name: str) -> Iterator[tuple[str, str]]:
    """Give what a package asks of the others that eomt requires and does not get: a name, and words."""
    from packaging.requirements import Requirement

    ours = {_name(text) for text in _required()}
    for wanted in map(Requirement, metadata.requires(name) or []):
        if wanted.name.lower() not in ours or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            continue  # which the check of that package reports
        if not _fits(version, str(wanted.specifier)):
            yield wanted.name, f"was made for {wanted.name}{wanted.specifier}, and {version} is installed"


# What computes


def accelerator() -> Finding:
    """The devices that torch can compute on beside the processor; each is given a sum to do."""
    import torch

    if torch.cuda.is_available():
        return _cuda_devices(torch)
    if torch.backends.mps.is_available():
        return Finding("ok", "mps (Apple)")
    if _nvidia_driver() is None:
        return Finding("ok", "none; the processor computes")
    if torch.version.cuda is None:
        return Finding(
            "warn",
            f"none is used: {_nvidia_driver()} is there, but this torch is built for {_built_for(torch)}",
            f"install a torch that is built for CUDA: {TORCH_BUILDS}",
        )
    return Finding(
        "warn",
        f"torch, built for {_built_for(torch)}, finds none, though {_nvidia_driver()} is there",
        "update the driver; look whether CUDA_VISIBLE_DEVICES hides the device; start a container with --gpus all",
    )


def _cuda_devices(torch: Any) -> Finding:
    words = []
    for index in range(torch.cuda.device_count()):
        of = torch.cuda.get_device_properties(index)
        words.append(f"cuda:{index} {of.name}, compute capability {of.major}.{of.minor}")
        try:
            assert torch.ones(8, device=f"cuda:{index}").sum().item() == 8
            free, total = torch.cuda.mem_get_info(index)
            with torch.cuda.device(index):
                fast = torch.cuda.is_bf16_supported(including_emulation=False)
        except (RuntimeError, AssertionError) as error:
            return Finding(
                "fail",
                f"{words[-1]}: a sum on it fails ({_in_short(error)})",
                f"free the device (nvidia-smi shows its users), or install a torch built for it ({TORCH_BUILDS}); "
                "until then: --device cpu",
            )
        words[-1] += f", {_size(free)} of {_size(total)} free, {'bf16' if fast else 'no bf16'}"
    return Finding("ok", "; ".join([*words, *filter(None, [_nvidia_driver()])]))


def _built_for(torch: Any) -> str:
    if torch.version.cuda:
        return f"CUDA {torch.version.cuda}"
    hip = getattr(torch.version, "hip", None)
    return f"ROCm {hip}" if hip else "the processor only"


def _nvidia_driver() -> str | None:
    """Name NVIDIA's driver, or None where there is none."""
    match = re.search(r"Module.*?\s(\d+\.\d[\d.]*)", machine.told(machine.PROC / "driver/nvidia/version"))
    if match:
        return f"NVIDIA driver {match[1]}"
    return "NVIDIA driver" if shutil.which("nvidia-smi") else None


def processor() -> Finding:
    """The processor, how much of it this process may use, and how many threads torch starts."""
    import torch

    cores, allowed, threads = os.cpu_count() or 1, machine.allowed_cores(), torch.get_num_threads()
    found = f"{machine.processor()}, {allowed:g} of {cores} cores, {threads} threads"
    if threads > math.ceil(allowed):
        return Finding("warn", found, f"set OMP_NUM_THREADS={math.ceil(allowed)}: more threads than cores wait")
    return Finding("ok", found)


def bf16() -> Finding:
    """Whether the processor is quick in bf16, measured, and whether `--precision auto` chooses accordingly."""
    import torch

    from eomt.devices import choose_precision

    with _one_thread():
        ratio = _product_seconds(torch.bfloat16) / _product_seconds(torch.float32)
    chosen = choose_precision("auto", torch.device("cpu"))
    found = f"{ratio:.2g} times as long as fp32; --precision auto takes {str(chosen).removeprefix('torch.')}"
    if chosen is torch.bfloat16 and ratio > 2:
        return Finding("warn", found, "give --precision fp32 when the processor computes")
    return Finding("ok", found)


def _product_seconds(dtype: "torch.dtype") -> float:
    """Time a small product of matrices: the best of four, of which the first also prepares the others."""
    import torch

    matrix, times = torch.ones(128, 128, dtype=dtype), []
    for _ in range(4):
        start = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - start)
    return min(times)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute small things with one thread: on a busy machine many would wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# What it needs beside that


def memory() -> Finding:
    """How much memory there is and is free, within what a container is given."""
    total, free = machine.memory()
    if not total:
        return Finding("ok", "not told by the system")
    found = f"{_size(free)} of {_size(total)} free"
    advice = "close other programs, give the container more, or use a smaller --image-size and --data.micro-batch"
    if free < GIB // 2:
        return Finding("fail", found, advice)
    return Finding("warn", found, advice) if free < 2 * GIB else Finding("ok", found)


def shared_memory() -> Finding:
    """The memory through which the data loader's workers hand over images."""
    if not SHARED_MEMORY.is_dir():
        return Finding("ok", "no limit of its own")
    usage = shutil.disk_usage(SHARED_MEMORY)
    found = f"{_size(usage.free)} of {_size(usage.total)} free"
    if not os.access(SHARED_MEMORY, os.W_OK) or usage.free < GIB:
        return Finding("warn", found, "start the container with --shm-size=8g, or train with --data.workers 0")
    return Finding("ok", found)


def disk(folder: str | Path | None, least: int, fix: str) -> Finding:
    """Whether a folder can be written to, and how much room there is (None: the one for temporary files)."""
    place = _existing(Path(tempfile.gettempdir() if folder is None else folder).absolute())
    usage = shutil.disk_usage(place)
    found = f"{_size(usage.free)} of {_size(usage.total)} free in {place}"
    if not os.access(place, os.W_OK):
        return Finding("warn", f"{place} cannot be written to", fix)
    if usage.free < 50 * MIB:
        return Finding("fail", found, fix)
    return Finding("warn", found, fix) if usage.free < least else Finding("ok", found)


def _existing(path: Path) -> Path:
    """Give the folder itself, or the nearest one above that is there."""
    return next(place for place in (path, *path.parents) if place.is_dir())


def open_files() -> Finding:
    """How many files a process may hold open: each worker of the data loader takes some."""
    try:
        import resource
    except ImportError:  # Windows
        return Finding("ok", "no limit that matters")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < 1024:
        return Finding("warn", f"at most {soft}", "ulimit -n 4096, before eomt in the same shell")
    return Finding("ok", "no limit" if soft < 0 else f"at most {soft}")


def codec(kind: str, mode: str, options: dict[str, Any]) -> Finding:
    """Whether Pillow writes and reads a kind of image: to the bit, and JPEG nearly so.

    Results are PNG files and most data sets JPEG; without the other kinds one can work.
    """
    import numpy as np
    from PIL import Image

    fix = "pip install --force-reinstall pillow (its wheels hold all codecs)"
    state: State = "fail" if kind in ("PNG", "JPEG") else "warn"
    values = np.arange(256).reshape(16, 16)
    pixels = (values * 257).astype(np.uint16) if mode == "I;16" else np.stack([values] * 3, 2).astype(np.uint8)
    file = io.BytesIO()
    try:
        Image.fromarray(pixels).save(file, kind, **options)
        again = np.asarray(Image.open(io.BytesIO(file.getvalue())))
    except (OSError, KeyError, ValueError, RuntimeError, ImportError) as error:
        return Finding(state, f"Pillow cannot write and read it ({_in_short(error)})", fix)
    most = 16 if kind == "JPEG" else 0
    if again.shape != pixels.shape or np.abs(again.astype(int) - pixels.astype(int)).max() > most:
        return Finding(state, "what Pillow reads is not what it wrote", fix)
    return Finding("ok", "written and read")


def bundled_model() -> Finding:
    """Whether the model that comes with eomt loads and segments a picture of a bright disc."""
    import numpy as np

    from eomt.errors import EomtError
    from eomt.inference.segmenter import Segmenter

    rows, columns = np.mgrid[:64, :64]
    disc = np.hypot(rows - 32, columns - 32) < 12
    image = np.repeat(np.where(disc, 190, 20).astype(np.uint8)[..., None], 3, 2)
    start = time.process_time()
    try:
        with _one_thread():
            prediction = Segmenter.from_pretrained("bundled", device="cpu").predict(image, precision="fp32")
    except (EomtError, OSError) as error:
        return Finding("fail", _in_short(error), "pip install --force-reinstall --no-deps eomt")
    if prediction.size != (64, 64) or not np.isfinite(prediction.scores).all():
        return Finding("fail", "its result makes no sense", "pip install --force-reinstall torch torchvision timm")
    seconds = time.process_time() - start
    return Finding("ok", f"loads and segments ({len(prediction)} segments in a test picture, {seconds:.1f} s)")


# The hub's models and settings


def model_cache() -> Finding:
    """Where downloaded models are kept, how much they take, and whether more can be kept."""
    cache = _cache()
    place = _existing(cache)
    if not os.access(place, os.W_OK):
        return Finding("warn", f"{cache}: {place} cannot be written to", "set HF_HOME to a folder of your own")
    if not cache.is_dir():
        return Finding("ok", f"{cache}, made when a model is downloaded")
    count, total = 0, 0
    for count, size in enumerate(_file_sizes(cache.glob("*--*/blobs")), 1):
        total += size
        if count == MAX_FILES:
            break
    more = "at least " if count == MAX_FILES else ""
    return Finding("ok", f"{cache}, {more}{_size(total)} in {count} files")


def model_cache_disk() -> Finding:
    """Room for downloaded models: the largest has some gigabytes."""
    return disk(_cache(), 5 * GIB, "free space there, or set HF_HOME to a folder on another disk")


def published_models() -> Finding:
    """Which of the published models are in the cache, by the names that eomt knows them by."""
    from eomt.weights import zoo

    published = {name: model.repository for name, model in zoo.MODELS.items() if model.repository}
    names = [name for name, repository in published.items() if zoo.cached(repository)]
    there = f": {', '.join(names)}" if names else "; eomt models ls names them"
    return Finding("ok", f"{len(names)} of {len(published)} in the cache{there}")


def hub() -> Finding:
    """Whether models may be downloaded, and from where, by huggingface_hub's own settings."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    try:
        endpoint = urlsplit(str(constants.ENDPOINT))
        port = f":{endpoint.port}" if endpoint.port else ""
    except ValueError:  # it may hold a password: it is not shown
        endpoint, port = urlsplit(""), ""
    if endpoint.scheme not in ("http", "https") or not endpoint.hostname:
        return Finding("warn", "HF_ENDPOINT is no address", "unset HF_ENDPOINT, or write it https://NAME")
    found = f"models come from {endpoint.scheme}://{endpoint.hostname}{port}"
    if constants.HF_HUB_OFFLINE:
        return Finding(
            "ok", f"{found}; offline (HF_HUB_OFFLINE): only from the cache", "unset HF_HUB_OFFLINE to download"
        )
    return Finding("ok", found)


def hub_token() -> Finding:
    """Whether there is a token for gated models. It is not read."""
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(variable):
            return Finding("ok", f"set ({variable})")
    constants: Any = importlib.import_module("huggingface_hub.constants")
    if Path(constants.HF_TOKEN_PATH).is_file():
        return Finding("ok", "stored by hf auth login")
    return Finding("ok", "none; only gated models need one", "hf auth login, where a model is gated")


def proxies() -> Finding:
    """Which variables send downloads through a proxy; their addresses are not shown."""
    given = {name: os.environ.get(name) or os.environ.get(name.lower()) for name in PROXIES}
    names = [name for name, value in given.items() if value]
    wrong = [name for name in names if name != "NO_PROXY" and "://" not in str(given[name])]
    if wrong:
        return Finding(
            "warn", f"{', '.join(wrong)} without http:// or https://", "write it http://NAME:PORT, or unset it"
        )
    return Finding("ok", f"set: {', '.join(names)}" if names else "none set")


def _cache() -> Path:
    constants: Any = importlib.import_module("huggingface_hub.constants")
    return Path(constants.HF_HUB_CACHE).absolute()


def _file_sizes(folders: Iterable[Path]) -> Iterator[int]:
    for folder in folders:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False):
                    yield entry.stat(follow_symlinks=False).st_size


# The terminal and the clock


def clock() -> Finding:
    """Whether the clock can be right: certificates of downloads, and caches, go by it."""
    now = time.time()
    found = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if now < Path(__file__).stat().st_mtime - 24 * 3600:
        return Finding("warn", f"{found}, before eomt was installed", "set the clock of this machine")
    return Finding("ok", found)


def text_encoding() -> Finding:
    """Whether file names, files and the terminal take every letter."""
    encodings = {
        "file names": sys.getfilesystemencoding(),
        "files": locale.getpreferredencoding(False),
        "terminal": getattr(sys.stdout, "encoding", None) or "utf-8",
    }
    found = ", ".join(f"{what} {encoding.lower()}" for what, encoding in encodings.items())
    if all("utf" in encoding.lower() for encoding in encodings.values()):
        return Finding("ok", found)
    return Finding("warn", found, "set PYTHONUTF8=1, and LANG=C.UTF-8 or another UTF-8 locale")


def colour() -> Finding:
    """Whether output is coloured, and what settles it."""
    if os.environ.get("NO_COLOR"):
        return Finding("ok", "off (NO_COLOR is set)", "unset NO_COLOR to have colours")
    if os.environ.get("TERM") == "dumb":
        return Finding("ok", "off (TERM is dumb)")
    return Finding("ok", "on" if sys.stdout.isatty() else "off (the output is no terminal)")


def _size(count: int) -> str:
    """Write a number of bytes for people."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"
