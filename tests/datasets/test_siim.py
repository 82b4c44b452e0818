"""The data set: files are found and paired, and prepared equally in training and validation."""

import cv2
import numpy as np
import pytest
import torch

from datasets.augmentation import Augmentation
from datasets.formats.images import read_image
from datasets.loaders import TrainImages, ValidImages
from datasets.preprocessing import preprocess
from datasets.siim import find_samples, pick_samples, read_excluded
from datasets.sources.base import Sample
from datasets.sources.files import FilePixels, FileSource
from tests.helpers.dicoms import picture, write_dicom
from tests.helpers.image_files import read_pixels
from tests.helpers.tiny import write_dataset
from utils.errors import InputError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), count=6)


@pytest.fixture(scope="module")
def samples(root):
    return list(find_samples(root)[0].values())


@pytest.fixture
def own(tmp_path):
    """A data set that a test may damage."""
    return write_dataset(tmp_path, count=3)


def test_images_are_paired_with_their_masks_in_order(root):
    samples, unannotated, without_image, problems = find_samples(root)
    assert list(samples) == [f"image{i:02d}" for i in range(6)]
    assert unannotated == without_image == problems == []
    files = (root / "train_images" / "image02.png", root / "train_mask" / "image02.png")
    assert samples["image02"] == Sample("image02", *files)


def test_an_image_without_a_mask_file_is_left_out_and_reported(own):
    (own / "train_mask" / "image01.png").unlink()
    found = find_samples(own)
    assert list(found.samples) == ["image00", "image02"]
    assert (found.unannotated, found.without_image) == (["image01"], [])


def test_a_mask_file_without_an_image_is_left_out_and_reported(own):
    (own / "train_images" / "image01.png").unlink()
    found = find_samples(own)
    assert list(found.samples) == ["image00", "image02"]
    assert (found.unannotated, found.without_image) == ([], ["image01"])


def test_files_are_found_in_subfolders_and_dicoms_by_their_id(own):
    (own / "train_images" / "deeper").mkdir()
    (own / "train_images" / "image00.png").rename(own / "train_images" / "deeper" / "image00.png")
    write_dicom(own / "train_images" / "image01.dcm", picture(72, 60), uid="1.2.3")
    cv2.imwrite(str(own / "train_mask" / "1.2.3.png"), np.zeros((72, 60), np.uint8))
    samples = find_samples(own).samples
    assert list(samples) == ["1.2.3", "image00", "image01", "image02"]
    assert samples["1.2.3"].image.name == "image01.dcm"


@pytest.mark.parametrize("folder", ["train_images", "train_mask"])
def test_a_missing_folder_is_reported_with_what_to_do(own, folder):
    (own / folder).rename(own / "elsewhere")
    with pytest.raises(InputError, match=rf"{folder}, which is not .*datasets\.prepare.*--dataset"):
        find_samples(own)


def test_test_images_alone_are_refused_with_the_reason(own):
    (own / "train_images").rename(own / "test_images")
    with pytest.raises(InputError, match=r"has only test_images: test images have no masks"):
        find_samples(own)


@pytest.mark.parametrize("names", [["ID_0011fe81e", "ID_9ca06e9b9"], ["ID_0011fe81e", "other"]])
def test_test_images_of_the_second_stage_without_masks_are_named(own, names):
    """Unless there are others, too."""
    for path, name in zip(
        sorted((own / "train_images").iterdir()), [*names, "ID_48eca29e9"], strict=True
    ):
        path.rename(path.with_stem(name))
    what = "such as ID_0011fe81e, are the test images of the competition's second stage"
    with pytest.raises(InputError, match=what if "other" not in names else "no mask in"):
        find_samples(own)


@pytest.mark.parametrize("folder", ["train_images", "train_mask"])
def test_an_empty_folder_is_reported(own, folder):
    for path in (own / folder).iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"train_mask .*train_images \(. images.*; . masks.*\)"):
        find_samples(own)


def test_two_files_with_the_same_id_are_both_reported(own):
    cv2.imwrite(str(own / "train_images" / "image00.jpg"), picture(72, 60))
    with pytest.raises(InputError, match=r"image00\.jpg and .*image00\.png are both image image00"):
        find_samples(own)


def test_unusable_and_duplicate_ids_are_reported_together(own):
    cv2.imwrite(str(own / "train_images" / "image00.jpg"), picture(72, 60))
    for folder in ("train_images", "train_mask"):
        (own / folder / "broken.dcm").write_bytes(b"no DICOM")
    with pytest.raises(InputError) as refused:
        find_samples(own)
    message = str(refused.value)
    for part in ("are both image image00", "images/broken.dcm: is", "mask/broken.dcm: is"):
        assert part in message
    assert "--exclude LIST" in message


def test_an_excluded_image_is_ignored_completely(own):
    cv2.imwrite(str(own / "train_images" / "image00.jpg"), picture(72, 60))
    (own / "train_images" / "broken.dcm").write_bytes(b"no DICOM")
    (own / "train_mask" / "image02.png").unlink()
    found = find_samples(own, frozenset({"image00", "image02", "broken"}))
    assert list(found.samples) == ["image01"]
    assert found[1:] == ([], [], [])


