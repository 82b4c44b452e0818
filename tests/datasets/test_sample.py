"""The synthetic data set: file formats, and a task that no threshold solves."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest

from datasets import sample
from datasets.formats import rle

SIZE = 128
COUNT = 16


def make(out: Path, *options: str) -> Path:
    assert sample.main(["--out", str(out), "--size", str(SIZE), *options]) == 0
    return out


def files_of(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.dcm"))}


@pytest.fixture(scope="module")
def sample_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("sample_root"), "--count", str(COUNT), "--num_workers", "0")


@pytest.fixture(scope="module")
def dicoms(sample_root: Path) -> dict[str, tuple[Path, pydicom.Dataset]]:
    paths = (sample_root / "dicom-images-train").rglob("*.dcm")
    return {path.stem: (path, pydicom.dcmread(path)) for path in paths}


@pytest.fixture(scope="module")
def drawn() -> list[tuple[np.ndarray, np.ndarray]]:
    return [sample.draw(seed=0, index=index, size=SIZE) for index in range(1, 31)]


@pytest.fixture(scope="module")
def rows(sample_root: Path) -> dict[str, list[str]]:
    """Return the run-length texts per image, read without the project's csv code."""
    lines = (sample_root / "train-rle.csv").read_text(encoding="utf-8").splitlines()[1:]
    texts: dict[str, list[str]] = {}
    for line in lines:
        image, text = line.split(",")
        texts.setdefault(image, []).append(text)
    return texts


def masks_of(texts: list[str]) -> list[np.ndarray]:
    return [rle.decode(text, SIZE, SIZE) for text in texts]


def test_images_depend_only_on_seed_and_index(sample_root, tmp_path):
    fewer = make(tmp_path / "fewer", "--count", "5", "--num_workers", "2")
    many, few = files_of(sample_root), files_of(fewer)
    assert len(few) == 6
    assert few == {name: many[name] for name in few}
    for table in ("train-rle.csv", "patients.csv"):
        assert (sample_root / table).read_bytes().startswith((fewer / table).read_bytes())


def test_repeating_the_command_changes_nothing(tmp_path):
    out = make(tmp_path, "--count", "3", "--num_workers", "0")
    before = files_of(out), (out / "train-rle.csv").read_bytes()
    make(tmp_path, "--count", "3", "--num_workers", "0")
    assert (files_of(out), (out / "train-rle.csv").read_bytes()) == before
    assert not [path for path in out.rglob(".*")]


def test_another_seed_draws_other_images():
    one, other = (sample.draw(seed=seed, index=2, size=SIZE)[0] for seed in (0, 1))
    assert np.abs(one.astype(int) - other).mean() > 5


def test_dicoms_have_the_format_of_stage_1(sample_root, dicoms):
    assert len(dicoms) == COUNT + 1
    assert len({dicom.PatientID for _, dicom in dicoms.values()}) == COUNT + 1
    for path, dicom in dicoms.values():
        study, series, name = path.relative_to(sample_root / "dicom-images-train").parts
        assert (study, series) == (dicom.StudyInstanceUID, dicom.SeriesInstanceUID)
        assert name == f"{dicom.SOPInstanceUID}.dcm"
        assert all(pydicom.uid.UID(uid).is_valid for uid in (study, series, path.stem))
        assert dicom.file_meta.MediaStorageSOPInstanceUID == path.stem
        assert dicom.file_meta.TransferSyntaxUID == pydicom.uid.JPEGBaseline8Bit
        assert (dicom.PhotometricInterpretation, dicom.BitsStored) == ("MONOCHROME2", 8)
        assert "WindowCenter" not in dicom


def test_pixels_match_the_drawing_and_the_frame_is_a_jpeg(dicoms):
    _, dicom = dicoms[sample.sample_uid(0, 2)]
    image, _ = sample.draw(seed=0, index=2, size=SIZE)
    pixels = dicom.pixel_array
    assert pixels.shape == (SIZE, SIZE)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - image).mean() < 4
    frame = pydicom.encaps.get_frame(dicom.PixelData, 0, number_of_frames=1)
    decoded = cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    assert np.abs(decoded.astype(int) - pixels).max() <= 1


def test_the_csv_has_the_format_of_stage_1_to_the_byte(sample_root):
    content = (sample_root / "train-rle.csv").read_bytes()
    assert content.startswith(b"ImageId, EncodedPixels\n1.2.")
    assert content.endswith(b"\n")
    assert b"\r" not in content
    values = [line.split(b",", 1)[1] for line in content.splitlines()[1:]]
    assert all(value[:1] == b" " and value == b" " + value.strip() for value in values)
    assert b" -1" in values


def test_one_image_has_no_row(dicoms, rows):
    assert set(dicoms) - set(rows) == {sample.sample_uid(0, 0)}
    assert set(rows) <= set(dicoms)


