"""How much faster preparation is than decoding every DICOM and writing it as PNG.

    python -m benchmarks.prepare --images dicom-images-train --limit 500

Both sides run in this one process, on the same files, in turns, into a temporary folder; masks are
written by neither. Expect a ratio above 10.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import pydicom

from datasets.convert import Job, convert
from datasets.images import find_images, image_id


def prepare(path: Path, out: Path) -> None:
    """Do what `datasets.prepare` does with one image."""
    outcome = convert(Job(image_id(path), [path], [out]))
    assert not outcome.refused, outcome.refused


def re_encode(path: Path, out: Path) -> None:
    """Decode with pydicom, write as PNG."""
    dataset = pydicom.dcmread(path)
    cv2.imwrite(str(out / f"{dataset.SOPInstanceUID}.png"), dataset.pixel_array)


def seconds(work: Callable[[Path, Path], None], paths: list[Path]) -> float:
    """Time `work` on all paths, into a new folder."""
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        for path in paths:
            work(path, Path(out))
        return time.perf_counter() - start


def main() -> None:
    """Print images per second of both, and their ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prepare", description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of .dcm at any depth")
    parser.add_argument("--limit", type=int, default=300, help="images at most (300)")
    options = parser.parse_args()
    paths = [path for path in find_images(options.images) if path.suffix.lower() == ".dcm"]
    paths = paths[: options.limit]
    rounds = [(seconds(prepare, paths), seconds(re_encode, paths)) for _ in range(3)]
    ours, theirs = (len(paths) / min(times) for times in zip(*rounds, strict=True))
    print(
        f"{len(paths)} images, one process: preparation {ours:.0f} images/s, "
        f"decoding and re-encoding {theirs:.0f} images/s, ratio {ours / theirs:.1f}"
    )


if __name__ == "__main__":
    main()
