"""The data of a run: recorded when it begins, compared whenever it goes on."""

import os
import shutil

import cv2
import numpy as np
import pytest

from datasets.folds import make_folds
from datasets.siim import find_samples
from tests.helpers.image_files import read_pixels
from tests.helpers.tiny import write_dataset
from utils.errors import InputError
from utils.training.start.run_data import compare_files, record_data


@pytest.fixture
def data(tmp_path):
    """A data set that a test may change."""
    return write_dataset(tmp_path / "data", count=6)


@pytest.fixture
def run(data, tmp_path):
    """The folder of a run on this data set."""
    (tmp_path / "run").mkdir()
    record(tmp_path / "run", data)
    return tmp_path / "run"


def record(folder, data, n_splits=2, patients=None):
    samples = find_samples(data).samples
    table = make_folds(dict.fromkeys(samples, True), n_splits, stratified=False, patients=patients)
    record_data(folder, table, samples, data)


def change_pixel(path):
    """Change one pixel, and neither the size nor the time of the file."""
    plain = (cv2.IMWRITE_PNG_COMPRESSION, 0)
    pixels = read_pixels(path)
    cv2.imwrite(str(path), pixels, plain)
    before = path.stat()
    pixels[3, 4] = 255 - pixels[3, 4]
    cv2.imwrite(str(path), pixels, plain)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


@pytest.mark.parametrize("folder", ["train_images", "train_mask"])
def test_a_file_with_another_pixel_is_refused_by_name(run, data, folder):
    path = data / folder / "image03.png"
    cv2.imwrite(str(path), read_pixels(path), (cv2.IMWRITE_PNG_COMPRESSION, 0))
    (run / "data.csv").unlink()
    record(run, data)
    content = path.read_bytes()
    change_pixel(path)
    with pytest.raises(InputError, match=rf"1 of 12 files .* first is {path}\. Restore") as error:
        record(run, data)
    assert "--run_name" in str(error.value)
    path.write_bytes(content)
    record(run, data)


def test_all_that_was_replaced_is_counted(run, data):
    for i in (1, 4):
        for folder in ("train_images", "train_mask"):
            pixels = np.full((72, 60), 7, np.uint8)
            cv2.imwrite(str(data / folder / f"image{i:02d}.png"), pixels)
    with pytest.raises(InputError, match=r"4 of 12 files .* first is .*/train_images/image01\.png"):
        compare_files(run, find_samples(data).samples)


def test_a_copy_of_the_data_set_is_the_same_data(run, data, tmp_path):
    """As on another machine: at another place, written at another time."""
    shutil.copytree(data, tmp_path / "copy", copy_function=shutil.copyfile)
    for path in (tmp_path / "copy").rglob("*.png"):
        os.utime(path, (1, 1))
    record(run, tmp_path / "copy")


def test_a_run_without_a_record_goes_on_with_one_line(run, data, capsys):
    (run / "data.csv").unlink()
    record(run, data)
    assert capsys.readouterr().out.count("has no record of its images and masks") == 1
    record(run, data)
    assert capsys.readouterr().out == ""
    change_pixel(data / "train_images" / "image00.png")
    with pytest.raises(InputError, match="1 of 12 files"):
        record(run, data)


def test_of_two_calls_that_begin_a_run_the_second_is_compared(run, data):
    """As main.py and train_sfold.py would, which make different folds."""
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(InputError, match=r"folds\.csv holds other folds"):
        record(run, data, n_splits=3)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_patients_that_became_known_do_not_stop_a_run(run, data, capsys):
    """As from a patients.csv that was put into the data set later."""
    before = (run / "folds.csv").read_bytes()
    patients = {f"image{i:02d}": f"patient {i // 2}" for i in range(6)}
    record(run, data, patients=patients)
    assert "has the same folds, but other patients" in capsys.readouterr().out
    assert (run / "folds.csv").read_bytes() == before
    with pytest.raises(InputError, match=r"folds\.csv holds other folds"):
        record(run, data, n_splits=3, patients=patients)


def test_images_that_were_added_or_left_out_are_the_business_of_the_folds(run, data):
    samples = find_samples(data, frozenset({"image02"})).samples
    compare_files(run, samples)
    shutil.copy(data / "train_images" / "image01.png", data / "train_images" / "new.png")
    shutil.copy(data / "train_mask" / "image01.png", data / "train_mask" / "new.png")
    compare_files(run, find_samples(data).samples)
