"""Speed of preparing DICOMs, against decoding each and writing it as PNG; in one process."""

from pathlib import Path

import cv2
import pydicom

from benchmarks.speed.compare import Ratio, in_turns
from benchmarks.speed.data import Data
from datasets.formats.images import image_id
from datasets.tools.convert import Job, convert


def measure(data: Data) -> Ratio:
    """Compare images per second; neither side writes masks."""
    out = data.folder / "prepared"
    out.mkdir()

    def ours() -> int:
        for path in data.dicoms:
            outcome = convert(Job(image_id(path), [path], [out]))
            assert not outcome.refused, outcome.refused
        return len(data.dicoms)

    def re_encode() -> int:
        paths = data.dicoms[:: max(1, len(data.dicoms) // 40)]
        for path in paths:
            _re_encode(path, out)
        return len(paths)

    return in_turns("prepare", ours, re_encode, "images/s")


def _re_encode(path: Path, out: Path) -> None:
    dataset = pydicom.dcmread(path)
    cv2.imwrite(str(out / f"{dataset.SOPInstanceUID}.png"), dataset.pixel_array)
