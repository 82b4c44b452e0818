"""Reading DICOM Segmentations with dcmqi, a reader independent of the library that writes them."""

import gzip
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest


class ReadSegment(NamedTuple):
    """The only segment of a segmentation.

    Attributes:
        mask: [H,W], as stored in the rows and columns of the image.
        spacing: distance of rows and of columns in mm.
        origin: place of the first pixel in mm.
        content: what dcmqi says about the segment and its series.
    """

    mask: np.ndarray
    spacing: tuple[float, float]
    origin: list[float]
    content: dict


def read_segment(path: Path, folder: Path) -> ReadSegment:
    """Convert a segmentation to NRRD in an empty folder with segimage2itkimage, and read that.

    Skips the test where dcmqi is not installed.
    """
    tool = shutil.which("segimage2itkimage", path=str(Path(sys.executable).parent))
    if tool is None:
        pytest.skip("dcmqi is not installed: pip install -r requirements-dev.txt")
    folder.mkdir()
    words = [tool, "--inputDICOM", path, "--outputDirectory", folder, "-t", "nrrd"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [file.name for file in sorted(folder.iterdir())] == ["1.nrrd", "meta.json"]
    header, _, data = (folder / "1.nrrd").read_bytes().partition(b"\n\n")
    fields = dict(re.findall(r"^([\w ]+): (.+)$", header.decode(), re.MULTILINE))
    assert (fields["encoding"], fields["endian"], fields["type"]) == ("gzip", "little", "short")
    width, height, frames = map(int, fields["sizes"].split())
    assert frames == 1
    along_row, along_column, _ = (
        [float(number) for number in vector.split(",")]
        for vector in re.findall(r"\((.+?)\)", fields["space directions"])
    )
    return ReadSegment(
        np.frombuffer(gzip.decompress(data), "<i2").reshape(height, width),
        (float(np.linalg.norm(along_column)), float(np.linalg.norm(along_row))),
        [float(number) for number in fields["space origin"].strip("()").split(",")],
        json.loads((folder / "meta.json").read_text()),
    )
