"""Speed of training steps, against a plain float32 loop, each in its own process.

    python -m benchmarks.speed.step [--dicoms DIR --rle CSV] [--sizes 512,1024]

Prints, for each size, images per second and peak memory of both, the share of our time spent
waiting for images, and on a GPU the share of its peak arithmetic. The plain loop is what one would
write first: float32, NCHW, an unfused Adam, blocking copies of float32 images, and the loss read
after every step. Its images come from memory, at no cost.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice, repeat
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import NamedTuple, cast

import torch
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.compare import Ratio
from benchmarks.speed.data import Data, open_data
from benchmarks.speed.loader import open_stage
from datasets.sampling import StepPart
from models.build import build_model
from utils.console import open_parser
from utils.distributed import Precision, launch, memory_format_for, peak_gpu_memory
from utils.memory import peak_memory
from utils.training.epoch import train_epoch
from utils.training.losses import build_loss

_BATCHES = {"cpu": {512: 2, 1024: 2}, "cuda": {512: 20, 1024: 4}}
_STEPS = {"cpu": {512: 2, 1024: 1}, "cuda": {512: 30, 1024: 30}}
_ROUNDS = 3
_NETWORK = "unet_resnet34"
_IMAGES = 200
# Peak of dense half-precision arithmetic in FLOP/s, from the makers' data sheets.
_PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12, "T4": 65e12, "V100": 125e12}


class Steps(NamedTuple):
    """The training steps of one timed call.

    Attributes:
        network: its name.
        size: side of the square images in pixels.
        batch: images per step.
        number: number of steps.
    """

    network: str
    size: int
    batch: int
    number: int


class Turn(NamedTuple):
    """Images per second of one timed call, and the peak memory of its process so far in GiB."""

    rate: float
    memory: float


def measure(data: Data, size: int, workers: int) -> tuple[Ratio, str]:
    """Compare images per second at a size.

    Returns:
        The ratio, and a line about memory, waiting and arithmetic.
    """
    with _side(_open_ours, size) as ours, _side(_open_plain, size) as plain:
        turns = [(ours(), plain()) for _ in range(_ROUNDS)]
    mine, theirs = zip(*turns, strict=True)
    waiting = measure_waiting(data, _steps(size), workers).share
    rate, plain_rate = (median(turn.rate for turn in side) for side in (mine, theirs))
    ratio = Ratio(f"step_{size}", rate, plain_rate, "images/s")
    text = (
        f"{size} pixels: {ratio.ours:.2f} images/s in {mine[-1].memory:.1f} GiB, plain loop "
        f"{ratio.baseline:.2f} images/s in {theirs[-1].memory:.1f} GiB; "
        f"{100 * waiting:.1f} % of the time waiting for images"
    )
    return ratio, text + _describe_arithmetic(size, ratio.ours)


@contextmanager
def _side(build: Callable[[int], Callable[[], int]], size: int) -> Iterator[Callable[[], Turn]]:
    """Run one of the two loops in its own process, so that its peak memory can be measured."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(build, size, theirs), daemon=True)
    process.start()

    def turn() -> Turn:
        ours.send(True)
        return ours.recv()

    try:
        yield turn
    finally:
        ours.send(False)
        process.join()


def _serve(build: Callable[[int], Callable[[], int]], size: int, connection: Connection) -> None:
    work = build(size)
    work()
    while connection.recv():
        start = time.perf_counter()
        images = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        rate = images / (time.perf_counter() - start)
        connection.send(Turn(rate, peak_gpu_memory() or peak_memory()))


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _steps(size: int) -> Steps:
    return Steps(_NETWORK, size, _BATCHES[_device()][size], _STEPS[_device()][size])


