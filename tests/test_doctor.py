"""The doctor: each check finds what is wrong and what to do, the report gives nobody away, and how it ends."""

import importlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import eomt.machine
from eomt import doctor
from eomt.cli import main
from eomt.cli.doctor import DoctorArguments
from eomt.cli.options import known_options
from eomt.doctor import GIB, MIB, Finding, checks, examine, redact
from eomt.errors import ModelError
from eomt.weights.zoo import MODELS

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine whose system tells nothing: files are added under /proc and /sys/fs/cgroup."""
    monkeypatch.setattr(eomt.machine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(eomt.machine, "CGROUPS", tmp_path / "cgroup")

    def add(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return add


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The settings of huggingface_hub, with a cache that is not there yet."""
    constants = importlib.import_module("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "ENDPOINT", "https://huggingface.co")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    return SimpleNamespace(set=lambda name, value: monkeypatch.setattr(constants, name, value), root=tmp_path)


def install(monkeypatch, versions: dict[str, str | None], requires: dict[str, list[str]] | None = None) -> None:
    """Pretend that packages have these versions (None: not installed) and requirements."""
    version, wanted = metadata.version, metadata.requires

    def stand_in(name):
        if name in versions and versions[name] is None:
            raise metadata.PackageNotFoundError(name)
        return versions.get(name) or version(name)

    monkeypatch.setattr(doctor.metadata, "version", stand_in)
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: (requires or {}).get(name) or wanted(name))


def disks(monkeypatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(64 * GIB, 64 * GIB - free, free))


# All of it


