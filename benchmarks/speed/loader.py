"""Speed of loading augmented training batches: from the cache, and as in the original."""

from collections.abc import Callable, Iterable
from functools import partial

from torch.utils.data import DataLoader

from benchmarks.speed.compare import Ratio, in_turns
from benchmarks.speed.data import Data
from benchmarks.speed.original import OriginalImages
from datasets.folds import Fold
from datasets.loaders import StageData
from datasets.sources.cache import CacheSource
from utils.config.settings import Config
from utils.config.stages import Stage
from utils.parallel import start_worker

_BATCHES = {512: 20, 1024: 4}
"""Images per batch, by size."""
_OURS, _BASELINE = 1200, 96
"""Images per timed call; both calls take about the same time."""


def measure(data: Data, size: int, workers: int) -> Ratio:
    """Compare images per second at a size."""
    ours = open_ours(data, size, workers, _BATCHES[size], _OURS)
    baseline = _open_original(data, size, workers)
    return in_turns(f"loader_{size}", ours, baseline, "images/s")


def open_ours(
    data: Data, size: int, workers: int, batch_size: int, images: int
) -> Callable[[], int]:
    """Return a function that loads at least `images` images, and returns how many it loaded."""
    stage = open_stage(data, size, batch_size, workers)
    load = partial(_count, stage.train)
    load(1)
    return partial(load, images)


def open_stage(data: Data, size: int, batch_size: int, workers: int) -> StageData:
    """Build a cache of all images at a size, and open loaders on it."""
    cache = CacheSource(data.samples, True, [size], data.folder / "cache")
    cache.build()
    ids = list(data.samples)
    stage = Stage(number=1, image_size=size, batch_size=batch_size, epochs=1, lr=1e-4)
    config = Config(num_workers=workers, seed=0)
    return StageData(cache, Fold(0, ids, ids, frozenset()), stage, config)


def _open_original(data: Data, size: int, workers: int) -> Callable[[], int]:
    loader = DataLoader(
        OriginalImages(list(data.samples.values()), size),
        _BATCHES[size],
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=start_worker,
    )
    load = partial(_count, loader)
    load(1)
    return partial(load, _BASELINE)


def _count(loader: Iterable, images: int) -> int:
    """Load complete epochs until there are `images` images or more; return their number."""
    count = 0
    while count < images:
        count += sum(len(batch[0]) for batch in loader)
    return count
