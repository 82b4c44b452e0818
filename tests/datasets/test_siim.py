"""The data set: files found and paired, read and prepared alike in training and validation."""

import cv2
import numpy as np
import pytest
import torch

from datasets.augmentation import Augmentation
from datasets.formats.images import read_image
from datasets.loaders import TrainImages, ValidImages
from datasets.preprocessing import preprocess
from datasets.siim import find_samples, read_excluded
from datasets.sources.base import Sample
from datasets.sources.files import FilePixels, FileSource
from tests.helpers.dicoms import picture, write_dicom
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
    """A data set that a test may spoil."""
    return write_dataset(tmp_path, count=3)


def test_images_are_paired_with_their_masks_in_order(root):
    samples, unannotated, without_image, problems = find_samples(root)
    assert list(samples) == [f"image{i:02d}" for i in range(6)]
    assert unannotated == without_image == problems == []
    files = (root / "train_images" / "image02.png", root / "train_mask" / "image02.png")
    assert samples["image02"] == Sample("image02", *files)


def test_an_image_without_a_mask_is_left_out_and_told(own):
    (own / "train_mask" / "image01.png").unlink()
    found = find_samples(own)
    assert list(found.samples) == ["image00", "image02"]
    assert (found.unannotated, found.without_image) == (["image01"], [])


def test_a_mask_without_an_image_is_left_out_and_told(own):
    (own / "train_images" / "image01.png").unlink()
    found = find_samples(own)
    assert list(found.samples) == ["image00", "image02"]
    assert (found.unannotated, found.without_image) == ([], ["image01"])


def test_files_are_found_below_folders_and_dicoms_by_their_id(own):
    (own / "train_images" / "deeper").mkdir()
    (own / "train_images" / "image00.png").rename(own / "train_images" / "deeper" / "image00.png")
    write_dicom(own / "train_images" / "image01.dcm", picture(72, 60), uid="1.2.3")
    cv2.imwrite(str(own / "train_mask" / "1.2.3.png"), np.zeros((72, 60), np.uint8))
    samples = find_samples(own).samples
    assert list(samples) == ["1.2.3", "image00", "image01", "image02"]
    assert samples["1.2.3"].image.name == "image01.dcm"


@pytest.mark.parametrize("folder", ["train_images", "train_mask"])
def test_a_missing_folder_is_named_with_what_to_do(own, folder):
    (own / folder).rename(own / "elsewhere")
    with pytest.raises(InputError, match=rf"{folder}, which is not .*datasets\.prepare.*--dataset"):
        find_samples(own)


@pytest.mark.parametrize("folder", ["train_images", "train_mask"])
def test_an_empty_folder_is_told(own, folder):
    for path in (own / folder).iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"train_mask .*train_images \(. images, . masks\)"):
        find_samples(own)


def test_two_files_of_one_id_are_both_named(own):
    cv2.imwrite(str(own / "train_images" / "image00.jpg"), picture(72, 60))
    with pytest.raises(InputError, match=r"image00\.jpg and .*image00\.png are both image image00"):
        find_samples(own)


def test_all_files_that_cannot_be_named_and_ids_of_several_files_are_told_at_once(own):
    cv2.imwrite(str(own / "train_images" / "image00.jpg"), picture(72, 60))
    for folder in ("train_images", "train_mask"):
        (own / folder / "broken.dcm").write_bytes(b"no DICOM")
    with pytest.raises(InputError) as refused:
        find_samples(own)
    message = str(refused.value)
    for part in ("are both image image00", "images/broken.dcm: is", "mask/broken.dcm: is"):
        assert part in message
    assert "--exclude LIST" in message


def test_an_excluded_image_is_as_if_it_was_not_there(own):
    cv2.imwrite(str(own / "train_images" / "image00.jpg"), picture(72, 60))
    (own / "train_images" / "broken.dcm").write_bytes(b"no DICOM")
    (own / "train_mask" / "image02.png").unlink()
    found = find_samples(own, frozenset({"image00", "image02", "broken"}))
    assert list(found.samples) == ["image01"]
    assert found[1:] == ([], [], [])


def test_an_excluded_id_that_is_not_there_is_named_with_one_like_it(own):
    with pytest.raises(
        InputError, match=r"2 ids match no image or mask, the first is imago01; similar: image01"
    ):
        find_samples(own, frozenset({"image00", "imago01", "other"}))


def test_a_list_of_ids_has_comments_empty_lines_and_spaces(tmp_path):
    text = "\ufeff# bad ones\n\n a#1  # cut short\r\n1.2.3\n#b\n"
    (tmp_path / "list.txt").write_text(text, encoding="utf-8", newline="")
    assert read_excluded(tmp_path / "list.txt") == {"a#1", "1.2.3"}
    assert read_excluded(None) == frozenset()


def test_a_list_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "list.txt", tmp_path / "missing.txt", tmp_path):
        with pytest.raises(InputError, match=f"--exclude {path}: cannot be read"):
            read_excluded(path)


def test_the_share_of_a_mask_is_that_of_its_pixels(root):
    samples = find_samples(root)[0]
    mask_fractions = FileSource(samples, clahe=True).mask_fractions()
    for name, share in mask_fractions.items():
        grey = cv2.imread(str(samples[name].mask), cv2.IMREAD_GRAYSCALE)
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
def test_items_are_bytes_and_masks_are_zero_or_one(samples, augmentation):
    train = TrainImages(FilePixels(samples, 50, True), augmentation)
    for i in range(len(train)):
        for seed in range(5):
            image, mask = train[i, seed]
            assert image.dtype == mask.dtype == torch.uint8
            assert image.shape == mask.shape == (1, 50, 50)
            assert mask.max() == (i % 3 > 0)


def test_a_resized_mask_is_made_of_its_nearest_pixels(samples):
    """A smoothing filter would blur the truth, or move its edge."""
    full = cv2.imread(str(samples[1].mask), cv2.IMREAD_UNCHANGED) // 255
    rows, columns = (((np.arange(32) + 0.5) * length / 32).astype(int) for length in (72, 60))
    mask = ValidImages(FilePixels(samples, 32, True))[1][2][0]
    assert np.array_equal(mask, full[np.ix_(rows, columns)])


def test_validation_gives_the_mask_at_its_original_size(samples):
    full_mask = ValidImages(FilePixels(samples, 32, True))[1][3]
    file = cv2.imread(str(samples[1].mask), cv2.IMREAD_UNCHANGED)
    assert full_mask.dtype == torch.uint8
    assert np.array_equal(full_mask, file // 255)


@pytest.mark.parametrize("kind", [TrainImages, ValidImages])
def test_an_image_and_a_mask_of_other_sizes_are_both_named(own, kind):
    cv2.imwrite(str(own / "train_mask" / "image00.png"), np.zeros((50, 40), np.uint8))
    pixels = FilePixels(list(find_samples(own)[0].values()), 32, True)
    data, item = (
        (TrainImages(pixels, None), (0, 0)) if kind is TrainImages else (ValidImages(pixels), 0)
    )
    message = r"train_images/image00\.png is 60x72 but its mask .*train_mask/image00\.png is 40x50"
    with pytest.raises(InputError, match=message):
        data[item]