def test_this_machine_passes_without_the_network(monkeypatch, capsys):
    def no_network(*_):
        raise AssertionError("the doctor went to the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    threads = torch.get_num_threads()
    assert main(["doctor", "--json"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert (out.count("\n"), err) == (1, "")
    assert set(report) == {"checks", "ok"}
    assert report["ok"] is True
    assert len(report["checks"]) >= 25
    for check in report["checks"]:
        assert list(check) == ["name", "state", "found", "fix"]
        assert check["state"] == "ok" or (check["state"] == "warn" and check["fix"])
        assert check["found"]
    assert len({check["name"] for check in report["checks"]}) == len(report["checks"])
    assert torch.get_num_threads() == threads


def few(**findings: Finding):
    return lambda: {name: lambda finding=finding: finding for name, finding in findings.items()}


@pytest.mark.parametrize(
    ("findings", "code", "lines"),
    [
        ({"a": Finding("ok", "x", "y")}, 0, ["✓ a x", "1 check: 1 good, 0 warnings, 0 failures"]),
        (
            {"a": Finding("ok", "x"), "b": Finding("warn", "low", "add")},
            0,
            ["✓ a x", "! b low", "fix: add", "2 checks: 1 good, 1 warning, 0 failures"],
        ),
        (
            {"a": Finding("fail", "a\x1b[2J", "mend"), "b": Finding("ok", "x")},
            7,
            [r"✗ a a\x1b[2J", "fix: mend", "✓ b x", "2 checks: 1 good, 0 warnings, 1 failure"],
        ),
    ],
)
def test_lines_and_exit_codes(findings, code, lines, monkeypatch, capsys):
    monkeypatch.setattr(doctor, "checks", few(**findings))
    assert main(["doctor"]) == code
    assert [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()] == lines
    assert main(["doctor", "--json"]) == code
    assert json.loads(capsys.readouterr().out)["ok"] == (code == 0)


class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("encoding", "environment", "line"),
    [
        ("utf-8", {"TERM": "xterm"}, "\x1b[32m✓\x1b[0m a"),
        ("utf-8", {"TERM": "xterm", "NO_COLOR": "1"}, "✓ a"),
        ("utf-8", {"TERM": "dumb"}, "✓ a"),
        ("ascii", {"TERM": "dumb"}, "+ a"),
    ],
)
def test_terminals(encoding, environment, line, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(doctor, "checks", few(a=Finding("ok", "x")))
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", Terminal(written, encoding=encoding))
    assert main(["doctor"]) == 0
    assert written.getvalue().decode().startswith(line)


def test_a_check_that_breaks_is_a_failure_and_the_others_run(monkeypatch):
    def broken():
        raise KeyError("oops")

    monkeypatch.setattr(doctor, "checks", lambda: {"a": broken, "b": lambda: Finding("ok", "x")})
    first, second = examine()
    assert (first.state, first.found) == ("fail", "cannot be checked (KeyError: 'oops')")
    assert "report it" in first.fix
    assert second.state == "ok"


def run_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


def test_help_is_light_and_names_every_option():
    code = "import sys; from eomt.cli import main\ntry: main(['doctor', '--help'])\nexcept SystemExit: pass\n"
    done = run_python(code + "print('HEAVY', sorted({'torch', 'numpy', 'PIL', 'packaging'} & set(sys.modules)))")
    assert done.stdout.endswith("HEAVY []\n"), done.stderr
    assert [option for option in known_options(DoctorArguments) if option not in done.stdout] == []


def test_it_runs_where_tyro_is_missing():
    """What reads the arguments is a package that may itself be the trouble."""
    code = "import sys; sys.modules['tyro'] = None\nfrom eomt import doctor\n"
    code += "every = doctor.checks()\ndoctor.checks = lambda: {'tyro': every['tyro']}\n"
    done = run_python(code + "from eomt.cli import main\nsys.exit(main(['doctor', '--json']))")
    assert done.returncode == 7, done.stderr
    [check] = json.loads(done.stdout)["checks"]
    assert "cannot be imported" in check["found"]
    assert check["fix"] == "pip install --force-reinstall 'tyro>=1.0'"


# What must not be shown


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("in /home/ann/work and /home/ann", "in ~/work and ~"),
        ("file:///home/ann/x", "file://~/x"),
        ("/home/anna/x, /data/home/bob/y", "/home/(someone)/x, /data/home/(someone)/y"),
        (r"C:\Users\bob\x", r"C:\Users\(someone)\x"),
        ("token hf_abcdefgh12 here", "token (token) here"),
        ("at https://me:secret@mirror:8080/x", "at https://(hidden)@mirror:8080/x"),
        ("/scratch/Box-7/x on box-7.lab.org", "/scratch/(host)/x on (host)"),
        ("box-70 and mybox-7", "box-70 and mybox-7"),
        ("3.11.7 in /usr/lib", "3.11.7 in /usr/lib"),
    ],
)
def test_redact(text, safe, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setattr(socket, "gethostname", lambda: "box-7.lab.org")
    assert redact(text) == safe


def test_home_at_the_root_hides_nothing(monkeypatch):
    monkeypatch.setenv("HOME", "/")
    assert redact("in /tmp", host="localhost") == "in /tmp"


def test_the_whole_report_gives_nobody_away(tmp_path, monkeypatch, hub, capsys):
    secrets = {
        "HF_TOKEN": "hf_abcdefghijkl",
        "HTTPS_PROXY": "http://ann:pass-word@proxy-7:3128",
        "TMPDIR": str(tmp_path / "ann/box-7/tmp"),
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    place = tmp_path / "ann/box-7/tmp"
    place.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "ann"))
    monkeypatch.setattr(socket, "gethostname", lambda: "box-7")
    monkeypatch.setattr(doctor.tempfile, "gettempdir", lambda: str(place))
    monkeypatch.chdir(place)
    hub.set("HF_HUB_CACHE", str(place / "hub"))
    hub.set("ENDPOINT", "https://ann:pass-word@mirror.example/secret-path")
    monkeypatch.setattr(doctor, "bundled_model", lambda: Finding("ok", f"at {place}", f"mend {place}"))
    main(["doctor", "--json"])
    out = capsys.readouterr().out
    assert "~/(host)/tmp" in out
    assert "https://mirror.example" in out
    for secret in (str(tmp_path), "ann", "hf_", "pass-word", "proxy-7", "secret-path"):
        assert not re.search(rf"\b{re.escape(secret)}", out), secret
    assert "box-7" not in out.replace("mend ~/box-7", "")  # a folder of the user's in a fix, which has to work


# Python and packages


def test_python_that_is_too_old(monkeypatch):
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.9.1")
    state, found, fix = checks()["python"]()
    assert (state, fix) == ("fail", "make an environment with Python >=3.11")
    assert found == "3.9.1, but eomt needs >=3.11"


@pytest.mark.parametrize(
    ("attribute", "value", "state", "word"),
    [("maxsize", 2**31 - 1, "fail", "64 bits"), ("platform", "win32", "warn", "WSL 2")],
)
def test_platform(attribute, value, state, word, monkeypatch):
    if attribute == "maxsize":
        monkeypatch.setattr(doctor, "sys", SimpleNamespace(maxsize=value))
    else:
        monkeypatch.setattr(doctor.platform, "system", lambda: "Windows")
    finding = checks()["platform"]()
    assert finding.state == state
    assert word in finding.fix


def test_eomt_that_is_not_installed(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    for function in ("version", "requires", "metadata"):
        monkeypatch.setattr(doctor.metadata, function, missing)
    names = checks()
    assert "torch" not in names  # what it needs is not known
    assert names["python"]().state == "ok"
    assert names["eomt"]().state == "fail"
    assert "pip install eomt" in names["eomt"]().fix


def test_clash_of_names(monkeypatch):
    monkeypatch.setattr(doctor.metadata, "packages_distributions", lambda: {"eomt": ["eomt", "other-eomt"]})
    state, found, fix = checks()["import name"]()
    assert state == "fail"
    assert "other-eomt" in found
    assert fix.startswith("pip uninstall other-eomt eomt")


def test_every_requirement_of_the_metadata_is_a_check():
    required = {re.match(r"[\w-]+", text)[0] for text in metadata.requires("eomt") if "extra ==" not in text}
    assert {"torch", "torchvision", "timm", "numpy", "hotcoco"} <= required <= set(checks())


@pytest.mark.parametrize("name", [name for name in checks() if name in map(doctor._name, doctor._required())])
def test_package_that_is_missing_old_or_broken(name, monkeypatch):
    def broken(module):
        raise OSError("libx.so: cannot open\nmore")

    wanted = next(text for text in doctor._required() if doctor._name(text) == name)
    install(monkeypatch, {name: None})
    missing = checks()[name]()
    assert missing[:2] == ("fail", "is not installed")
    assert missing.fix.startswith(f"pip install --upgrade '{wanted}'")
    if ">=" in wanted:
        install(monkeypatch, {name: "0.0.1"})
        old = checks()[name]()
        assert old.state == "fail"
        assert old.found.startswith("0.0.1, but eomt needs >=")
        assert old.fix.startswith(f"pip install --upgrade '{wanted}'")
    install(monkeypatch, {name: "9999"})
    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    state, found, fix = checks()[name]()
    assert (state, found) == ("fail", "9999 cannot be imported (OSError: libx.so: cannot open)")
    assert fix.startswith(f"pip install --force-reinstall '{wanted}'")


def test_packages_that_were_not_made_for_each_other(monkeypatch):
    wanted = ["torch==1.0", "numpy", "absent-package>=3", "scipy>9999; extra == 'all'"]
    install(monkeypatch, {"torchvision": "0.2"}, {"torchvision": wanted})
    state, found, fix = checks()["torchvision"]()
    assert state == "fail"
    assert re.fullmatch(r"0.2 was made for torch==1.0, and \S+ is installed", found)
    assert fix == "pip install -U torchvision torch"


def test_operators_that_are_not_registered(monkeypatch):
    def unregistered(*_):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("torchvision.ops.nms", unregistered)
    state, found, fix = checks()["torchvision"]()
    assert state == "fail"
    assert "nms does not exist" in found
    assert fix.startswith("pip install --upgrade torch torchvision")


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ({"cuda": "13.0", "hip": None}, "CUDA 13.0"),
        ({"cuda": None, "hip": "7.1"}, "ROCm 7.1"),
        ({"cuda": None}, "the processor only"),
    ],
)
def test_what_torch_is_built_for(version, words, monkeypatch):
    monkeypatch.setattr(torch, "version", SimpleNamespace(**version))
    assert checks()["torch"]().found.endswith(f"built for {words}")


