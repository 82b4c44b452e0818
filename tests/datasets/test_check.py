"""The check of a data set before training: unusable files, duplicates and figures."""

import json
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datasets.check import main
from datasets.folds import write_folds
from datasets.siim import find_samples
from datasets.sources.cache import CacheSource
from tests.helpers.image_files import read_pixels
from tests.helpers.tiny import write_dataset
from utils.commands.check import check_cache


class CheckedData:
    """A data set that a test may damage, and the command that checks it."""

    def __init__(self, root, capsys):
        self.root, self.capsys = root, capsys
        self.images, self.masks = root / "train_images", root / "train_mask"

    def run(self, *extra, code=0):
        result = main(["--dataset_root", str(self.root), *map(str, extra)])
        output = self.capsys.readouterr()
        assert result == code, output
        found = self.root / "check.json"
        return output.out + output.err, json.loads(found.read_text()) if found.exists() else None


@pytest.fixture
def data(tmp_path, capsys):
    return CheckedData(write_dataset(tmp_path / "data", count=7), capsys)


def test_the_figures_match_the_files(data):
    """Two in three have a mask of 24 by 20 pixels."""
    cv2.imwrite(str(data.images / "image00.png"), np.zeros((9, 7), np.uint8))
    cv2.imwrite(str(data.masks / "image00.png"), np.arange(63, dtype=np.uint8).reshape(9, 7) // 32)
    text, found = data.run()
    assert (found["images"], found["positives"]) == (7, 5)
    assert "no cache of these images" in text
    assert found["sizes"] == {"60x72": 6, "7x9": 1}
    quartiles = {"smallest": 31, "lower_quartile": 480, "median": 480, "upper_quartile": 480}
    assert found["mask_pixels"] == quartiles | {"largest": 480}
    assert [row["masks"] for row in found["masks_by_size"]] == [5, 0, 0, 0]
    assert not found["stops_a_training"]
    assert "5 positive (71.4%)" in text
    assert Image.open(data.root / "check.png").size[0] > 600


def test_masks_are_counted_in_the_size_buckets_of_the_evaluation(data):
    areas = (2048, 2049, 8192, 8193, 32768, 32769, 39999)
    for i, area in enumerate(areas):
        mask = np.zeros(200 * 200, np.uint8)
        mask[:area] = 255
        cv2.imwrite(str(data.masks / f"image{i:02d}.png"), mask.reshape(200, 200))
        image = np.full((200, 200), i, np.uint8)
        cv2.imwrite(str(data.images / f"image{i:02d}.png"), image)
    _, found = data.run()
    assert [row["masks"] for row in found["masks_by_size"]] == [1, 2, 2, 2]


def test_every_unusable_file_is_reported_and_stops_training(data):
    complete = (data.images / "image01.png").read_bytes()
    (data.images / "image01.png").write_bytes(complete[:-20])
    (data.masks / "image01.png").write_bytes(b"")
    cv2.imwrite(str(data.masks / "image02.png"), np.zeros((5, 4), np.uint8))
    cv2.imwrite(str(data.masks / "image03.png"), np.tile(np.array([0, 1, 2], np.uint8), (72, 20)))
    cv2.imwrite(str(data.images / "image04.jpg"), np.zeros((72, 60), np.uint8))
    (data.masks / "broken.dcm").write_bytes(b"no DICOM")
    text, found = data.run(code=1)
    wanted = [
        "images/image01.png: is truncated",
        "mask/image01.png: is truncated",
        "image02.png is 60x72 but",
    ]
    wanted += ["image03.png: is no mask", "are both image image04", "broken.dcm: is not a DICOM"]
    for part in wanted:
        assert sum(part in line for line in found["refused"]) == 1, part
        assert part in text
    assert len(found["refused"]) == len(wanted)
    assert found["images"] == 4
    assert found["stops_a_training"]


def test_excluded_images_do_not_stop_training(data):
    for name in ("image01", "image03"):
        (data.images / f"{name}.png").write_bytes(b"")
    data.run(code=1)
    (data.root / "bad.txt").write_text("image01 # empty\nimage03\n")
    _, found = data.run("--exclude", data.root / "bad.txt")
    assert (found["images"], found["refused"]) == (5, [])


def test_files_without_a_partner_are_reported_and_do_not_stop_training(data):
    (data.masks / "image01.png").unlink()
    (data.images / "image02.png").unlink()
    _, found = data.run()
    assert found["images_without_mask"] == ["image01"]
    assert found["masks_without_image"] == ["image02"]


def test_a_damaged_file_of_the_cache_is_reported_with_what_to_do(data):
    cache = CacheSource(find_samples(data.root).samples, False, [16], data.root / "cache")
    cache.build()
    victim = cache.folder / "images_16_plain.bin"
    content = victim.read_bytes()
    victim.write_bytes(content[:700] + bytes([content[700] ^ 1]) + content[701:])
    text, found = data.run(code=1)
    assert "1 of 4 files of the cache differ" in text
    assert f"  {victim}\n  delete the folder {cache.folder}: " in text
    assert (found["cache"]["damaged"], found["refused"]) == ([str(victim)], [])
    cache.checksums.path.write_text("{")
    found = check_cache(cache.samples, cache.root)
    assert found["damaged"] == [str(cache.checksums.path)]
    shutil.rmtree(cache.folder)
    cache.build()
    text, found = data.run()
    assert "0 of 4 files of the cache differ" in text
    assert found["cache"] == {"folder": str(cache.folder), "files": 4, "damaged": []}


def test_the_cache_of_excluded_images_and_in_another_folder_is_verified(data):
    (data.root / "bad.txt").write_text("image01\n")
    samples = find_samples(data.root, frozenset({"image01"})).samples
    cache = CacheSource(samples, True, [16], data.root / "fast")
    cache.build()
    (cache.folder / "shapes.npy").write_bytes(b"")
    _, found = data.run(
        "--exclude", data.root / "bad.txt", "--cache_dir", data.root / "fast", code=1
    )
    assert found["cache"]["damaged"] == [str(cache.folder / "shapes.npy")]


def test_a_file_that_cannot_be_opened_is_reported_without_the_cache(data):
    (data.images / "image01.png").unlink()
    (data.images / "image01.png").symlink_to("nowhere.png")
    text, found = data.run(code=1)
    assert "cache not verified" in text
    assert len(found["refused"]) == 1


def test_having_nothing_to_train_on_stops_training(data):
    for path in data.masks.iterdir():
        path.rename(path.with_name(f"other{path.name}"))
    text, found = data.run(code=1)
    assert found["images"] == 0
    assert found["stops_a_training"]
    assert "nothing to train on" in text


def test_having_no_positive_stops_training(data):
    for path in data.masks.iterdir():
        cv2.imwrite(str(path), np.zeros((72, 60), np.uint8))
    text, found = data.run(code=1)
    assert (found["images"], found["positives"], found["refused"]) == (7, 0, [])
    assert found["stops_a_training"]
    assert "would stop a training without --allow_empty true" in text
    mask = np.zeros((72, 60), np.uint8)
    mask[5, 5] = 255
    cv2.imwrite(str(data.masks / "image04.png"), mask)
    assert not data.run()[1]["stops_a_training"]


def test_masks_with_another_grey_level_than_white_are_reported(data):
    for name, level in (("image01", 1), ("image02", 254)):
        mask = read_pixels(data.masks / f"{name}.png", cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(data.masks / f"{name}.png"), mask // 255 * level)
    text, found = data.run()
    assert found["masks_of_other_grey"] == {"image01": 1, "image02": 254}
    assert "image02: 254" in text
    assert found["positives"] == 4


@pytest.fixture
def doubled(data):
    """Three ids with the same pixels in different files, and two with different masks."""
    pixels = read_pixels(data.images / "image00.png")
    for name in ("image03", "image06"):
        cv2.imwrite(str(data.images / f"{name}.png"), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    same, other = ((data.images / f"{name}.png").read_bytes() for name in ("image03", "image00"))
    assert same != other
    (data.images / "image04.png").write_bytes((data.images / "image01.png").read_bytes())
    return data


def test_duplicates_are_found_and_their_masks_compared(doubled):
    _, found = doubled.run()
    assert found["duplicates"] == [
        {"ids": ["image00", "image03", "image06"], "masks_differ": False, "folds": None},
        {"ids": ["image01", "image04"], "masks_differ": True, "folds": None},
    ]
    assert not found["stops_a_training"]


def test_equal_bytes_with_different_shapes_are_not_duplicates(data):
    for name, shape in (("image00", (40, 10)), ("image03", (10, 40))):
        for folder in (data.images, data.masks):
            cv2.imwrite(str(folder / f"{name}.png"), np.zeros(shape, np.uint8))
    assert data.run()[1]["duplicates"] == []


@pytest.mark.parametrize("name", ["run", "run/folds.csv"])
def test_duplicates_in_different_folds_are_reported(doubled, name):
    folds = pd.DataFrame({"ImageId": [f"image{i:02d}" for i in range(6)]})
    folds = folds.assign(fold=[2, 1, 0, 0, 1, 0], positive=1, PatientId="")
    (doubled.root / "run").mkdir()
    write_folds(folds, doubled.root / "run" / "folds.csv")
    text, found = doubled.run("--folds", doubled.root / name)
    assert [group["folds"] for group in found["duplicates"]] == [[0, 2], [1]]
    assert "1 of these groups are split over several folds" in text


def test_folds_of_other_images_are_refused(doubled):
    """Else every duplicate would seem to be in no fold."""
    path = doubled.root / "folds.csv"
    folds = pd.DataFrame({"ImageId": ["other"], "fold": [0], "positive": [1], "PatientId": [""]})
    write_folds(folds, path)
    text, found = doubled.run("--folds", path, code=2)
    assert "has none of the 7 images, such as image00, but ids such as other" in text
    assert found is None
    write_folds(folds.assign(ImageId="image02"), path)
    text, _ = doubled.run("--folds", path)
    assert f"6 images are in no fold of {path}, the first is image00" in text


@pytest.mark.parametrize("extra", [("--folds", "nowhere"), ("--exclude", "nowhere")])
def test_a_missing_list_is_an_input_error(data, extra):
    text, found = data.run(*extra, code=2)
    assert "nowhere" in text
    assert found is None


def test_a_missing_data_set_is_an_input_error(tmp_path, capsys):
    assert main(["--dataset_root", str(tmp_path / "nowhere")]) == 2
    assert "nowhere/train_images" in capsys.readouterr().err
