"""X-rays to measure with: given DICOMs, or synthetic ones of the same size."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from datasets import prepare, sample
from datasets.formats.images import find_images
from datasets.siim import find_samples
from datasets.sources.base import Sample

_SYNTHETIC = 48


@dataclass(frozen=True)
class Data:
    """The data of the benchmarks, and a folder for their files.

    Attributes:
        dicoms: DICOM files.
        samples: the images and masks prepared from them, by image id.
        folder: temporary folder, removed at the end.
    """

    dicoms: list[Path]
    samples: dict[str, Sample]
    folder: Path


@contextmanager
def open_data(dicoms: Path | None, rle: Path | None, count: int) -> Iterator[Data]:
    """Prepare at most `count` X-rays in a temporary folder.

    Args:
        dicoms: folder of DICOMs; None generates 48 X-rays of 1024x1024 pixels.
        rle: csv of their masks.
        count: maximum number of DICOMs to use.

    Raises:
        InputError: they or their masks cannot be used.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        if dicoms is None:
            sample.main(["--out", str(folder / "synthetic"), "--count", str(_SYNTHETIC)])
            dicoms, rle = (
                folder / "synthetic/dicom-images-train",
                folder / "synthetic/train-rle.csv",
            )
        chosen = folder / "dicoms"
        chosen.mkdir()
        paths = [path for path in find_images(dicoms) if path.suffix.lower() == ".dcm"][:count]
        for path in paths:
            (chosen / path.name).symlink_to(path.resolve())
        words = ["--images", str(chosen), "--rle", str(rle), "--out", str(folder)]
        prepare.prepare(prepare.parse(words))
        yield Data(paths, find_samples(folder)[0], folder)