EXTRAS = [
    'supervision>=0.27; extra == "supervision"',
    'eomt[supervision]; extra == "dev"',
    'pytest>=1; extra == "dev"',
    'zzz>=2; extra == "dev"',
    "torch>=2",
]


@pytest.mark.parametrize(
    ("name", "versions", "state", "found", "fix"),
    [
        ("supervision", {"supervision": "0.27"}, "ok", "installed", None),
        (
            "supervision",
            {"supervision": None},
            "ok",
            "optional, without supervision: pip install 'eomt[supervision]'",
            "pip install 'eomt[supervision]'",
        ),
        (
            "dev",
            {"supervision": None, "zzz": None},
            "ok",
            "optional, without supervision, zzz: pip install 'eomt[dev]'",
            "pip install 'eomt[dev]'",
        ),
        (
            "dev",
            {"supervision": "0.2", "zzz": "2"},
            "warn",
            "supervision 0.2, but eomt[dev] needs >=0.27",
            "pip install --upgrade 'eomt[dev]'",
        ),
    ],
)
def test_extras(name, versions, state, found, fix, monkeypatch):
    install(monkeypatch, versions, {"eomt": EXTRAS})
    assert checks()[f"extra {name}"]() == (state, found, fix)


def test_every_extra_of_the_metadata_is_a_check():
    assert {f"extra {name}" for name in metadata.metadata("eomt").get_all("Provides-Extra")} <= set(checks())


