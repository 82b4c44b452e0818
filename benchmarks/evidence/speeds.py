"""Speed of training steps, loading, validation and prediction."""

import gc
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from statistics import median
from typing import NamedTuple

import torch

from benchmarks.evidence.isolated import Row, describe
from benchmarks.evidence.scale import NETWORKS, Context
from benchmarks.speed import predict
from benchmarks.speed.compare import rate
from benchmarks.speed.loader import open_ours, open_stage
from benchmarks.speed.step import (
    Steps,
    count_operations,
    measure_waiting,
    open_plain,
    open_training,
    peak_arithmetic,
    random_batch,
)
from models.build import build_model
from utils.distributed import Precision, launch, memory_format_for, peak_gpu_memory
from utils.memory import peak_memory
from utils.training.losses import build_loss
from utils.training.validation import validate

_NOT_MEASURED = "not measured"
_SHARE = "of the half-precision peak, %"
_LARGER = 3
"""How much larger the batches are that show whether a GPU is busy with those of the original."""


class Way(NamedTuple):
    """A way to compute training steps.

    Attributes:
        name: for the table.
        precision: see `utils.distributed.launch`.
        layout: memory format of the weights.
        compiled: whether the network is compiled.
        larger: factor of the batch size.
    """

    name: str
    precision: Precision
    layout: torch.memory_format
    compiled: bool = False
    larger: int = 1


_LAST = torch.channels_last
_WAYS = (
    Way("float32", "32-true", torch.contiguous_format),
    Way("bfloat16, channels last", "bf16-mixed", _LAST),
)
_OTHER_WAYS = (
    Way("bfloat16", "bf16-mixed", torch.contiguous_format),
    Way("bfloat16, channels last, larger batches", "bf16-mixed", _LAST, larger=_LARGER),
    Way("float16, channels last", "16-mixed", _LAST),
)
_COMPILED = Way("bfloat16, channels last, compiled", "bf16-mixed", _LAST, compiled=True)


def measure_steps(context: Context, network: str, size: int) -> Iterator[Row]:
    """Time steps of the plain float32 loop, and of ours as it is and in float32.

    Yields:
        One row per way; one that fails, as for want of memory, has a reason in place of figures.
    """
    steps = _steps(context, network, size)
    yield _time_way("plain float32 loop", steps, context.scale.rounds, lambda: open_plain(steps))
    for way in _WAYS:
        yield _time_ours(way, steps, context.scale.rounds)


def measure_other_steps(context: Context, network: str, size: int) -> Iterator[Row]:
    """Time steps of ours in the other ways; rows as of `measure_steps`."""
    steps = _steps(context, network, size)
    for way in _OTHER_WAYS:
        if way.precision == "16-mixed" and not context.scale.gpu:
            yield _describe_way(way.name, steps) | {_NOT_MEASURED: "no GPU"}
        else:
            yield _time_ours(way, steps, context.scale.rounds)


def measure_compiled(context: Context, network: str, size: int) -> Iterator[Row]:
    """Time steps of the compiled network, and its first steps, which compile it."""
    yield _time_ours(_COMPILED, _steps(context, network, size), context.scale.rounds)


def measure_loading(context: Context, size: int) -> Iterator[Row]:
    """Time loaders with few and many workers, then a training that waits for them."""
    batch = context.scale.batches[size]
    for workers in sorted({min(2, context.cores), context.workers, context.cores}):
        load = open_ours(context.data, size, workers, batch, context.scale.images)
        yield {"size": size, "workers": workers, "images/s": _rate(load, context.scale.rounds)}
    for network in NETWORKS:
        steps = _steps(context, network, size)
        _free_memory()
        waiting = measure_waiting(context.data, steps, context.workers)
        row: Row = {"size": size, "workers": context.workers, "network": network}
        row |= _describe_speed(steps, waiting.rate)
        yield row | {"waiting for images, %": 100 * waiting.share}


def measure_validation(context: Context, size: int) -> Iterator[Row]:
    """Time validation: the network, and counting at the images' original sizes."""
    fabric = launch("auto", 1, 1, "auto")
    stage = open_stage(context.data, size, context.scale.batches[size], context.workers)
    for network in NETWORKS:
        module = build_model(network, pretrained=False).to(fabric.device)
        module.to(memory_format=memory_format_for(fabric))
        ids = stage.fold.valid

        def work(module: torch.nn.Module = module, ids: list[str] = ids) -> int:
            validate(fabric, module, stage.valid, ids, build_loss("bce"), set())
            return len(ids)

        work()
        row = {"size": size, "workers": context.workers, "network": network}
        yield row | {"images/s": _rate(work, context.scale.rounds)}


def measure_prediction(context: Context, size: int) -> Iterator[Row]:
    """Time prediction from files to run lengths, against one image at a time in float32."""
    ratio = predict.measure(context.data, context.workers, size, context.scale.images)
    row = {"size": size, "workers": context.workers, "network": "unet_resnet34"}
    yield row | {"images/s": ratio.ours, "one at a time": ratio.baseline, "ratio": ratio.ratio}


def _steps(context: Context, network: str, size: int) -> Steps:
    return Steps(network, size, context.scale.batches[size], context.scale.steps)


def _time_ours(way: Way, steps: Steps, rounds: int) -> Row:
    steps = steps._replace(batch=steps.batch * way.larger)

    def build() -> Callable[[], int]:
        train = open_training(steps, way.precision, way.layout, way.compiled)
        return partial(train, repeat(random_batch(steps)))

    return _time_way(way.name, steps, rounds, build)


def _time_way(name: str, steps: Steps, rounds: int, build: Callable[[], Callable[[], int]]) -> Row:
    """Time a way of training after a first call, and measure its memory."""
    row = _describe_way(name, steps)
    _free_memory()
    try:
        work = build()
        start = time.perf_counter()
        work()
        row["first call, s"] = time.perf_counter() - start
        reached = _rate(work, rounds)
    except RuntimeError as error:
        return row | {_NOT_MEASURED: describe(error)}
    return row | _describe_speed(steps, reached)


def _describe_way(name: str, steps: Steps) -> Row:
    return {"network": steps.network, "size": steps.size, "way": name, "batch": steps.batch}


def _describe_speed(steps: Steps, reached: float) -> Row:
    """Describe a training of so many images per second, and the memory of its process so far."""
    row: Row = {"images/s": reached, "peak memory, GiB": peak_gpu_memory() or peak_memory()}
    operations, peak = reached * count_operations(steps.network, steps.size), peak_arithmetic()
    row["TFLOP/s"] = operations / 1e12
    return row | ({_SHARE: 100 * operations / peak} if peak else {})


def _rate(work: Callable[[], int], rounds: int) -> float:
    return median(rate(work) for _ in range(rounds))


def _free_memory() -> None:
    """Free what the last way held, so that the peak of the next one is its own."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
