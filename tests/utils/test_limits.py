"""Untrusted files: oversized ones are refused by name, before they are decoded or unpacked."""

import json
import os
import struct
import time
import zipfile
import zlib

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from datasets.formats import pixels as pixels_module
from datasets.formats.annotations import read_annotations
from datasets.formats.dicom import dicom_size, read_dicom
from datasets.formats.images import copyable_bytes, image_id, read_image
from datasets.preprocessing import preprocess
from datasets.siim import read_excluded
from tests.helpers.dicoms import jpeg, picture, write_dicom, write_jpeg_dicom
from tests.helpers.makers import histograms_of, predicted
from utils import csv_files, limits
from utils.config.command_line import load_config, parse_config
from utils.config.settings import Config
from utils.errors import InputError
from utils.postprocessing import histograms as histograms_module
from utils.postprocessing.histograms import load_histograms
from utils.postprocessing.rule import load_rule


def chunk(kind, body, length=None):
    size = struct.pack(">I", len(body) if length is None else length)
    return size + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(height, width, last=b""):
    """Return a PNG with a larger size in its header than its data, and a chunk after the data."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(99)))
    return b"\x89PNG\r\n\x1a\n" + header + data + last + chunk(b"IEND", b"")


def large_jpeg(height, width):
    data = bytearray(jpeg(picture()))
    position = data.index(b"\xff\xc0") + 5
    data[position : position + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.png", png(60_000, 60_000)),
        ("a.png", png(8192, 8193)),
        ("a.png", png(1, 2**20)),
        ("a.png", png(2**20, 1)),
        ("a.png", png(10, 10, chunk(b"junk", b"x", length=2**31 - 1))),
        ("a.jpg", large_jpeg(65_000, 65_000)),
        ("a.jpg", large_jpeg(8192, 8193)),
    ],
    ids=[
        "huge png",
        "png above the limit",
        "wide png",
        "high png",
        "huge chunk",
        "huge jpeg",
        "jpeg above the limit",
    ],
)
@pytest.mark.parametrize("read", [read_image, copyable_bytes])
def test_an_image_with_an_excessive_header_is_not_decoded(tmp_path, monkeypatch, read, name, data):
    def never(*_):
        raise AssertionError("it was decoded")

    monkeypatch.setattr(pixels_module.cv2, "imdecode", never)
    monkeypatch.setattr(pixels_module.simplejpeg, "decode_jpeg", never)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(
        InputError, match=rf"{name}: (has too many pixels|its header says|is neither|.*truncated)"
    ):
        read(tmp_path / name)


@pytest.mark.parametrize("shape", [(8192, 8192), (1, limits.SIDE), (limits.SIDE, 1)])
def test_the_largest_image_that_is_allowed_is_read_and_preprocessed(tmp_path, shape):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros(shape, np.uint8))
    grey = read_image(tmp_path / "a.png")
    assert grey.shape == shape
    assert preprocess(grey, 64, clahe=True).shape == (64, 64)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.dcm"])
def test_a_file_above_the_size_limit_is_not_read(tmp_path, name):
    (tmp_path / name).touch()
    os.truncate(tmp_path / name, limits.IMAGE_BYTES + 1)
    with pytest.raises(InputError, match=rf"{name}: is too large"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "a.dcm"])
def test_a_pipe_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name}: is a pipe"):
        read_image(tmp_path / name)


def test_a_stream_is_read_up_to_the_limit_only():
    with pytest.raises(InputError, match="/dev/zero: is too large; the limit is 1,000 bytes"):
        limits.read_bytes("/dev/zero", 1000)


def test_a_dicom_with_too_many_pixels_is_refused_from_its_header(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", picture(), Rows=60_000, Columns=60_000)
    for read in (read_image, lambda path: dicom_size(read_dicom(path, pixels=False), path)):
        with pytest.raises(InputError, match=r"a\.dcm: its header says 60000x60000 pixels"):
            read(path)
    path = write_jpeg_dicom(tmp_path / "b.dcm", picture(), Rows=60_000, Columns=60_000)
    with pytest.raises(InputError, match=r"b\.dcm: its header says 60000x60000 pixels"):
        copyable_bytes(path)


def test_run_lengths_in_a_dicom_cannot_expand_without_limit(tmp_path):
    """A frame of 16 MB for 3,072 pixels would expand to 1 GB before its size is checked."""
    frame = struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\x00" * 2**23
    path = write_jpeg_dicom(tmp_path / "a.dcm", picture(), frame=frame, syntax=RLELossless)
    started = time.monotonic()
    with pytest.raises(InputError, match=r"more pixel data than 64x48 pixels can need"):
        read_image(path)
    assert time.monotonic() - started < 1


def test_a_deflated_dicom_is_refused_before_it_is_inflated(tmp_path, monkeypatch):
    dataset = pydicom.dcmread(write_dicom(tmp_path / "a.dcm", picture()))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "a.dcm")

    def never(*_):
        raise AssertionError("it was inflated")

    monkeypatch.setattr(zlib, "decompress", never)
    for read in (read_image, image_id):
        with pytest.raises(InputError, match=r"a\.dcm: is deflated"):
            read(tmp_path / "a.dcm")


@pytest.mark.parametrize(
    "tags",
    [
        {"BitsStored": 0},
        {"RescaleSlope": "0", "RescaleIntercept": "5"},
        {"RescaleSlope": "nan", "RescaleIntercept": "5"},
        {"RescaleSlope": "1e308", "RescaleIntercept": "5"},
        {"Rows": None},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")
def test_a_dicom_with_invalid_numbers_is_named(tmp_path, tags):
    path = write_dicom(tmp_path / "a.dcm", picture(), **tags)
    with pytest.raises(InputError, match=r"a\.dcm: "):
        read_image(path)


def write_masks(tmp_path, rows):
    path = tmp_path / "rle.csv"
    path.write_text("ImageId,EncodedPixels\n" + "\n".join(rows) + "\n")
    return path


def test_a_csv_with_too_many_values_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "TABLE_FIELDS", 9)
    assert len(read_annotations(write_masks(tmp_path, ["a,-1", "b,-1", "c,-1"]))) == 3
    with pytest.raises(InputError, match=r"rle\.csv: is too large; the limit is 9 values"):
        read_annotations(write_masks(tmp_path, ["a,-1", "b,-1", "c,-1", "d,-1"]))


def test_a_csv_with_too_many_bytes_is_refused(tmp_path, monkeypatch):
    path = write_masks(tmp_path, ["a,-1"])
    monkeypatch.setattr(limits, "TABLE_BYTES", path.stat().st_size - 1)
    with pytest.raises(InputError, match=r"rle\.csv: is too large"):
        read_annotations(path)


def test_too_many_rows_of_one_image_are_refused(tmp_path):
    rows = ["a,0 1"] * limits.ROWS_PER_IMAGE
    assert len(read_annotations(write_masks(tmp_path, rows))["a"]) == len(rows)
    with pytest.raises(InputError, match=r"row 1002: is one of more than 1,000 rows of a"):
        read_annotations(write_masks(tmp_path, [*rows, "a,0 1"]))


@pytest.mark.parametrize("text", ["a,b,c\n1,2,3\n1,2\n", "a,b,c\n1,2,3\n1,2,3,4\n"])
def test_a_row_of_wrong_length_is_named(tmp_path, text):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=r"row 3 has [24] values for 3 columns"):
        csv_files.read_columns(tmp_path / "a.csv", ("a", "b"), "a csv of things")


def test_a_list_of_ids_that_is_too_large_is_refused(tmp_path):
    (tmp_path / "list.txt").touch()
    os.truncate(tmp_path / "list.txt", limits.LIST_BYTES + 1)
    with pytest.raises(InputError, match=r"list\.txt: is too large"):
        read_excluded(tmp_path / "list.txt")


BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB + "folds: *a8\n",
        "folds: &a [*a]",
        "lr: !!int ''",
        "folds: !!python/object/apply:os.getcwd []",
        "folds: " + "[" * 5000,
        "folds: " + "[" * 9 + "]" * 9,
    ],
    ids=["alias bomb", "endless alias", "tag", "python", "brackets", "nesting"],
)
def test_yaml_with_more_than_plain_settings_is_refused(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    for read in (load_config, lambda path: parse_config(["--config", str(path)], "")):
        with pytest.raises(InputError, match=r"config\.yaml (line|cannot be read as YAML)"):
            read(path)


def test_settings_that_are_too_large_are_refused(tmp_path):
    for name, read in (("a.yaml", load_config), ("a.json", load_rule)):
        (tmp_path / name).write_text("#" + " " * limits.SETTINGS_BYTES)
        with pytest.raises(InputError, match=rf"{name}: is too large"):
            read(tmp_path / name)


def test_deeply_nested_json_is_refused(tmp_path):
    (tmp_path / "threshold.json").write_text("[" * 60_000)
    with pytest.raises(InputError, match=r"threshold\.json cannot be read"):
        load_rule(tmp_path / "threshold.json")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("run_name", 5),
        ("n_splits", 2.5),
        ("n_splits", True),
        ("lr", "fast"),
        ("clahe", 1),
        ("mode", "dream"),
        ("folds", [0]),
        ("seed", "one"),
        ("n_splits", 10**9),
        ("lr", None),
        ("two_stage", None),
    ],
)
def test_a_saved_setting_of_wrong_type_is_named(tmp_path, name, value):
    (tmp_path / "config.yaml").write_text(json.dumps({name: value}))
    with pytest.raises(InputError, match=rf'config\.yaml cannot .* ("|--){name}'):
        load_config(tmp_path / "config.yaml")


def test_text_that_spells_a_number_is_read_as_a_number(tmp_path):
    (tmp_path / "config.yaml").write_text('lr: 2e-4\nseed: "1"\n')  # YAML reads 2e-4 as text
    found = load_config(tmp_path / "config.yaml")
    assert found == Config(lr=2e-4, seed=1)
    assert (type(found.lr), type(found.seed)) == (float, int)


def test_an_integer_is_accepted_as_float(tmp_path):
    (tmp_path / "config.yaml").write_text("lr: 1\nseed: null\n")
    assert load_config(tmp_path / "config.yaml") == Config(lr=1)


@pytest.fixture
def oof(tmp_path):
    """Write histograms with some arrays replaced."""

    def write(**changes):
        arrays = histograms_of(predicted(0)).arrays() | changes
        np.savez_compressed(tmp_path / "oof.npz", **arrays)
        return tmp_path / "oof.npz"

    return write


def test_histograms_that_unpack_to_too_many_bytes_are_refused(oof, monkeypatch):
    with zipfile.ZipFile(oof()) as file:
        unpacked = sum(member.file_size for member in file.infolist())
    monkeypatch.setattr(histograms_module, "HISTOGRAM_BYTES", unpacked)
    assert len(load_histograms(oof()).ids) == 8
    monkeypatch.setattr(histograms_module, "HISTOGRAM_BYTES", unpacked - 1)
    with pytest.raises(InputError, match=r"oof\.npz: is too large"):
        load_histograms(oof())


@pytest.mark.parametrize(
    "changes",
    [
        {"all": np.zeros((8, 255), np.int32)},
        {"mask": np.zeros((7, 256), np.int32)},
        {"all": np.zeros((8, 256), np.float32)},
        {"ids": np.arange(8)},
        {"height": np.zeros((8, 1), np.int32)},
        {"width": np.int32(5)},
        {"ids": np.array([None] * 8)},
    ],
)
def test_histograms_of_wrong_shape_or_dtype_are_refused(oof, changes):
    with pytest.raises(InputError, match=r"oof\.npz cannot be read as out-of-fold histograms"):
        load_histograms(oof(**changes))
