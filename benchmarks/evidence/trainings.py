"""Small two-stage trainings: killed and resumed with the same bits, in float16, out of memory."""

import os
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from benchmarks.evidence.isolated import Row
from benchmarks.evidence.scale import NETWORKS, Context
from benchmarks.kills import SETTINGS, differences, disturb, finish
from benchmarks.robustness.runs import fold_folder, small_data, start
from utils.errors import one_line
from utils.memory import GIB

_MARGIN = 0.3
"""Share of the time that is left for the last resume when killing stops."""
_TOO_LITTLE = GIB
"""Memory in bytes that holds a network with its optimizer, but no step of `_LARGE`."""
_LARGE = {
    "model_type": NETWORKS[0],
    "image_size_stage1": "512",
    "batch_size_stage1": "8",
    "num_workers": "0",
}
_LARGE_IMAGES = 24
_PAGE = os.sysconf("SC_PAGE_SIZE")


def measure_resume(context: Context, precision: str) -> Iterator[Row]:
    """Train with --deterministic, undisturbed, and killed and resumed; compare every bit.

    The trainings freeze and thaw the encoder, and end with accumulated gradients.
    """
    scale = context.scale
    settings = _settings(scale.training) | {"deterministic": "true", "precision": precision}
    started = time.monotonic()
    with small_data(scale.training_images) as folder, _in_half(precision, scale.gpu):
        finish(folder, "undisturbed", settings)
        row: Row = {"precision": precision, "training, s": time.monotonic() - started}
        deadline = started + (1 - _MARGIN) * context.seconds
        done = disturb(folder, scale.kills, deadline, settings)
        if not done:
            raise RuntimeError(
                f"the undisturbed training took {row['training, s']:.0f} s, which left no time for "
                "a kill; give more --minutes"
            )
        finish(folder, "killed", {"resume": "true", **settings})
        names = ("undisturbed", "killed")
        one, other = (fold_folder(folder, name, settings["model_type"]) for name in names)
        found = differences(one, other)
        row |= {"loss scale": _loss_scale(one), "kills": _describe(done)}
        yield row | {"differences": "; ".join(found) if found else "none: same bits"}


def measure_out_of_memory(context: Context) -> Iterator[Row]:
    """Train with too little memory, and quote what is said about it."""
    changes = _settings({**context.scale.training, **_LARGE})
    with small_data(_LARGE_IMAGES) as folder:
        process = start(folder, "large", changes, _limit_memory)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        output = (folder / "large.txt").read_text(errors="replace")
    # A progress bar may stand before it in the same line, and the command to resume is below it.
    _, error, said = output.rpartition("error: ")
    if "out of memory with" not in said:
        end = " / ".join(output.splitlines()[-2:])
        raise RuntimeError(f"exit code {code}, and no advice: {end}")
    yield {"exit code": code, "message": one_line(error + said, 1000)}


def _settings(training: Mapping[str, str]) -> dict[str, str]:
    return {**SETTINGS, **training, "accelerator": "auto", "devices": "1"}


def _in_half(precision: str, gpu: bool) -> AbstractContextManager:
    """Let trainings on a CPU compute in float16 with its loss scaler, for which Fabric has no flag.

    Whether there is a GPU cannot be asked of torch here: no fork of a process that did can use it.
    """
    if gpu or precision != "16-mixed":
        return nullcontext()

    def open_fabric(precision: str, **others: Any) -> Fabric:
        return Fabric(plugins=MixedPrecision("16-mixed", "cpu"), **others)

    return patch("utils.distributed.Fabric", open_fabric)


def _limit_memory() -> None:
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, _TOO_LITTLE / total))
        return
    # Not the address space, of which every thread reserves much more than it uses.
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    resource.setrlimit(resource.RLIMIT_DATA, (pages * _PAGE + _TOO_LITTLE,) * 2)


def _loss_scale(fold: Path) -> float | None:
    """Return the scale of the loss at the end of a training in float16; None for others."""
    content = torch.load(fold / "stage2_last.pth", map_location="cpu")
    return content["scaler"].get("scale")


def _describe(done: dict[str, int]) -> str:
    return ", ".join(f"{count} in a {name}" for name, count in done.items()) or "none"
