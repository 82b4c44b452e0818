"""The command line of prepare on folders of mask files, compared with the masks as drawn."""

import re
import shutil

import cv2
import numpy as np
import pytest

from datasets.formats.images import read_image
from datasets.prepare import main
from tests.helpers.dicoms import jpeg, picture, write_jpeg_dicom
from tests.helpers.image_files import read_pixels

SHAPES = {name: picture(seed=seed) > 140 for seed, name in enumerate(("a", "b", "c"), start=7)}


@pytest.fixture
def prepare(tmp_path, capsys, monkeypatch):
    """Run the command on folders below `tmp_path`, where it also works, and return its text."""
    monkeypatch.chdir(tmp_path)

    def run(flags, code=0):
        result = main([*flags.split(), "--out", "out", "--num_workers", "0"])
        text = "".join(capsys.readouterr())
        assert result == code, text
        return text

    return run


@pytest.fixture
def pictures(tmp_path):
    """Write the images a, b and c to images/."""
    for seed, name in enumerate(SHAPES):
        write(tmp_path / f"images/{name}.png", picture(seed=seed))
    return tmp_path / "images"


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def write_masks(folder, ending="", white=255, names=tuple(SHAPES)):
    for name in names:
        write(folder / f"{name}{ending}.png", SHAPES[name].astype(np.uint8) * white)


def written(folder):
    return {path.stem: read_pixels(path) for path in (folder / "out/train_mask").iterdir()}


def assert_masks(folder, expected):
    found = written(folder)
    assert found.keys() == expected.keys()
    for name, mask in expected.items():
        assert found[name].dtype == np.uint8
        assert np.array_equal(found[name], mask * np.uint8(255)), name


@pytest.mark.parametrize("ending", ["", "_mask", "-mask", ".mask"])
@pytest.mark.parametrize("white", [1, 255])
def test_masks_are_found_by_the_names_of_their_images(prepare, pictures, tmp_path, ending, white):
    write_masks(tmp_path / "masks/deeper", ending, white)
    text = prepare("--images images --masks masks")
    assert_masks(tmp_path, SHAPES)
    assert "3 images written, 0 up to date, 3 positive; 0 unannotated, 0 refused" in text
    for path in pictures.iterdir():
        assert (tmp_path / "out/train_images" / path.name).read_bytes() == path.read_bytes()


def test_another_ending_is_given(prepare, pictures, tmp_path):
    write_masks(tmp_path / "masks", "_seg")
    write(tmp_path / "masks/a.png", picture())  # the picture with its contour, as some packs have
    error = prepare("--images images --masks masks --mask_suffix _lung", code=2)
    assert "masks: has no .jpeg, .jpg, .png files whose name ends in _lung" in error
    prepare("--images images --masks masks --mask_suffix _seg")
    assert_masks(tmp_path, SHAPES)


def test_the_names_of_nnunet_are_those_of_its_cases(prepare, pictures, tmp_path):
    for path in pictures.iterdir():
        path.rename(path.with_stem(f"{path.stem}_0000"))
    write_masks(tmp_path / "labelsTr", white=1)
    prepare("--images images --masks labelsTr")
    assert_masks(tmp_path, SHAPES)


def test_dicoms_are_paired_by_uid_or_by_file_name(prepare, tmp_path):
    write_jpeg_dicom(tmp_path / "images/1.2.dcm", picture(), "1.2")
    write_jpeg_dicom(tmp_path / "images/b.dcm", picture(seed=1), "1.3")
    write_masks(tmp_path / "masks", names=("a", "b"))
    (tmp_path / "masks/a.png").rename(tmp_path / "masks/1.2.png")
    prepare("--images images --masks masks")
    assert_masks(tmp_path, {"1.2": SHAPES["a"], "1.3": SHAPES["b"]})


def test_several_folders_are_joined(prepare, pictures, tmp_path):
    left, right = (np.zeros((48, 64), bool) for _ in range(2))
    left[:, :32], right[:, 32:] = True, True
    for name, shape in SHAPES.items():
        write(tmp_path / f"left/{name}.png", (shape & left).astype(np.uint8) * 255)
        if name != "c":
            write(tmp_path / f"right/{name}.png", (shape & right).astype(np.uint8) * 255)
    for flags in ("--masks left right", "--masks left --masks right"):
        text = prepare(f"--images images {flags}")
        assert_masks(tmp_path, SHAPES | {"c": SHAPES["c"] & left})
        assert "1 images have a mask in only some of the 2 folders" in text


