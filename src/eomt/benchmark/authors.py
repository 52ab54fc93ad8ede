"""The authors' code as a peer: in a process of its own, since it pins old versions; asked through files and lines.

What is asked there is `authors_process`.
"""

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from eomt.benchmark import authors_process
from eomt.benchmark.costs import Peak
from eomt.benchmark.findings import FINDINGS, Findings
from eomt.benchmark.peers import Logits, Ours
from eomt.benchmark.rounds import Clock, Elsewhere
from eomt.errors import ConfigError
from eomt.weights import authors

__all__ = ["Authors", "Place"]

NEEDED = (
    "models/eomt.py",
    "models/vit.py",
    "training/mask_classification_instance.py",
    "training/mask_classification_panoptic.py",
)
"""Files by which their code is known."""


@dataclass(frozen=True)
class Place:
    """Where the authors' code is, and what runs it."""

    code: Path
    """Folder of their repository."""
    python: Path
    """An interpreter that has what their requirements.txt names."""

    def check(self) -> None:
        """Raise ConfigError where one of the two is not there."""
        missing = [name for name in NEEDED if not (self.code / name).is_file()]
        if missing:
            raise ConfigError(
                f"--authors {self.code}: no {', '.join(missing)} in it; give a clone of github.com/tue-mps/eomt"
            )
        if not self.python.is_file():
            raise ConfigError(
                f"--authors-python {self.python}: no such file; give the interpreter of an environment in which "
                "the requirements of their code are installed"
            )


class Authors:
    """Their model, with our weights, in its process. A context: the process ends with it."""

    name = "authors"

    def __init__(self, place: Place, ours: Ours, clock: Clock) -> None:
        place.check()
        self._place, self._task = place, ours.task
        self._folder = tempfile.TemporaryDirectory(prefix="eomt-authors-")
        self.folder = Path(self._folder.name)
        self._write(ours, clock)
        self._process = subprocess.Popen(
            [place.python, authors_process.__file__, self.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            versions = self._ask("load")
        except BaseException:
            self.close()
            raise
        self.version = ", ".join(f"{name} {version}" for name, version in versions.items())

    def __enter__(self) -> "Authors":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, and remove what was passed to it."""
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def _write(self, ours: Ours, clock: Clock) -> None:
        """Write what the process needs to begin."""
        segmenter = ours.subject.segmenter
        info, model, limits = segmenter.info, segmenter.info.model, segmenter.thresholds
        if limits.mask != 0.5:
            raise ConfigError(f"mask threshold {limits.mask}: in the authors' code it is 0.5")
        if ours.task == "instance" and limits.duplicate < 1:
            raise ConfigError(f"duplicate threshold {limits.duplicate}: the authors' code keeps all instances")
        request = {
            "task": ours.task,
            "code": str(self._place.code.absolute()),
            "backbone": model.backbone.partition(".")[0],
            "image_size": list(ours.subject.view),
            "patch_size": model.patch_size,
            "classes": len(segmenter.categories),
            "stuff": [label for label, category in enumerate(segmenter.categories) if not category.is_thing],
            "queries": model.num_queries,
            "joint_blocks": model.num_joint_blocks,
            "score": limits.score,
            "overlap": limits.overlap,
            "detections": limits.max_detections,
            "device": str(segmenter.device),
            "dtype": str(ours.subject.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "clock": clock,
        }
        (self.folder / "request.json").write_text(json.dumps(request))
        np.save(self.folder / "photo.npy", ours.photo)
        authors.write(segmenter.model.state_dict(), info, self.folder / "weights.bin")
        if ours.sure is not None:
            self._save(ours.sure, "sure_")

    def _save(self, logits: Logits, prefix: str = "") -> None:
        for name, part in zip(("masks", "classes"), logits, strict=True):
            np.save(self.folder / f"{prefix}{name}.npy", part.cpu().numpy())

    def _ask(self, question: str) -> dict[str, Any]:
        """Ask the process. Raises ConfigError with what it says where it cannot answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(question + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        ended = {"error": "the process has ended; its last words stand above"}
        answer: dict[str, Any] = json.loads(line) if line else ended
        if "error" in answer:
            raise ConfigError(
                f"--authors {self._place.code}: {answer['error']}\nTheir code was run by {self._place.python}, "
                "which must have what their requirements.txt names"
            )
        return answer

    def forward(self, view: UInt8[Tensor, "1 3 h w"]) -> Logits:
        """Give what the model says of a view, in fp32."""
        np.save(self.folder / "view.npy", view.cpu().numpy())
        self._ask("forward")
        masks, classes = (torch.from_numpy(np.load(self.folder / f"{name}.npy")) for name in ("masks", "classes"))
        return masks.to(view.device), classes.to(view.device)

    def settle(self) -> None:
        """Convert all weights to the precision that is timed."""
        self._ask("settle")

    def __call__(self) -> Elsewhere:
        """Do what is timed, there, and give the seconds."""
        return Elsewhere(self._ask("run"))

    def decode(self, logits: Logits) -> Findings:
        """Turn what the model says into what it found."""
        self._save(logits)
        return self._found("decode")

    def found(self) -> Findings:
        """Give what a whole run gives."""
        return self._found("found")

    def _found(self, question: str) -> Findings:
        self._ask(question)
        with np.load(self.folder / "found.npz") as arrays:
            return FINDINGS[self._task].read(arrays)

    def peak(self) -> Peak | None:
        """Measure the memory of a run; None where the system does not tell it."""
        found = self._ask("peak")
        return Peak(found["before"], found["most"]) if found["most"] else None
