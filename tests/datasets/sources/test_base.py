"""What a message advises about unusable files: to exclude damaged images, but never masks."""

import cv2
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import train_sfold
from datasets.check import main as check
from datasets.formats.images import read_image
from datasets.formats.masks import MaskError, read_mask
from datasets.siim import find_samples
from datasets.sources.base import read_all
from datasets.sources.cache import CacheSource
from datasets.sources.files import FileSource
from tests.helpers.image_files import read_pixels
from tests.helpers.tiny import SETTINGS, as_flags, write_dataset
from utils.errors import InputError, command

CAUSE = "smoothed when it was resized, or saved as JPEG"
THRESHOLD = "cut such masks at half of their range with python -m datasets.prepare"


def smooth_masks(root):
    """Smooth the positive masks, and return how many they are."""
    count = 0
    for path in sorted((root / "train_mask").iterdir()):
        mask = cv2.GaussianBlur(read_pixels(path), (5, 5), 0)
        cv2.imwrite(str(path), mask)
        count += bool(mask.any())
    return count


@pytest.fixture
def root(tmp_path):
    return write_dataset(tmp_path / "data", count=7)


@pytest.fixture
def smoothed(root):
    assert smooth_masks(root) == 4
    return root


def assert_advises_a_threshold(message):
    assert CAUSE in message
    assert THRESHOLD in message
    assert "--exclude" not in message


def open_cache(root, samples):
    cache = CacheSource(samples, True, [32], root / "cache")
    cache.build()
    return cache.mask_fractions()


@pytest.mark.parametrize(
    "read",
    [
        lambda root, samples: list(read_all(lambda s: read_mask(s.mask), samples.values())),
        lambda root, samples: FileSource(samples, True).mask_fractions(),
        open_cache,
    ],
    ids=["read_all", "files", "cache"],
)
def test_smoothed_masks_are_all_named_and_to_be_thresholded(smoothed, read):
    samples = find_samples(smoothed)[0]
    with pytest.raises(InputError) as caught:
        read(smoothed, samples)
    assert_advises_a_threshold(str(caught.value))
    *masks, advice = str(caught.value).splitlines()
    named = [line.partition(".png: is no mask")[0][-7:] for line in masks]
    assert named == ["image01", "image02", "image04", "image05"]
    assert advice == (
        "Fix them, or prepare the images again; python -m datasets.check lists them all"
    )


def test_damaged_images_may_be_excluded(root):
    (root / "train_images" / "image03.png").write_bytes(b"")
    samples = find_samples(root)[0]
    with pytest.raises(InputError, match=r"image03\.png: is truncated.*\n.*with --exclude LIST"):
        list(read_all(lambda s: read_image(s.image), samples.values()))


def test_smoothed_masks_among_damaged_ones_are_not_to_be_excluded(smoothed):
    (smoothed / "train_mask" / "image03.png").write_bytes(b"")
    samples = find_samples(smoothed)[0]
    with pytest.raises(InputError, match=r"image03\.png: is truncated") as caught:
        FileSource(samples, True).mask_fractions()
    assert_advises_a_threshold(str(caught.value))


def test_the_check_advises_a_threshold_for_smoothed_masks(smoothed, capsys):
    assert check(["--dataset_root", str(smoothed)]) == 1
    printed = capsys.readouterr()
    assert printed.out.count("is no mask") == 4
    assert_advises_a_threshold(printed.out + printed.err)


@pytest.mark.parametrize("cache", [False, True])
def test_a_training_advises_a_threshold_for_smoothed_masks(smoothed, tmp_path, capsys, cache):
    settings = {"dataset_root": smoothed, "model_path": tmp_path / "runs", "cache": cache}
    flags = as_flags({**SETTINGS, **settings})
    assert train_sfold.main(flags) == 2
    printed = capsys.readouterr()
    assert f"error: {smoothed / 'train_mask'}" in printed.err
    assert "Traceback" not in printed.err
    assert_advises_a_threshold(printed.out + printed.err)


class Masks(Dataset):
    """The masks of a data set, each as a tensor."""

    def __init__(self, root):
        self.paths = sorted((root / "train_mask").iterdir())

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        return torch.from_numpy(read_mask(self.paths[index]))


def test_a_mask_refused_in_a_worker_is_one_message_without_a_traceback(smoothed, capsys):
    def load():
        list(DataLoader(Masks(smoothed), num_workers=1))

    with pytest.raises(MaskError, match="Traceback"):
        load()
    assert command(load)() == 2
    error = capsys.readouterr().err
    path = smoothed / "train_mask" / "image01.png"
    assert error.startswith(f"error: {path}: is no mask; it has ")
    assert error.count("\n") == 1
    assert_advises_a_threshold(error)
