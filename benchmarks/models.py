"""Measure the cost of each network: parameters, multiply-adds, time and memory.

    python -m benchmarks.models
    python -m benchmarks.models --size 512 --models unet_resnet34 smp:Unet:se_resnext50_32x4d

Prints a Markdown table with one line per network. Weights are random, since they do not change the
cost. Each network runs in its own process to measure its peak memory: that of the process on a CPU,
that of the tensors on a GPU. Times are medians per image in float32 and channels last: forward in
evaluation mode with a batch of one, training with a batch of two (forward, loss, backward, Adam).
Takes about a quarter of an hour on 2 CPU cores at 256 pixels.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.build import build_model
from models.names import model_types
from utils.console import open_parser
from utils.distributed import peak_gpu_memory
from utils.memory import peak_memory
from utils.training.losses import bce

_SMP = ("smp:Unet:se_resnext50_32x4d", "smp:UnetPlusPlus:tu-efficientnet_b4")
_COLUMNS = {
    "parameters": ("parameters, M", ".2f"),
    "multiply_adds": ("multiply-adds, G", ".1f"),
    "forward": ("forward, ms", ".0f"),
    "training": ("training, ms", ".0f"),
    "memory": ("peak memory, GiB", ".2f"),
}
"""Title and number format of each column."""

_BATCH = 2
"""Images in a training step; batch norm fails on one image in networks that pool to one pixel."""


def multiply_adds(network: nn.Module, image: torch.Tensor) -> int:
    """Count the multiply-adds of a forward pass: half of its floating-point operations."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    return counter.get_total_flops() // 2


def milliseconds(work: Callable[[], object], device: str, repeats: int = 3) -> float:
    """Return the median time of a call, after a warm-up call."""
    times = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1000 * sorted(times[1:])[repeats // 2]


def measure(model_type: str, size: int) -> dict[str, float]:
    """Measure a network at [B,3,size,size], in this process.

    Returns:
        A value for each column.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last
    network = build_model(model_type, pretrained=False).to(device).eval()
    network.to(memory_format=layout)
    optimizer = torch.optim.Adam(network.parameters())
    image = torch.randn(_BATCH, 3, size, size, device=device).to(memory_format=layout)
    mask = torch.zeros(_BATCH, 1, size, size, dtype=torch.uint8, device=device)

    @torch.no_grad()
    def forward() -> None:
        network(image[:1])

    def train() -> None:
        optimizer.zero_grad()
        bce(network(image), mask).backward()
        optimizer.step()

    row = {
        "parameters": sum(p.numel() for p in network.parameters()) / 1e6,
        "multiply_adds": multiply_adds(network, image[:1]) / 1e9,
        "forward": milliseconds(forward, device),
    }
    network.train()
    row["training"] = milliseconds(train, device) / _BATCH
    return row | {"memory": peak_gpu_memory() or peak_memory()}


def measure_in_process(model_type: str, size: int) -> dict[str, float]:
    """Measure a network in a new process."""
    words = ["--models", model_type, "--size", str(size), "--json"]
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.models", *words],
        cwd=Path(__file__).parent.parent,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    """Print the table, line by line as networks are measured."""
    parser = open_parser("python -m benchmarks.models", __doc__)
    parser.add_argument(
        "--size", type=int, default=256, help="side of the image in pixels (default: 256)"
    )
    parser.add_argument(
        "--models",
        nargs="+",
        default=[*model_types(), *_SMP],
        help="names of networks (default: all but smp, and two of smp)",
    )
    parser.add_argument(
        "--json", action="store_true", help="measure the first network only, in this process"
    )
    options = parser.parse_args()
    if options.json:
        print(json.dumps(measure(options.models[0], options.size)))
        return
    titles = " | ".join(title for title, _ in _COLUMNS.values())
    print(f"| network at {options.size}x{options.size} | {titles} |")
    print("|---" * (1 + len(_COLUMNS)) + "|")
    for model_type in options.models:
        row = measure_in_process(model_type, options.size)
        cells = " | ".join(format(row[name], form) for name, (_, form) in _COLUMNS.items())
        print(f"| `{model_type}` | {cells} |", flush=True)


if __name__ == "__main__":
    main()