def test_union_of_the_rows_is_the_drawn_mask(rows):
    for index in range(1, COUNT + 1):
        _, mask = sample.draw(seed=0, index=index, size=SIZE)
        union = np.maximum.reduce(masks_of(rows[sample.sample_uid(0, index)]))
        np.testing.assert_array_equal(union, mask)


def test_some_images_have_several_rows_and_some_of_those_overlap(rows):
    several = [masks_of(texts) for texts in rows.values() if len(texts) > 1]
    assert all(mask.any() for masks in several for mask in masks)
    overlapping = [np.add.reduce(masks).max() > 1 for masks in several]
    assert any(overlapping)
    assert not all(overlapping)


def test_smallest_set_has_both_classes_and_an_overlap(tmp_path):
    out = make(tmp_path, "--count", "2", "--num_workers", "0")
    values = [line.split(",")[1] for line in (out / "train-rle.csv").read_text().split("\n")[1:-1]]
    assert values[0] == " -1"
    upper, lower = masks_of(values[1:])
    assert (upper & lower).any()


def test_patients_have_one_or_several_images(sample_root, rows):
    with open(sample_root / "patients.csv", encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["ImageId"] for row in table] == list(rows)
    assert all(len(row["PatientId"]) == 8 and row["PatientId"].isdigit() for row in table)
    images = Counter(row["PatientId"] for row in table).values()
    assert min(images) == 1
    assert max(images) > 1


def test_three_in_five_are_positives_of_various_sizes(drawn):
    shares = [mask.mean() for _, mask in drawn if mask.any()]
    assert len(shares) == len(drawn) * 3 // 5
    assert min(shares) < 0.015
    assert 0.02 < max(shares) < 0.08


def test_the_pneumothorax_lies_in_one_lung_and_is_darker_than_its_surroundings(drawn):
    for image, mask in drawn:
        if not mask.any():
            continue
        rows, columns = np.nonzero(mask)
        assert columns.max() < SIZE * 0.5 or columns.min() > SIZE * 0.5
        assert rows.max() < SIZE * 0.95
        ring = cv2.dilate(mask, np.ones((9, 9), np.uint8)) - cv2.dilate(mask, np.ones((3, 3)))
        assert image[mask > 0].mean() < image[ring > 0].mean()


def test_chest_wall_lies_between_pneumothorax_and_the_edge_of_the_image(drawn):
    for image, mask in drawn:
        walls, air = [], []
        for row in np.flatnonzero(mask.any(axis=1)):
            columns = np.flatnonzero(mask[row])
            left = columns.mean() < SIZE / 2
            outside = image[row, : columns[0]] if left else image[row, columns[-1] + 1 :]
            walls.append(outside.max())
            air.append(image[row, columns].mean())
        assert not walls or np.mean(walls) > np.mean(air) + 10


def best_threshold_dice(
    images: Sequence[np.ndarray], masks: Sequence[np.ndarray], min_area: int
) -> float:
    """Return the best mean Dice of "darker than t, in components of at least min_area"."""

    def dice(image: np.ndarray, mask: np.ndarray, threshold: int) -> float:
        dark = (image < threshold).astype(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(dark)
        kept = dark * (stats[:, cv2.CC_STAT_AREA] >= min_area)[labels]
        return 2 * (kept & mask).sum() / (kept.sum() + mask.sum())

    pairs = list(zip(images, masks, strict=True))
    return max(float(np.mean([dice(*pair, t) for pair in pairs])) for t in range(4, 256, 4))


@pytest.mark.parametrize("min_area", [0, SIZE * SIZE // 500])
def test_no_threshold_finds_the_pneumothorax(drawn, min_area):
    images, masks = zip(*(pair for pair in drawn if pair[1].any()), strict=True)
    assert best_threshold_dice(images, masks, min_area) < 0.35
    # The search itself works: it finds the same masks if nothing else is dark.
    only_dark = [np.where(mask, 40, 200).astype(np.uint8) for mask in masks]
    assert best_threshold_dice(only_dark, masks, 0) == 1


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--count", "1"], "--count: '1' is not a whole number from 2 to 100,000"),
        (["--size", "8"], "--size: '8' is not"),
        (["--seed", "-1"], "--seed: '-1' is not"),
        (["--num_workers", "-1"], "--num_workers: '-1' is not"),
    ],
)
def test_values_out_of_range_are_refused(tmp_path, capsys, options, word):
    with pytest.raises(SystemExit) as ended:
        sample.main(["--out", str(tmp_path / "out"), *options])
    assert ended.value.code == 2
    assert word in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name", ["train-rle.csv", "patients.csv", "dicom-images-train/a/b/1.2.3.dcm"]
)
def test_other_data_is_never_overwritten_or_mixed(tmp_path, capsys, name):
    content = b"ImageId, EncodedPixels\n1.2.3, -1\n"
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(content)
    assert sample.main(["--out", str(tmp_path), "--count", "2"]) == 2
    assert "1.2.3" in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == content
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
