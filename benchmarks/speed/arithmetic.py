"""Speed of every arithmetic on this CPU: float32 and bfloat16, as NCHW and as channels last.

    python -m benchmarks.speed.arithmetic [--size 256] [--batch_size 8] [--threads 1] [--models ...]

Prints a Markdown table: for each network its share of depthwise convolutions, and the processor
time per image of a training step and of a prediction, each the fastest of some that are taken in
turns. In a step, gradients of depthwise convolutions are in float32, as in training; its last value
has them in bfloat16. Processor time depends little on other load; with more than one thread it
includes the time that threads wait for each other. The rules for --precision and --memory_format
rest on this table.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.build import build_model
from models.cpu.depthwise import FloatDepthwiseGradients
from models.exact_encoder import is_depthwise
from models.interface import normalise
from utils.console import open_parser
from utils.training.losses import build_loss

_MODELS = (
    "unet_resnet34",
    "deeplabv3plus",
    "smp:Unet:tu-tf_efficientnet_lite0",
    "smp:DeepLabV3Plus:tu-tf_efficientnet_lite0",
    "smp:Unet:tu-mobilenetv2_100",
    "smp:Unet:tu-efficientnet_b0",
)
_KINDS = tuple(product((False, True), (torch.contiguous_format, torch.channels_last)))
"""Whether to compute in bfloat16, and the order of the weights."""
_TITLES = ("float32", "float32, channels last", "bfloat16", "bfloat16, channels last")
_PURE = "its gradients in bfloat16"


class _Side(NamedTuple):
    step: Callable[[AbstractContextManager], None]
    predict: Callable[[], None]


def depthwise_convolutions(network: nn.Module) -> tuple[int, int]:
    """Count the depthwise convolutions of a network, and all of its convolutions."""
    modules = list(network.modules())
    return sum(map(is_depthwise, modules)), sum(isinstance(m, nn.Conv2d) for m in modules)


def measure(
    model_type: str, size: int, batch_size: int, rounds: int
) -> tuple[list[float], list[float]]:
    """Return the milliseconds per image of a step and of a prediction, for each of `_KINDS`.

    The steps have a fifth value: the last of `_KINDS` without `FloatDepthwiseGradients`.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, 1, size, size)
    image = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    mask = (image > 250).to(torch.uint8)
    sides = [_open_side(model_type, image, mask, *kind) for kind in _KINDS]
    steps = [partial(side.step, FloatDepthwiseGradients()) for side in sides]
    steps.append(partial(sides[-1].step, nullcontext()))
    columns = []
    for works in (steps, [side.predict for side in sides]):
        turns = [[_processor_seconds(work) for work in works] for _ in range(1 + rounds)]
        fastest = [min(times) for times in zip(*turns[1:], strict=True)]
        columns.append([1000 * seconds / batch_size for seconds in fastest])
    return columns[0], columns[1]


def _open_side(
    model_type: str, image: Tensor, mask: Tensor, bfloat16: bool, layout: torch.memory_format
) -> _Side:
    network = build_model(model_type, pretrained=False).to(memory_format=layout)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)
    loss = build_loss("bce")
    autocast = partial(torch.autocast, "cpu", torch.bfloat16, enabled=bfloat16)

    def step(gradients: AbstractContextManager) -> None:
        network.train()
        with autocast(), gradients:
            output = network(normalise(image))
        loss(output, mask).backward()
        optimizer.step()
        optimizer.zero_grad()

    @torch.inference_mode()
    def predict() -> None:
        network.eval()
        with autocast():
            network(normalise(image))

    return _Side(step, predict)


def _processor_seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main(args: list[str] | None = None) -> None:
    """Print the table, line by line as networks are measured."""
    parser = open_parser("python -m benchmarks.speed.arithmetic", __doc__)
    add = parser.add_argument
    add("--size", type=int, default=256, help="side of the image in pixels (default: 256)")
    add("--batch_size", type=int, default=8, help="images per step (default: 8)")
    add("--threads", type=int, default=1, help="of torch (default: 1)")
    add("--rounds", type=int, default=2, help="steps after the first (default: 2)")
    add("--models", nargs="+", default=_MODELS, help="names of networks (default: six)")
    given = parser.parse_args(args)
    torch.set_num_threads(given.threads)
    steps, predictions = ", ".join((*_TITLES, _PURE)), ", ".join(_TITLES)
    print(f"| network at {given.size} | depthwise | step: {steps} | prediction: {predictions} |")
    print("|---|---|---|---|")
    for model_type in given.models:
        columns = measure(model_type, given.size, given.batch_size, given.rounds)
        depthwise, total = depthwise_convolutions(build_model(model_type, pretrained=False))
        cells = " | ".join(", ".join(f"{value:.0f}" for value in column) for column in columns)
        print(f"| `{model_type}` | {depthwise} of {total} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
