"""Every reader of untrusted files, with small valid files to damage."""

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, SecondaryCaptureImageStorage

from benchmarks.robustness.mutations import seal_png
from datasets.annotations.names import read_names
from datasets.folds import read_folds
from datasets.formats.annotations import RleRow, annotated_mask, read_annotations
from datasets.formats.images import copyable_bytes, image_id, read_image
from datasets.patients import read_patients
from datasets.siim import read_excluded
from utils.config.command_line import load_config
from utils.evaluation.image_level import read_scores
from utils.inference.out_of_fold import collect_histograms, measure_prediction
from utils.postprocessing.histograms import load_histograms
from utils.postprocessing.rule import PostProcess, load_rule
from utils.safe_load import load_file

_SIDE = 24
_RLE = (b"0 1", b"-1", b"5 10 3 20", b" 0 576 ", b"575 1", b"100 1 0 1 200 50")


@dataclass(frozen=True)
class Reader:
    """A reader of files, and how to fuzz it.

    Attributes:
        read: reads a file; raises InputError if it cannot be used.
        seeds: returns the contents of valid files.
        name: file name to read from.
        examples: number of damaged files that take about two minutes.
        wrap: turns damaged bytes into the content of the file.
    """

    read: Callable[[Path], object]
    seeds: Callable[[], list[bytes]]
    name: str
    examples: int
    wrap: Callable[[bytes], bytes] = bytes


def _read_run_lengths(path: Path) -> None:
    text = path.read_bytes().decode("latin-1")
    annotated_mask([RleRow(1, text)], _SIDE, _SIDE, path)


def _read_masks(path: Path) -> None:
    for rows in read_annotations(path).values():
        annotated_mask(rows, _SIDE, _SIDE, path)


def _read_absolute_masks(path: Path) -> None:
    for rows in read_annotations(path, "absolute").values():
        annotated_mask(rows, _SIDE, _SIDE, path)


def _read_any_image(path: Path) -> None:
    name = image_id(path)
    # An id from a DICOM becomes a file name, which must not escape its folder.
    if (path.parent / f"{name}.png").resolve().parent != path.parent.resolve():
        raise AssertionError(f"{name!r} escapes its folder")
    copyable_bytes(path)
    grey = read_image(path)
    if grey.dtype != np.uint8 or grey.ndim != 2 or grey.size == 0:
        raise AssertionError(f"read as {grey.dtype} {grey.shape}")


def _read_scores(path: Path) -> None:
    read_scores(path, ["a", "b"])


def _csv_seeds() -> list[bytes]:
    rows = b"".join(b"%d, %b\r\n" % (i, text) for i, text in enumerate(_RLE))
    return [b"ImageId, EncodedPixels\n" + rows, b"\xef\xbb\xbfImageId,EncodedPixels\n" + rows, rows]


def _absolute_seeds() -> list[bytes]:
    return [b'image_id,EncodedPixels\na.png,1 5 9 2\nb,-1\nc,"[570, 7]"\nd,[]\n']


def _folds_seeds() -> list[bytes]:
    return [b"ImageId,fold,positive,PatientId\na,0,1,p\nb,1,0,\n1.2.3,1,0,007\n"]


def _patients_seeds() -> list[bytes]:
    return [b"ImageId,PatientId\na,1\nb,1\nc,\n", b'Age,"ImageId",PatientId\r\n5,"a",9\r\n']


def _names_seeds() -> list[bytes]:
    return [
        b"new_filename,ImageId,has_pneumo\n0_train_1_.png,1.2.3,1\n1_train_0_.png,1.2.4,0\n",
        b'label,"image_id",filename\r\n,a,b.jpg\r\n',
    ]


def _scores_seeds() -> list[bytes]:
    return [
        b"ImageId,probability,area\na,0.5,10\nb,0.25,0\n",
        b"area,ImageId,probability\n1,b,1\n7, a,0\n",
    ]


def _list_seeds() -> list[bytes]:
    return [b"# bad\nimage1\n1.2.3 # cut short\n\n"]


def _json_seeds() -> list[bytes]:
    rule = asdict(PostProcess(0.5, 100, 0.75))
    return [json.dumps(rule | {"pooled": {"dice": 0.8}, "per_fold": [1, None]}).encode()]


def _yaml_seeds() -> list[bytes]:
    block = b"lr: 0.001\nfolds: '0,3'\nseed: null\nclahe: false\nmode: train\nn_splits: 5\n"
    return [
        block,
        b"{lr: 1.0e-3, run_name: x, num_workers: 0}",
        b"epoch_stage1: 2\nepoch_stage1_freeze: 1",
    ]


