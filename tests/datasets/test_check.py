"""What is found in a data set before training: every bad file, every duplicate, and the figures."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datasets.check import main
from datasets.folds import write_folds
from tests.helpers.tiny import write_dataset


class Place:
    """A data set that a test may spoil, and the command run on it."""

    def __init__(self, root, capsys):
        self.root, self.capsys = root, capsys
        self.images, self.masks = root / "train_images", root / "train_mask"

    def run(self, *extra, code=0):
        result = main(["--dataset_root", str(self.root), *map(str, extra)])
        said = self.capsys.readouterr()
        assert result == code, said
        found = self.root / "check.json"
        return said.out + said.err, json.loads(found.read_text()) if found.exists() else None


@pytest.fixture
def place(tmp_path, capsys):
    return Place(write_dataset(tmp_path / "data", count=7), capsys)


def test_the_figures_are_those_of_the_files(place):
    """Two in three have a mask of 24 by 20 pixels."""
    cv2.imwrite(str(place.images / "image00.png"), np.zeros((9, 7), np.uint8))
    cv2.imwrite(str(place.masks / "image00.png"), np.full((9, 7), 255, np.uint8))
    text, found = place.run()
    assert (found["images"], found["positives"]) == (7, 5)
    assert found["sizes"] == {"60x72": 6, "7x9": 1}
    quartiles = {"smallest": 63, "lower_quartile": 480, "median": 480, "upper_quartile": 480}
    assert found["mask_pixels"] == quartiles | {"largest": 480}
    assert [row["masks"] for row in found["masks_by_size"]] == [5, 0, 0, 0]
    assert not found["stops_a_training"]
    assert "5 positive (71.4%)" in text
    assert Image.open(place.root / "check.png").size[0] > 600


def test_masks_fall_into_the_ranges_that_evaluation_has(place):
    areas = (2048, 2049, 8192, 8193, 32768, 32769, 40000)
    for i, area in enumerate(areas):
        mask = np.zeros(200 * 200, np.uint8)
        mask[:area] = 255
        cv2.imwrite(str(place.masks / f"image{i:02d}.png"), mask.reshape(200, 200))
        image = np.full((200, 200), i, np.uint8)
        cv2.imwrite(str(place.images / f"image{i:02d}.png"), image)
    _, found = place.run()
    assert [row["masks"] for row in found["masks_by_size"]] == [1, 2, 2, 2]


def test_every_bad_file_is_named_and_stops_a_training(place):
    whole = (place.images / "image01.png").read_bytes()
    (place.images / "image01.png").write_bytes(whole[:-20])
    (place.masks / "image01.png").write_bytes(b"")
    cv2.imwrite(str(place.masks / "image02.png"), np.zeros((5, 4), np.uint8))
    cv2.imwrite(str(place.masks / "image03.png"), np.tile(np.uint8([0, 1, 2]), (72, 20)))
    cv2.imwrite(str(place.images / "image04.jpg"), np.zeros((72, 60), np.uint8))
    (place.masks / "broken.dcm").write_bytes(b"no DICOM")
    text, found = place.run(code=1)
    wanted = ["images/image01.png: is cut", "mask/image01.png: is cut", "image02.png is 60x72 but"]
    wanted += ["image03.png: is not a mask", "are both image image04", "broken.dcm: is not a DICOM"]
    for part in wanted:
        assert sum(part in line for line in found["refused"]) == 1, part
        assert part in text
    assert len(found["refused"]) == len(wanted)
    assert found["images"] == 4
    assert found["stops_a_training"]


def test_what_is_excluded_stops_nothing(place):
    for name in ("image01", "image03"):
        (place.images / f"{name}.png").write_bytes(b"")
    place.run(code=1)
    (place.root / "bad.txt").write_text("image01 # empty\nimage03\n")
    _, found = place.run("--exclude", place.root / "bad.txt")
    assert (found["images"], found["refused"]) == (5, [])


def test_files_without_a_partner_are_told_and_stop_nothing(place):
    (place.masks / "image01.png").unlink()
    (place.images / "image02.png").unlink()
    _, found = place.run()
    assert found["images_without_mask"] == ["image01"]
    assert found["masks_without_image"] == ["image02"]


def test_nothing_to_train_on_stops_a_training(place):
    for path in place.masks.iterdir():
        path.rename(path.with_name(f"other{path.name}"))
    text, found = place.run(code=1)
    assert found["images"] == 0
    assert found["stops_a_training"]
    assert "nothing to train on" in text


def test_masks_of_another_grey_than_white_are_told(place):
    for name, level in (("image01", 1), ("image02", 254)):
        mask = cv2.imread(str(place.masks / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(place.masks / f"{name}.png"), mask // 255 * level)
    text, found = place.run()
    assert found["masks_of_other_grey"] == {"image01": 1, "image02": 254}
    assert "image02: 254" in text
    assert found["positives"] == 4


@pytest.fixture
def doubled(place):
    """Three ids of the same pixels in files of other bytes, and two more whose masks differ."""
    pixels = cv2.imread(str(place.images / "image00.png"), cv2.IMREAD_UNCHANGED)
    for name in ("image03", "image06"):
        cv2.imwrite(str(place.images / f"{name}.png"), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    same, other = ((place.images / f"{name}.png").read_bytes() for name in ("image03", "image00"))
    assert same != other
    (place.images / "image04.png").write_bytes((place.images / "image01.png").read_bytes())
    return place


def test_the_same_pixels_under_several_ids_are_found_and_their_masks_compared(doubled):
    _, found = doubled.run()
    assert found["duplicates"] == [
        {"ids": ["image00", "image03", "image06"], "masks_differ": False, "folds": None},
        {"ids": ["image01", "image04"], "masks_differ": True, "folds": None},
    ]
    assert not found["stops_a_training"]


def test_other_shapes_of_the_same_bytes_are_no_duplicates(place):
    for name, shape in (("image00", (40, 10)), ("image03", (10, 40))):
        for folder in (place.images, place.masks):
            cv2.imwrite(str(folder / f"{name}.png"), np.zeros(shape, np.uint8))
    assert place.run()[1]["duplicates"] == []


@pytest.mark.parametrize("name", ["run", "run/folds.csv"])
def test_duplicates_in_different_folds_are_told(doubled, name):
    folds = pd.DataFrame({"ImageId": [f"image{i:02d}" for i in range(6)]})
    folds = folds.assign(fold=[2, 1, 0, 0, 1, 0], positive=1, PatientId="")
    (doubled.root / "run").mkdir()
    write_folds(folds, doubled.root / "run" / "folds.csv")
    text, found = doubled.run("--folds", doubled.root / name)
    assert [group["folds"] for group in found["duplicates"]] == [[0, 2], [1]]
    assert "1 of these groups lie in different folds" in text


@pytest.mark.parametrize("extra", [("--folds", "nowhere"), ("--exclude", "nowhere")])
def test_a_list_that_is_not_there_is_wrong_usage(place, extra):
    text, found = place.run(*extra, code=2)
    assert "nowhere" in text
    assert found is None


def test_a_folder_that_is_not_there_is_wrong_usage(tmp_path, capsys):
    assert main(["--dataset_root", str(tmp_path / "nowhere")]) == 2
    assert "nowhere/train_images" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told(place):
    (place.root / "file").touch()
    text, _ = place.run("--out", place.root / "file", code=2)
    assert "give another --out" in text
