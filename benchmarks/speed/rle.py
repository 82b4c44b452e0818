"""How fast masks are run-length encoded, beside a loop over the pixels."""

from benchmarks.speed import original
from benchmarks.speed.compare import Ratio, in_turns
from benchmarks.speed.data import Data
from datasets.formats.images import read_mask
from datasets.formats.rle import encode

_OURS, _BASELINE = 500, 4


def measure(data: Data) -> Ratio:
    """Compare masks per second, on the mask of median size among the positive ones."""
    masks = [read_mask(sample.mask) for sample in data.samples.values()]
    masks = sorted((mask for mask in masks if mask.any()), key=lambda mask: mask.sum())
    mask = masks[len(masks) // 2]
    assert encode(mask) == original.encode(mask)

    def repeat(work, times: int) -> int:
        for _ in range(times):
            work(mask)
        return times

    return in_turns(
        "rle_encode",
        lambda: repeat(encode, _OURS),
        lambda: repeat(original.encode, _BASELINE),
        "masks/s",
    )