def _encoded(suffix: str) -> list[bytes]:
    grey = _grey()
    images = [grey, np.dstack([grey] * 3), grey[:1, :3]]
    images += [grey.astype(np.uint16) * 257] if suffix == ".png" else []
    return [cv2.imencode(suffix, image)[1].tobytes() for image in images]


def _grey() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (_SIDE, _SIDE)).astype(np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def _dicom(**tags: Any) -> bytes:
    dataset, grey = Dataset(), _grey()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = tags.pop("syntax", ExplicitVRLittleEndian)
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    dataset.Rows, dataset.Columns = grey.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation, dataset.PixelData = 0, grey.tobytes()
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset["PixelData"].VR = "OB"
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _dicom_seeds() -> list[bytes]:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 8], list(range(256))
    table["LUTData"].VR = "US"
    frame = encapsulate([_encoded(".jpg")[0]])
    return [
        _dicom(syntax=JPEGBaseline8Bit, PixelData=frame),
        _dicom(),
        _dicom(RescaleSlope=2, RescaleIntercept=-5, WindowCenter=100, WindowWidth=50),
        _dicom(PhotometricInterpretation="MONOCHROME1", VOILUTSequence=[table]),
        _dicom(ModalityLUTSequence=[table], NumberOfFrames=1),
    ]


def _histograms() -> dict[str, Any]:
    levels = _grey()
    mask = (levels > 128).astype(np.uint8)
    rows = [measure_prediction(name, levels, mask, levels[::-1], 0.5) for name in ("a", "b")]
    return collect_histograms(["a", "b"], rows).arrays()


def _npz_seeds() -> list[bytes]:
    files, arrays = (io.BytesIO(), io.BytesIO(), io.BytesIO()), _histograms()
    np.savez_compressed(files[0], arrays=np.array(list(arrays)), **arrays)
    np.savez(files[1], **arrays)  # as older versions wrote it, without a list of its arrays
    optional = ("gate", "presence", "components")
    required = {n: array for n, array in arrays.items() if n not in optional}
    np.savez(files[2], arrays=np.array(list(required)), **required)
    return [file.getvalue() for file in files]


def _npy_seeds() -> list[bytes]:
    file = io.BytesIO()
    np.save(file, _histograms()["components"])
    return [file.getvalue()]


def _npz_with(components: bytes) -> bytes:
    """Put a damaged array into an intact npz, whose checksums then match."""
    file = io.BytesIO()
    np.savez(file, **{n: array for n, array in _histograms().items() if n != "components"})
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("components.npy", components)
    return file.getvalue()


def _checkpoint_seeds() -> list[bytes]:
    file = io.BytesIO()
    weights = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.zeros(2)}
    torch.save({"state_dict": weights, "epoch": 3, "best": {"dice": 0.5}, "config": {}}, file)
    return [file.getvalue()]


_png, _jpeg = (lambda: _encoded(".png")), (lambda: _encoded(".jpg"))

READERS = {
    "rle": Reader(_read_run_lengths, lambda: list(_RLE), "rle.txt", 300_000),
    "csv": Reader(_read_masks, _csv_seeds, "masks.csv", 200_000),
    "absolute csv": Reader(_read_absolute_masks, _absolute_seeds, "masks.csv", 100_000),
    "folds": Reader(read_folds, _folds_seeds, "folds.csv", 200_000),
    "patients": Reader(read_patients, _patients_seeds, "patients.csv", 200_000),
    "names": Reader(read_names, _names_seeds, "names.csv", 200_000),
    "scores": Reader(_read_scores, _scores_seeds, "scores.csv", 100_000),
    "list": Reader(read_excluded, _list_seeds, "list.txt", 200_000),
    "json": Reader(load_rule, _json_seeds, "threshold.json", 200_000),
    "yaml": Reader(load_config, _yaml_seeds, "config.yaml", 100_000),
    "png": Reader(_read_any_image, _png, "image.png", 100_000),
    "sealed png": Reader(_read_any_image, _png, "image.png", 100_000, seal_png),
    "jpeg": Reader(_read_any_image, _jpeg, "image.jpg", 100_000),
    "dicom": Reader(_read_any_image, _dicom_seeds, "image.dcm", 30_000),
    "npz": Reader(load_histograms, _npz_seeds, "oof.npz", 100_000),
    "npy": Reader(load_histograms, _npy_seeds, "oof.npz", 50_000, _npz_with),
    "checkpoint": Reader(load_file, _checkpoint_seeds, "stage1_best.pth", 50_000),
}