def test_two_masks_of_an_image_in_one_folder_are_refused(prepare, pictures, tmp_path):
    write_masks(tmp_path / "masks/left")
    write_masks(tmp_path / "masks/right", names=("a",))
    text = prepare("--images images --masks masks", code=1)
    assert re.search(r"refused: masks/left/a\.png and masks/right/a\.png: both are masks", text)
    assert "2 images written" in text
    assert_masks(tmp_path, {name: SHAPES[name] for name in "bc"})


def test_two_files_that_may_be_the_mask_of_an_image_are_refused(prepare, pictures, tmp_path):
    """One of them may be a copy of the picture."""
    write_masks(tmp_path / "masks", "_mask")
    write(tmp_path / "masks/a.png", picture())
    text = prepare("--images images --masks masks --binarize", code=1)
    assert "masks/a.png and masks/a_mask.png: both are masks of image a" in text
    assert_masks(tmp_path, {name: SHAPES[name] for name in "bc"})


def test_a_mask_of_two_images_goes_to_the_one_with_its_name(prepare, pictures, tmp_path):
    write(pictures / "a_0000.png", picture(seed=9))
    write_masks(tmp_path / "masks")
    text = prepare("--images images --masks masks", code=1)
    assert "masks/a.png: is the mask of image a and of image a_0000" in text
    assert_masks(tmp_path, SHAPES)


def test_an_image_without_a_mask_is_unannotated_unless_said_otherwise(prepare, pictures, tmp_path):
    write_masks(tmp_path / "masks", names=("a", "b"))
    write_masks(tmp_path / "masks", "_of_another_image", names=("c",))
    text = prepare("--images images --masks masks --missing_mask empty")
    assert "1 images without a mask file are taken for empty" in text
    assert "1 mask files belong to none of these images" in text
    assert_masks(tmp_path, SHAPES | {"c": np.zeros((48, 64), bool)})
    text = prepare("--images images --masks masks")
    assert "unannotated, left out: c" in text
    assert_masks(tmp_path, {name: SHAPES[name] for name in "ab"})


def test_where_no_name_matches_the_error_shows_one_of_each_side(prepare, pictures, tmp_path):
    write_masks(tmp_path / "masks", "_of_it")
    text = prepare("--images images --masks masks --missing_mask empty", code=2)
    assert "An image is a.png (id a), a mask a_of_it.png; if" in text
    assert "--mask_suffix" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("masks", ["COVID/masks", "COVID"])
def test_masks_among_the_images_are_no_images(prepare, tmp_path, masks):
    """In a folder below the images, all files are masks; in the same folder, those with an end."""
    for name in SHAPES:
        write(tmp_path / f"COVID/{name}.png", picture(seed=ord(name)))
    write_masks(tmp_path / masks, "_mask")
    text = prepare(f"--images COVID --masks {masks}")
    assert "3 images written, 0 up to date, 3 positive; 0 unannotated" in text
    assert_masks(tmp_path, SHAPES)


def test_what_else_is_in_a_folder_of_masks_is_no_image(prepare, tmp_path):
    for name in SHAPES:
        write(tmp_path / f"COVID/images/{name}.png", picture(seed=ord(name)))
        write(tmp_path / f"COVID/masks/{name}.png", picture())
    write_masks(tmp_path / "COVID/masks", "_seg")
    text = prepare("--images COVID --masks COVID/masks --mask_suffix _seg")
    assert "3 images written, 0 up to date, 3 positive; 0 unannotated, 0 refused" in text
    assert_masks(tmp_path, SHAPES)


