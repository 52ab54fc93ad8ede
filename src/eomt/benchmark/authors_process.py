"""The authors' EoMT in a process of its own: run by their interpreter, asked by `authors`. Free of eomt.

    PYTHON authors_process.py FOLDER

FOLDER has request.json (where their code is, the model, the thresholds, the clock, the threads) and weights.bin.
Then a question comes as a line on standard input, and a line of JSON answers it; arrays go through files there.

    forward   view.npy -> masks.npy, classes.npy      decode   masks.npy, classes.npy -> found.npz
    settle    to the precision that is timed          run      seconds of each stage, from photo.npy on
    found     found.npz of such a run                 peak     bytes held before and during such a run

found.npz has ids (panoptic: from 1 on, 0 for void), or masks, labels and scores (instance).
"""

import ctypes
import gc
import importlib
import importlib.metadata
import itertools
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

VERSIONS = ("torch", "timm", "transformers")


class Panoptic:
    """Their panoptic results, by their own methods."""

    def __init__(self, network: Any, request: dict[str, Any]) -> None:
        theirs: Any = importlib.import_module("training.mask_classification_panoptic")
        self.module = theirs.MaskClassificationPanoptic(
            network,
            tuple(request["image_size"]),
            request["classes"],
            request["stuff"],
            attn_mask_annealing_enabled=False,
            mask_thresh=request["score"],
            overlap_thresh=request["overlap"],
        )

    def decode(self, masks: torch.Tensor, classes: torch.Tensor, photo: torch.Tensor) -> dict[str, Any]:
        """Turn logits into ids."""
        module = self.module
        masks = torch.nn.functional.interpolate(masks, module.img_size, mode="bilinear")
        masks = module.revert_resize_and_pad_logits_instance_panoptic(masks, [photo.shape[-2:]])
        (found,) = module.to_per_pixel_preds_panoptic(
            masks, classes, module.stuff_classes, module.mask_thresh, module.overlap_thresh
        )
        return {"ids": (found[..., 1] + 1).cpu().numpy()}  # their void is -1


class Instance:
    """Their instances: made in the midst of a validation step, whose beginning and end are left out."""

    def __init__(self, network: Any, request: dict[str, Any]) -> None:
        theirs: Any = importlib.import_module("training.mask_classification_instance")
        self.module = theirs.MaskClassificationInstance(
            network,
            tuple(request["image_size"]),
            request["classes"],
            attn_mask_annealing_enabled=False,
            eval_top_k_instances=request["detections"],
        )

    def decode(self, masks: torch.Tensor, classes: torch.Tensor, photo: torch.Tensor) -> dict[str, Any]:
        """Turn logits into instances."""
        found: list[Any] = []
        step: dict[str, Any] = {
            "resize_and_pad_imgs_instance_panoptic": lambda images: images,
            "forward": lambda images: ([masks], [classes]),
            "update_metrics_instance": lambda instances, targets, layer: found.extend(instances),
        }
        with mock.patch.multiple(self.module, **step):
            self.module.eval_step(([photo], [dict.fromkeys(("masks", "labels", "is_crowd"))]))
        return {name: found[0][name].cpu().numpy() for name in ("masks", "labels", "scores")}


TASKS: dict[str, Any] = {"panoptic": Panoptic, "instance": Instance}


