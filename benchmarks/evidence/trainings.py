"""Small two-stage trainings: killed and resumed with the same bits, in float16, out of memory."""

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.evidence.isolated import Row
from benchmarks.evidence.scale import Context
from benchmarks.kills import SETTINGS, differences, disturb, finish
from benchmarks.robustness.runs import fold_folder, small_data, start

_IMAGES = 48
_MARGIN = 0.3
"""Share of the time that is left for the last resume when killing stops."""
_GPU_SHARE = 0.01
"""Share of the GPU's memory that the training which runs out of it may use."""
_CPU_BYTES = 2**30
"""Memory that the same training may take on a CPU, beyond that of a process without a network."""
_PAGE = os.sysconf("SC_PAGE_SIZE")


def measure_resume(context: Context, precision: str) -> Iterator[Row]:
    """Train with --deterministic, undisturbed, and killed and resumed; compare every bit.

    The trainings freeze and thaw the encoder, and end with accumulated gradients.
    """
    settings = _settings(context) | {"deterministic": "true", "precision": precision}
    started = time.monotonic()
    with small_data(_IMAGES) as folder:
        finish(folder, "undisturbed", settings)
        row: Row = {"precision": precision, "training, s": time.monotonic() - started}
        deadline = started + (1 - _MARGIN) * context.seconds
        done = disturb(folder, context.scale.kills, deadline, settings)
        if not done:
            raise RuntimeError(
                f"the undisturbed training took {row['training, s']:.0f} s, which left no time for "
                "a kill; give more --minutes"
            )
        finish(folder, "killed", {"resume": "true", **settings})
        one, other = (fold_folder(folder, name) for name in ("undisturbed", "killed"))
        found = differences(one, other)
        row |= {"loss scale": _loss_scale(one), "kills": _describe(done)}
        yield row | {"differences": "; ".join(found) if found else "none: same bits"}


def measure_out_of_memory(context: Context) -> Iterator[Row]:
    """Train with too little memory, and quote what is said about it."""
    changes = {"image_size_stage1": "512", "batch_size_stage1": "8", "num_workers": "0"}
    with small_data(_IMAGES) as folder:
        process = start(folder, "large", _settings(context) | changes, _limit_memory)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        lines = (folder / "large.txt").read_text(errors="replace").splitlines()
    said = next((line for line in lines if "out of memory with" in line), None)
    if said is None:
        raise RuntimeError(f"exit code {code}, and no advice: {' / '.join(lines[-2:])}")
    # A progress bar may stand before it in the same line.
    yield {"exit code": code, "message": said[said.index("error: ") :]}


def _settings(context: Context) -> dict[str, str]:
    first, second = map(str, context.scale.training)
    sizes = {"image_size_stage1": first, "image_size_stage2": second}
    return SETTINGS | sizes | {"accelerator": "auto", "devices": "1"}


def _limit_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(_GPU_SHARE)
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * _PAGE + _CPU_BYTES,) * 2)


def _loss_scale(fold: Path) -> float | None:
    """Return the scale of the loss at the end of a training in float16; None for others."""
    content = torch.load(fold / "stage2_last.pth", map_location="cpu")
    return content["scaler"].get("scale")


def _describe(done: dict[str, int]) -> str:
    return ", ".join(f"{count} in a {name}" for name, count in done.items()) or "none"