def test_masks_of_another_size_are_resized_by_area_with_a_word(prepare, pictures, tmp_path):
    large = {name: shape.repeat(2, axis=0).repeat(2, axis=1) for name, shape in SHAPES.items()}
    for name, shape in large.items():
        write(tmp_path / f"masks/{name}.png", cv2.merge([shape.astype(np.uint8) * 255] * 3))
    text = prepare("--images images --masks masks")
    assert "3 mask files were resized to their images, by area and cut at half\n" in text
    assert_masks(tmp_path, SHAPES)
    for name, shape in SHAPES.items():
        write(tmp_path / f"masks/{name}.png", shape.repeat(2, axis=0).astype(np.uint8))
    text = prepare("--images images --masks masks")
    assert "3 mask files were resized to their images, by area and cut at half; 3 were str" in text
    assert_masks(tmp_path, SHAPES)


def soft(shape):
    """Smooth a mask so that its pixels keep their side of half of the range."""
    grey = np.where(shape, 200, 30).astype(np.uint8)
    grey[0, :5] = np.where(shape[0, :5], 128, 127)
    return grey


def test_smoothed_masks_are_refused_by_the_name_of_the_flag_that_accepts_them(
    prepare, pictures, tmp_path
):
    write_masks(tmp_path / "masks", names=("a",))
    write(tmp_path / "masks/b.png", soft(SHAPES["b"]))
    write(tmp_path / "masks/c.png", soft(SHAPES["c"]).astype(np.uint16) * 257)
    text = prepare("--images images --masks masks", code=1)
    assert re.search(r"refused: masks/b\.png: is no mask; it has .* --binarize", text)
    assert_masks(tmp_path, {"a": SHAPES["a"]})
    for flag in ("--binarize", "--binarize true"):
        text = prepare(f"--images images --masks masks {flag}")
        assert_masks(tmp_path, SHAPES)
        assert "2 smoothed mask files were cut at half of their range; 0.163% of" in text
    assert f"{10 / (2 * 48 * 64):.3%}" == "0.163%"


def test_jpeg_masks_and_a_vanishing_one(prepare, pictures, tmp_path):
    write_masks(tmp_path / "masks", names=("a",))
    shape = cv2.resize(SHAPES["b"].astype(np.uint8)[::8, ::8], (64, 48), None, 0, 0, 0)
    (tmp_path / "masks/b.jpg").write_bytes(jpeg(shape * 255))
    write(tmp_path / "masks/c.png", soft(SHAPES["c"]) // 4)
    text = prepare("--images images --masks masks --binarize", code=1)
    assert "c.png: no pixel is above half of the range; the brightest has 50 of 255" in text
    assert_masks(tmp_path, {"a": SHAPES["a"], "b": shape.astype(bool)})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--masks masks --rle x.csv", "--rle and --masks: give one of them"),
        ("--masks masks --split test", "--split test has no masks; leave out --masks"),
        ("--masks masks --rle_size 8x8", "--rle_size: only for a csv"),
        ("--rle x.csv --binarize --mask_suffix _m", "--mask_suffix, --binarize: only for folders"),
        ("--rle x.csv --missing_mask empty", "--missing_mask: only for folders"),
    ],
)
def test_flags_that_contradict_each_other_or_do_nothing_are_refused(
    prepare, pictures, tmp_path, capsys, flags, message
):
    (tmp_path / "masks").mkdir()
    (tmp_path / "x.csv").touch()
    with pytest.raises(SystemExit) as stop:
        prepare(f"--images images {flags}")
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_masks_that_are_not_there_are_reported(prepare, pictures, tmp_path):
    (tmp_path / "rle.csv").touch()
    text = prepare("--images images --masks rle.csv", code=2)
    assert "rle.csv: is not a folder; give folders of mask files, or a csv of masks to --r" in text
    text = prepare("--images images --masks images --mask_suffix _lung", code=2)
    assert "files whose name ends in _lung, subfolders" in text
    (tmp_path / "masks").mkdir()
    assert "masks: has no .jpeg, .jpg" in prepare("--images images --masks masks", code=2)


def test_prepared_images_and_masks_equal_those_of_run_lengths(prepare, pictures, tmp_path):
    """Preparing what prepare wrote changes nothing."""
    write_masks(tmp_path / "masks")
    prepare("--images images --masks masks")
    shutil.move(tmp_path / "out", tmp_path / "first")
    prepare("--images first/train_images --masks first/train_mask")
    for path in (tmp_path / "first").rglob("*.png"):
        again = tmp_path / "out" / path.relative_to(tmp_path / "first")
        assert np.array_equal(read_image(path), read_image(again))