def random_batch(steps: Steps) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images and masks, uint8 [B,1,S,S]; in pinned memory if there is a GPU."""
    generator = torch.Generator().manual_seed(0)
    shape = (steps.batch, 1, steps.size, steps.size)
    image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    mask = (image > 250).to(torch.uint8)
    return (image.pin_memory(), mask.pin_memory()) if _device() == "cuda" else (image, mask)


def _open_ours(size: int) -> Callable[[], int]:
    steps = _steps(size)
    return partial(open_training(steps), repeat(random_batch(steps)))


def open_training(
    steps: Steps,
    precision: Precision = "auto",
    layout: torch.memory_format | None = None,
    compiled: bool = False,
) -> Callable[[Iterable], int]:
    """Set up a network like the solver; return a function that trains and returns its images.

    Args:
        steps: the steps of a call.
        precision: see `launch`.
        layout: memory format of the weights; None takes that of a training on this device.
        compiled: compile the network.
    """
    fabric = launch("auto", 1, 1, precision)
    module = build_model(steps.network, pretrained=False)
    module.to(fabric.device).to(memory_format=layout or memory_format_for(fabric))
    adam = torch.optim.Adam(module.parameters(), lr=1e-4, fused=True)
    if compiled:
        module.compile()
    model, optimizer = fabric.setup_module(module), cast(Optimizer, fabric.setup_optimizers(adam))
    loss_function = build_loss("bce")
    model.train()

    def train(batches: Iterable) -> int:
        parts = [StepPart(steps.batch, last=True)] * steps.number
        train_epoch(fabric, model, optimizer, islice(batches, steps.number), parts, loss_function)
        return steps.batch * steps.number

    return train


def open_plain(steps: Steps) -> Callable[[], int]:
    """Set up the plain loop; return a function that trains and returns the number of its images."""
    device = _device()
    network = build_model(steps.network, pretrained=False).to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    image, mask = random_batch(steps)
    image, mask = image.expand(-1, 3, -1, -1).float() / 255, mask.float()

    def train() -> int:
        for _ in range(steps.number):
            loss = binary_cross_entropy_with_logits(network(image.to(device)), mask.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()
        return steps.batch * steps.number

    return train


def _open_plain(size: int) -> Callable[[], int]:
    return open_plain(_steps(size))


class Waiting(NamedTuple):
    """Images per second of a training from files, and the share of its time spent waiting."""

    rate: float
    share: float


def measure_waiting(data: Data, steps: Steps, workers: int) -> Waiting:
    """Train on loaded batches, after a warm-up."""
    train = open_training(steps)
    stage = open_stage(data, steps.size, steps.batch, workers)
    waits: list[float] = []
    batches = _timed(chain.from_iterable(repeat(stage.train)), waits)
    train(batches)
    waits.clear()
    start = time.perf_counter()
    images = train(batches)
    seconds = time.perf_counter() - start
    return Waiting(images / seconds, sum(waits) / seconds)


def _timed(batches: Iterator, waits: list[float]) -> Iterator:
    """Yield the batches, and append the seconds of waiting for each to `waits`."""
    while True:
        start = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - start)
        yield batch


def count_operations(network: str, size: int) -> float:
    """Return the operations of a forward and backward pass of an image, two per multiply-add.

    They are counted on a small image, as they grow with the number of pixels.
    """
    small = 64
    # Building a network may try its shapes, which would be counted too.
    module = build_model(network, pretrained=False)
    with FlopCounterMode(display=False) as counter:
        # Two images: some networks pool to one pixel, of which batch norm needs several.
        module(torch.zeros(2, 3, small, small)).sum().backward()
    return counter.get_total_flops() / 2 * (size / small) ** 2


def peak_arithmetic() -> float | None:
    """Return the GPU's peak of dense half-precision arithmetic in FLOP/s; None if not known."""
    if _device() != "cuda":
        return None
    name = torch.cuda.get_device_name()
    return next((peak for key, peak in _PEAKS.items() if key in name), None)


def _describe_arithmetic(size: int, rate: float) -> str:
    """Describe the arithmetic throughput of a GPU."""
    if _device() != "cuda":
        return ""
    reached, peak = rate * count_operations(_NETWORK, size), peak_arithmetic()
    share = f", {100 * reached / peak:.0f} % of its peak" if peak else ""
    return f"; {reached / 1e12:.1f} TFLOP/s on {torch.cuda.get_device_name()}{share}"


def main() -> None:
    """Print a line for each size."""
    parser = open_parser("python -m benchmarks.speed.step", __doc__)
    parser.add_argument("--dicoms", type=Path, help="folder of DICOMs (default: synthetic ones)")
    parser.add_argument("--rle", type=Path, help="csv of their masks, needed with --dicoms")
    parser.add_argument("--sizes", default="512,1024", help="512, 1024 or both (default: 512,1024)")
    parser.add_argument(
        "--num_workers", type=int, default=2, help="data loading processes (default: 2)"
    )
    given = parser.parse_args()
    with open_data(given.dicoms, given.rle, _IMAGES) as data:
        for size in map(int, given.sizes.split(",")):
            ratio, text = measure(data, size, given.num_workers)
            print(f"{text}; ratio {ratio.ratio:.2f}")


if __name__ == "__main__":
    main()