def test_only_files_of_picked_images_matter(own):
    cv2.imwrite(str(own / "train_images" / "image00.jpg"), picture(72, 60))
    (own / "train_images" / "broken.dcm").write_bytes(b"no DICOM")
    (own / "train_mask" / "image02.png").unlink()
    assert list(pick_samples(own, ["none", "image02", "image01"])) == ["image01"]
    with pytest.raises(InputError, match=r"are both image image00; remove one\nFix them"):
        pick_samples(own, ["image00", "image01"])


def test_an_unknown_excluded_id_is_reported_with_a_similar_one(own):
    with pytest.raises(
        InputError, match=r"2 ids match no image or mask, the first is imago01; similar: image01"
    ):
        find_samples(own, frozenset({"image00", "imago01", "other"}))


def test_a_list_of_ids_may_have_comments_empty_lines_and_spaces(tmp_path):
    text = "\ufeff# bad ones\n\n a#1  # cut short\r\n1.2.3\n#b\n"
    (tmp_path / "list.txt").write_text(text, encoding="utf-8", newline="")
    assert read_excluded(tmp_path / "list.txt") == {"a#1", "1.2.3"}
    assert read_excluded(None) == frozenset()


def test_an_unreadable_list_is_reported(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "list.txt", tmp_path / "missing.txt", tmp_path):
        with pytest.raises(InputError, match=f"--exclude {path}: cannot be read"):
            read_excluded(path)


def test_mask_fractions_match_the_pixels(root):
    samples = find_samples(root)[0]
    mask_fractions = FileSource(samples, clahe=True).mask_fractions()
    for name, share in mask_fractions.items():
        grey = read_pixels(samples[name].mask, cv2.IMREAD_GRAYSCALE)
        assert share == sum(value > 0 for value in grey.ravel().tolist()) / grey.size
    assert [share > 0 for share in mask_fractions.values()] == [i % 3 > 0 for i in range(6)]


@pytest.mark.parametrize("clahe", [True, False])
@pytest.mark.parametrize("size", [32, 96])
def test_training_validation_and_prediction_see_the_same_image(samples, size, clahe):
    train = TrainImages(FilePixels(samples, size, clahe), augmentation=None)
    valid = ValidImages(FilePixels(samples, size, clahe))
    for i, sample in enumerate(samples):
        predicted_on = preprocess(read_image(sample.image), size, clahe)
        image, mask = train[i, 123]
        index, valid_image, valid_mask, _ = valid[i]
        assert index == i
        assert np.array_equal(image[0], predicted_on)
        assert torch.equal(valid_image, image)
        assert torch.equal(valid_mask, mask)


def test_clahe_changes_the_image_and_not_the_mask(samples):
    image, mask = TrainImages(FilePixels(samples, 64, True), None)[1, 0]
    plain, same_mask = TrainImages(FilePixels(samples, 64, False), None)[1, 0]
    assert not torch.equal(image, plain)
    assert torch.equal(mask, same_mask)


@pytest.mark.parametrize("augmentation", [None, Augmentation()])
def test_items_are_uint8_and_masks_zero_or_one(samples, augmentation):
    train = TrainImages(FilePixels(samples, 50, True), augmentation)
    for i in range(len(train)):
        for seed in range(5):
            image, mask = train[i, seed]
            assert image.dtype == mask.dtype == torch.uint8
            assert image.shape == mask.shape == (1, 50, 50)
            assert mask.max() == (i % 3 > 0)


def test_a_resized_mask_has_the_nearest_pixels(samples):
    """A smoothing filter would blur the true mask or move its edge."""
    full = read_pixels(samples[1].mask) // 255
    rows, columns = (((np.arange(32) + 0.5) * length / 32).astype(int) for length in (72, 60))
    mask = ValidImages(FilePixels(samples, 32, True))[1][2][0]
    assert np.array_equal(mask, full[np.ix_(rows, columns)])


def test_validation_returns_the_mask_at_its_original_size(samples):
    full_mask = ValidImages(FilePixels(samples, 32, True))[1][3]
    file = read_pixels(samples[1].mask)
    assert full_mask.dtype == torch.uint8
    assert np.array_equal(full_mask, file // 255)


@pytest.mark.parametrize("kind", [TrainImages, ValidImages])
def test_an_image_and_a_mask_of_different_sizes_are_both_reported(own, kind):
    cv2.imwrite(str(own / "train_mask" / "image00.png"), np.zeros((50, 40), np.uint8))
    pixels = FilePixels(list(find_samples(own)[0].values()), 32, True)
    train, valid = TrainImages(pixels, None), ValidImages(pixels)
    message = r"train_images/image00\.png is 60x72 but its mask .*train_mask/image00\.png is 40x50"
    with pytest.raises(InputError, match=message):
        train[0, 0] if kind is TrainImages else valid[0]