# What computes


class StandInCuda(SimpleNamespace):
    """Two devices; sums on them are done on the processor, or fail."""

    def __init__(self, error: str | None = None) -> None:
        self.error = error
        properties = SimpleNamespace(name="Card", total_memory=16 * GIB, major=9, minor=0)
        cuda = SimpleNamespace(
            device_count=lambda: 2,
            get_device_properties=lambda index: properties,
            mem_get_info=lambda index: (8 * GIB, 16 * GIB),
            device=lambda index: nullcontext(),
            is_bf16_supported=lambda including_emulation: True,
        )
        super().__init__(cuda=cuda)

    def ones(self, count, device):
        if self.error:
            raise RuntimeError(self.error)
        return torch.ones(count)


def test_cuda_devices(machine):
    machine("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu\n")
    state, found, _ = doctor._cuda_devices(StandInCuda())
    assert state == "ok"
    one = "Card, compute capability 9.0, 8.0 GiB of 16.0 GiB free, bf16"
    assert found == f"cuda:0 {one}; cuda:1 {one}; NVIDIA driver 550.54.14"


def test_cuda_device_that_cannot_compute(machine):
    state, found, fix = doctor._cuda_devices(StandInCuda("no kernel image is available\nmore"))
    assert state == "fail"
    assert found.endswith("a sum on it fails (RuntimeError: no kernel image is available)")
    assert "--device cpu" in fix


