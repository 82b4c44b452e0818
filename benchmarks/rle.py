"""How much faster run-length encoding is than a loop over the pixels.

    python -m benchmarks.rle

Takes 2 seconds and writes nothing. The mask is as real ones are: 1024x1024, one pocket of 8,600
pixels (the median) and, for comparison, one of 160,000 (the largest).
"""

import time
from collections.abc import Callable

import cv2
import numpy as np

from utils.rle import decode, encode


def pixel_loop(mask: np.ndarray) -> str:
    """Encode pixel by pixel, as the organisers' example does, its last run not dropped."""
    numbers, last, start, inside = [], 0, 0, False
    for position, pixel in enumerate(mask.T.ravel()):
        if bool(pixel) != inside:
            if inside:
                numbers += [start - last, position - start]
                last = position
            start, inside = position, not inside
    if inside:
        numbers += [start - last, mask.size - start]
    return " ".join(map(str, numbers)) or "-1"


def pocket(height: int, width: int) -> np.ndarray:
    """Draw a tilted ellipse of these axes in pixels: [1024,1024] uint8 mask of 0 and 1."""
    mask = np.zeros((1024, 1024), dtype=np.uint8)
    return cv2.ellipse(mask, (300, 400), (width // 2, height // 2), 20, 0, 360, 1, -1)


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Give the median time of one call."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1000 * sorted(times)[repeats // 2]


def main() -> None:
    """Print one line for each mask."""
    for mask in (pocket(180, 61), pocket(640, 320)):
        text = pixel_loop(mask)
        assert encode(mask) == text
        loop = milliseconds(lambda mask=mask: pixel_loop(mask), 5)
        fast = milliseconds(lambda mask=mask: encode(mask), 200)
        back = milliseconds(lambda text=text: decode(text), 200)
        print(
            f"{int(mask.sum()):,} pixels: encode {fast:.2f} ms, pixel loop {loop:.0f} ms, "
            f"ratio {loop / fast:.0f}; decode {back:.2f} ms"
        )


if __name__ == "__main__":
    main()