class Side:
    """Their model with its pre- and post-processing, by their own methods."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        request: dict[str, Any] = json.loads((folder / "request.json").read_text())
        sys.path.insert(0, request["code"])
        torch.set_num_threads(request["threads"])
        self.clock = {"wall": time.perf_counter, "processor": time.process_time}[request["clock"]]
        self.device, self.dtype = torch.device(request["device"]), getattr(torch, request["dtype"])
        size = tuple(request["image_size"])
        vit: Any = importlib.import_module("models.vit")
        eomt: Any = importlib.import_module("models.eomt")
        encoder = vit.ViT(size, request["patch_size"], request["backbone"], ckpt_path="weights.bin")
        network = eomt.EoMT(
            encoder, request["classes"], request["queries"], request["joint_blocks"], masked_attn_enabled=False
        )
        state = torch.load(folder / "weights.bin", weights_only=True, map_location="cpu")
        prefix = "network."
        network.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        self.task = TASKS[request["task"]](network, request)
        self.module = self.task.module
        self.module.eval().to(self.device)
        self.photo = torch.from_numpy(np.load(folder / "photo.npy")).permute(2, 0, 1)
        self.sure = self._logits("sure_") if (folder / "sure_masks.npy").is_file() else None

    def _logits(self, prefix: str = "") -> tuple[torch.Tensor, torch.Tensor]:
        masks, classes = (np.load(self.folder / f"{prefix}{name}.npy") for name in ("masks", "classes"))
        return torch.from_numpy(masks).to(self.device), torch.from_numpy(classes).to(self.device)

    def forward(self) -> dict[str, float]:
        """Give what the model says of a view."""
        with torch.backends.cudnn.flags(allow_tf32=False):
            masks, classes = self.module(torch.from_numpy(np.load(self.folder / "view.npy")).to(self.device))
        np.save(self.folder / "masks.npy", masks[-1].cpu().numpy())
        np.save(self.folder / "classes.npy", classes[-1].cpu().numpy())
        return {}

    def settle(self) -> dict[str, float]:
        """Convert all weights."""
        self.module.network.to(self.dtype)
        return {}

    def decode(self) -> dict[str, float]:
        """Turn logits into what is found."""
        np.savez(self.folder / "found.npz", **self._decode(*self._logits()))
        return {}

    def _decode(self, masks: torch.Tensor, classes: torch.Tensor) -> dict[str, Any]:
        found: dict[str, Any] = self.task.decode(masks, classes, self.photo)
        return found

    def _run(self) -> tuple[dict[str, Any], dict[str, float]]:
        times = [self._now()]
        views = self.module.resize_and_pad_imgs_instance_panoptic([self.photo])
        times.append(self._now())
        masks, classes = self.module.network((views.to(self.device) / 255).to(self.dtype))
        times.append(self._now())
        found = self._decode(*(self.sure or (masks[-1].float(), classes[-1].float())))
        times.append(self._now())
        stages = ("preprocess", "forward", "decode")
        seconds = {name: b - a for name, (a, b) in zip(stages, itertools.pairwise(times), strict=True)}
        return found, {**seconds, "whole": times[-1] - times[0]}

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.clock()

    def run(self) -> dict[str, float]:
        """Do what is timed."""
        return self._run()[1]

    def found(self) -> dict[str, float]:
        """Give what such a run finds."""
        np.savez(self.folder / "found.npz", **self._run()[0])
        return {}

    def peak(self) -> dict[str, float]:
        """Measure the memory of a run."""
        self._run()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_reserved(self.device)
            self._run()
            return {"before": before, "most": torch.cuda.max_memory_reserved(self.device)}
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts from what is held now
        except (OSError, AttributeError):
            return {"before": 0, "most": 0}
        before = held("VmRSS")
        self._run()
        return {"before": before, "most": held("VmHWM")}


def held(what: str) -> int:
    """Read a memory figure of this process, in bytes."""
    line = re.search(rf"^{what}:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(line[1]) if line else 0


def main() -> None:
    """Answer questions until they end."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what their code prints is no answer
    side: Any = None
    questions = {"forward", "settle", "decode", "run", "found", "peak"}
    for line in sys.stdin:
        question = line.strip()
        try:
            with torch.inference_mode():
                if question == "load":
                    side = Side(Path(sys.argv[1]))
                    answer: dict[str, Any] = {name: importlib.metadata.version(name) for name in VERSIONS}
                elif question in questions:
                    answer = getattr(side, question)()
                else:
                    raise ValueError(f"unknown question {question}")
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