@pytest.mark.parametrize(
    ("driver", "cuda", "mps", "state", "found", "fix"),
    [
        (False, "13.0", False, "ok", "none; the processor computes", ""),
        (False, None, True, "ok", "mps", ""),
        (True, None, False, "warn", "built for the processor only", "install a torch that is built for CUDA"),
        (True, "13.0", False, "warn", "built for CUDA 13.0, finds none", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_accelerator(driver, cuda, mps, state, found, fix, machine, monkeypatch):
    if driver:
        machine("proc/driver/nvidia/version", "Kernel Module  550.54.14  Thu")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(torch, "version", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    finding = checks()["accelerator"]()
    assert finding.state == state
    assert found in finding.found
    assert fix in (finding.fix or "")


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),  # no limit but the affinity
        (
            {"proc/self/cgroup": "0::/a/b\n", "cgroup/a/cpu.max": "150000 100000\n"},
            1.5,
        ),  # version 2, a group above
        ({"proc/self/cgroup": "0::/a\n", "cgroup/a/cpu.max": "max 100000\n"}, 8),
        (
            {
                "proc/self/cgroup": "4:cpu,cpuacct:/not/seen\n1:name=systemd:/\n",
                "cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
                "cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            2,  # version 1, in a container that sees its own group as the root
        ),
        (
            {
                "proc/self/cgroup": "4:cpu:/\n",
                "cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            8,
        ),
    ],
)
def test_processor(files, cores, machine, monkeypatch):
    for name, text in files.items():
        machine(name, text)
    machine("proc/cpuinfo", "processor : 0\nmodel name\t: Chip 9\n")
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    state, found, fix = checks()["processor"]()
    assert found == f"Chip 9, {cores:g} of 64 cores, 3 threads"
    assert (state, fix and fix.partition(":")[0]) == (
        ("warn", "set OMP_NUM_THREADS=2") if cores < 3 else ("ok", None)
    )


@pytest.mark.parametrize(
    ("bf16_seconds", "auto", "state"),
    [(0.5, torch.bfloat16, "ok"), (30.0, torch.float32, "ok"), (30.0, torch.bfloat16, "warn")],
)
def test_bf16(bf16_seconds, auto, state, monkeypatch):
    monkeypatch.setattr(doctor, "_product_seconds", lambda dtype: bf16_seconds if dtype is torch.bfloat16 else 1.0)
    monkeypatch.setattr("eomt.devices.choose_precision", lambda precision, device: auto)
    finding = checks()["bf16 on the processor"]()
    assert finding.state == state
    assert f"{bf16_seconds:g} times as long as fp32" in finding.found
    assert (finding.fix is not None) == (state == "warn")


# What it needs beside that


@pytest.mark.parametrize(
    ("files", "state", "found"),
    [
        ({}, "ok", "8.0 GiB of 16.0 GiB free"),
        (
            {
                "proc/self/cgroup": "0::/a\n",
                "cgroup/a/memory.max": f"{4 * GIB}\n",
                "cgroup/a/memory.current": f"{3 * GIB}\n",
                "cgroup/a/memory.stat": f"anon 5\ninactive_file {GIB // 2}\n",
            },
            "warn",
            "1.5 GiB of 4.0 GiB free",  # what the page cache takes can be had back
        ),
        (
            {
                "proc/self/cgroup": "9:memory:/x\n",
                "cgroup/memory/x/memory.limit_in_bytes": f"{GIB}\n",
                "cgroup/memory/x/memory.usage_in_bytes": f"{GIB - 100 * MIB}\n",
            },
            "fail",
            "100 MiB of 1.0 GiB free",
        ),
        ({"proc/self/cgroup": "0::/a\n", "cgroup/a/memory.max": "max\n"}, "ok", "8.0 GiB of 16.0 GiB free"),
    ],
)
def test_memory(files, state, found, machine):
    machine("proc/meminfo", f"MemTotal: {16 * MIB} kB\nMemFree: 3 kB\nMemAvailable: {8 * MIB} kB\n")
    for name, text in files.items():
        machine(name, text)
    finding = checks()["memory"]()
    assert finding[:2] == (state, found)
    assert ("--data.micro-batch" in (finding.fix or "")) == (state != "ok")


def test_shared_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path / "none")
    assert checks()["shared memory"]().state == "ok"
    monkeypatch.setattr(doctor, "SHARED_MEMORY", tmp_path)
    disks(monkeypatch, 64 * MIB)
    assert checks()["shared memory"]()[:2] == ("warn", "64 MiB of 64.0 GiB free")
    assert "--shm-size=8g" in checks()["shared memory"]().fix


@pytest.mark.parametrize(
    ("name", "least", "words"),
    [
        ("disk: this folder", GIB, "another folder"),
        ("disk: temporary files", GIB // 4, "TMPDIR"),
        ("disk: model cache", 5 * GIB, "HF_HOME"),
    ],
)
def test_disks(name, least, words, hub, monkeypatch):
    for free, state in ((least, "ok"), (least - 1, "warn"), (MIB, "fail")):
        disks(monkeypatch, free)
        finding = checks()[name]()
        assert finding.state == state
        assert finding.fix is None if state == "ok" else words in finding.fix
    monkeypatch.setattr(os, "access", lambda *_: False)
    finding = checks()[name]()
    assert finding.state == "warn"
    assert "cannot be written to" in finding.found
    assert words in finding.fix


@pytest.mark.parametrize(("soft", "state"), [(256, "warn"), (1024, "ok"), (-1, "ok")])
def test_open_files(soft, state, monkeypatch):
    monkeypatch.setattr("resource.getrlimit", lambda _: (soft, soft))
    finding = checks()["open files"]()
    assert finding.state == state
    assert (finding.fix or "").startswith("ulimit -n 4096" if state == "warn" else "")


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("PNG", "fail"),
        ("PNG, 16 bits", "fail"),
        ("JPEG", "fail"),
        ("WebP", "warn"),
        ("TIFF, deflate", "warn"),
        ("TIFF, LZW", "warn"),
        ("TIFF, 16 bits", "warn"),
    ],
)
def test_codecs(name, state, monkeypatch):
    from PIL import Image

    def missing(*_, **__):
        raise OSError("encoder not available")

    assert checks()[name]() == Finding("ok", "written and read")
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", lambda _: Image.new("RGB", (16, 16), "red"))
        assert checks()[name]()[:2] == (state, "what Pillow reads is not what it wrote")
    monkeypatch.setattr(Image.Image, "save", missing)
    finding = checks()[name]()
    assert finding.state == state
    assert "encoder not available" in finding.found
    assert "pip install --force-reinstall pillow" in finding.fix


@pytest.mark.parametrize(
    ("outcome", "found", "fix"),
    [
        (ModelError("model x: its content is not what"), "its content is not", "--no-deps eomt"),
        (FileNotFoundError("config.json"), "config.json", "--no-deps eomt"),
        (SimpleNamespace(size=(64, 64), scores=[float("nan")]), "makes no sense", "torch"),
        (SimpleNamespace(size=(64, 63), scores=[0.5]), "makes no sense", "torch"),
    ],
)
def test_bundled_model(outcome, found, fix, monkeypatch):
    def from_pretrained(source, device):
        if isinstance(outcome, Exception):
            raise outcome
        return SimpleNamespace(predict=lambda image, precision: outcome)

    monkeypatch.setattr("eomt.inference.segmenter.Segmenter.from_pretrained", from_pretrained)
    finding = checks()["bundled model"]()
    assert finding.state == "fail"
    assert found in finding.found
    assert fix in finding.fix


# The hub's models and settings


def add_model(root: Path, name: str, sizes: tuple[int, ...], snapshot: bool = True) -> None:
    folder = root / "hub" / f"models--{name.replace('/', '--')}"
    (folder / "blobs").mkdir(parents=True)
    (folder / "snapshots/main").mkdir(parents=True)
    for index, size in enumerate(sizes):
        (folder / "blobs" / str(index)).write_bytes(bytes(size))
    if snapshot:
        (folder / "snapshots/main/model.safetensors").symlink_to(folder / "blobs/0")


def test_model_cache(hub, monkeypatch):
    assert checks()["model cache"]().found.endswith("hub, made when a model is downloaded")
    add_model(hub.root, "tue-mps/coco_panoptic_eomt_small_640", (MIB, MIB))
    add_model(hub.root, "timm/vit", (MIB,))
    state, found, _ = checks()["model cache"]()
    assert (state, found) == ("ok", f"{hub.root / 'hub'}, 3 MiB in 3 files")
    monkeypatch.setattr(doctor, "MAX_FILES", 2)
    assert checks()["model cache"]().found.endswith("at least 2 MiB in 2 files")
    monkeypatch.setattr(os, "access", lambda *_: False)
    finding = checks()["model cache"]()
    assert finding.state == "warn"
    assert "HF_HOME" in finding.fix


def test_published_models(hub):
    published = sum(model.repository is not None for model in MODELS.values())
    none = f"0 of {published} in the cache; eomt models ls names them"
    assert checks()["published models"]() == Finding("ok", none)
    add_model(hub.root, MODELS["ade20k_semantic_large_512"].repository, (1,))
    add_model(hub.root, MODELS["coco_panoptic_large_640"].repository, (1,), snapshot=False)
    add_model(hub.root, "timm/vit", (1,))
    one = f"1 of {published} in the cache: ade20k_semantic_large_512"
    assert checks()["published models"]() == Finding("ok", one)


@pytest.mark.parametrize(
    ("endpoint", "offline", "state", "found", "fix"),
    [
        ("https://huggingface.co", False, "ok", "models come from https://huggingface.co", None),
        ("http://a:b@mirror:81/x", False, "ok", "models come from http://mirror:81", None),
        ("mirror:81", False, "warn", "HF_ENDPOINT is no address", "unset HF_ENDPOINT, or write it https://NAME"),
        ("https://a:b", False, "warn", "HF_ENDPOINT is no address", "unset HF_ENDPOINT, or write it https://NAME"),
        (
            "https://huggingface.co",
            True,
            "ok",
            "models come from https://huggingface.co; offline (HF_HUB_OFFLINE): only from the cache",
            "unset HF_HUB_OFFLINE to download",
        ),
    ],
)
def test_hub(endpoint, offline, state, found, fix, hub):
    hub.set("ENDPOINT", endpoint)
    hub.set("HF_HUB_OFFLINE", offline)
    assert checks()["hub"]() == (state, found, fix)


def test_hub_token(hub, monkeypatch):
    assert "hf auth login" in checks()["hub token"]().fix
    (hub.root / "token").write_text("hf_abcdefghijkl")
    assert checks()["hub token"]() == Finding("ok", "stored by hf auth login")
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijkl")
    assert checks()["hub token"]() == Finding("ok", "set (HF_TOKEN)")


@pytest.mark.parametrize(
    ("given", "state", "found"),
    [
        ({}, "ok", "none set"),
        ({"https_proxy": "http://me:secret@p:1", "NO_PROXY": "localhost"}, "ok", "set: HTTPS_PROXY, NO_PROXY"),
        ({"ALL_PROXY": "p:1"}, "warn", "ALL_PROXY without http:// or https://"),
    ],
)
def test_proxies(given, state, found, monkeypatch):
    for name in doctor.PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    finding = checks()["proxies"]()
    assert finding[:2] == (state, found)
    assert ("http://NAME:PORT" in (finding.fix or "")) == (state == "warn")


# The terminal and the clock


def test_clock(monkeypatch):
    monkeypatch.setattr(doctor.time, "time", lambda: 0.0)
    state, found, fix = checks()["clock"]()
    assert state == "warn"
    assert found.startswith("1970-01-01 00:00 UTC")
    assert fix == "set the clock of this machine"


@pytest.mark.parametrize(("encoding", "state"), [("UTF-8", "ok"), ("ANSI_X3.4-1968", "warn")])
def test_text(encoding, state, monkeypatch):
    monkeypatch.setattr(doctor.locale, "getpreferredencoding", lambda _: encoding)
    finding = checks()["text"]()
    assert finding.state == state
    assert ("PYTHONUTF8=1" in (finding.fix or "")) == (state == "warn")


@pytest.mark.parametrize(
    ("environment", "found"),
    [({"NO_COLOR": "1"}, "off (NO_COLOR is set)"), ({"TERM": "dumb"}, "off (TERM is dumb)")],
)
def test_colour(environment, found, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert checks()["colour"]().found == found
