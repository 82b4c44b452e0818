"""Loaders of a stage: the same pixels for any number of workers, the same images for all ranks."""

import gc
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch

from datasets import loaders
from datasets.augmentation import Augmentation
from datasets.folds import Fold
from datasets.formats.images import read_image
from datasets.loaders import StageData, TrainImages, check_batch_split, check_positives
from datasets.preprocessing import preprocess
from datasets.siim import find_samples
from datasets.sources.cache import CacheSource
from datasets.sources.files import FileSource
from tests.helpers.tiny import config, write_dataset
from utils.config.stages import build_stages
from utils.errors import InputError, command
from utils.inference.loop import open_prediction_loader


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("data"), count=11)


def open_source(root, clahe=True, cache_dir=None, mask_resize="nearest"):
    samples = find_samples(root)[0]
    if cache_dir is None:
        return FileSource(samples, clahe, mask_resize)
    cache = CacheSource(samples, clahe, [64], cache_dir, mask_resize)
    cache.build()
    return cache


def open_data(
    root, workers=0, seed_parts=(5, 0, 1), rank=0, world_size=1, cache_dir=None, **changes
):
    seed, fold_number, stage_number = seed_parts
    settings = config(root, num_workers=workers, image_size_stage1=64, seed=seed, **changes)
    source = open_source(root, settings.clahe, cache_dir, settings.mask_resize)
    ids = list(source.samples)
    fold = Fold(fold_number, ids, ids[:7], frozenset())
    stage = replace(build_stages(settings, 1e-3)[0], number=stage_number)
    return StageData(source, fold, stage, settings, rank, world_size)


def epochs_of(data, epochs=(0, 1)):
    """Load epochs and return, for each, its batches of images and masks."""
    loaded = []
    for epoch in epochs:
        data.batches.set_epoch(epoch)
        loaded.append([(image, mask) for image, mask in data.train])
    return loaded


def equal(a, b):
    return all(
        torch.equal(x, y)
        for left, right in zip(a, b, strict=True)
        for batch, other in zip(left, right, strict=True)
        for x, y in zip(batch, other, strict=True)
    )


@pytest.fixture(scope="module")
def loaded(root):
    return epochs_of(open_data(root))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize(
    ("workers", "cached"), [(1, False), (4, False), (0, True), (1, True), (4, True)]
)
def test_pixels_do_not_depend_on_the_cache_or_the_number_of_workers(
    root, loaded, workers, cached, tmp_path
):
    data = open_data(root, workers, cache_dir=tmp_path if cached else None)
    assert equal(epochs_of(data), loaded)


def test_validation_pixels_do_not_depend_on_the_cache(root, tmp_path):
    from_files, from_cache = open_data(root), open_data(root, 1, cache_dir=tmp_path)
    for one, other in zip(from_files.valid, from_cache.valid, strict=True):
        for left, right in zip(one[:3], other[:3], strict=True):
            assert torch.equal(left, right)
        assert all(map(torch.equal, one.full_masks, other.full_masks))


def test_a_resumed_epoch_has_the_same_pixels(root, loaded):
    assert equal(epochs_of(open_data(root), epochs=[1]), loaded[1:])


def test_batches_are_uint8_with_masks_of_zero_and_one(loaded):
    batches = [batch for epoch in loaded for batch in epoch]
    assert sorted(len(image) for image, _ in batches) == [3, 3, 4, 4, 4, 4]
    for image, mask in batches:
        assert image.dtype == mask.dtype == torch.uint8
        assert image.shape == mask.shape == (len(image), 1, 64, 64)
        assert set(mask.unique().tolist()) <= {0, 1}


@pytest.mark.parametrize("mask_resize", ["nearest", "area", "soft"])
def test_images_are_augmented_at_their_source_and_then_resized(root, monkeypatch, mask_resize):
    """Image and mask as they come out of the augmentation at 128 pixels."""
    monkeypatch.setattr(loaders, "_SOURCE_SIZE", 128)
    data = open_data(root, augment_at="source", mask_resize=mask_resize)
    pixels = open_source(root, mask_resize=mask_resize).pixels(data.fold.train, 128)
    augment = Augmentation(soft=mask_resize == "soft")
    keys = [key for batch in data.batches for key in batch]
    images, masks = (torch.cat(part) for part in zip(*data.train, strict=True))
    assert images.shape == masks.shape == (11, 1, 64, 64)
    for (index, seed), image, mask in zip(keys, images, masks, strict=True):
        whole, whole_mask = pixels.pair(index)
        large, large_mask = augment(whole, whole_mask, seed)
        assert np.array_equal(image[0], cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA))
        blocks = large_mask.reshape(64, 2, 64, 2)
        if mask_resize == "nearest":
            assert np.array_equal(mask[0], blocks[:, 1, :, 1])
        elif mask_resize == "area":
            assert np.array_equal(mask[0], blocks.mean(axis=(1, 3)) > 0.5)
        else:
            assert np.abs(mask[0].numpy() - blocks.mean(axis=(1, 3))).max() <= 0.5


@pytest.mark.parametrize(
    ("changes", "side"),
    [
        ({}, 64),
        ({"augment_at": "source"}, 1024),
        ({"augment_at": "source", "augmentation": "none"}, 64),
        ({"augment_at": "source", "augmentation_flag": False}, 64),
        ({"augment_at": "source", "image_size_stage1": 1536}, 1536),
    ],
)
def test_images_are_augmented_at_1024_pixels_if_at_all(root, changes, side):
    settings = config(root, **{"image_size_stage1": 64} | changes)
    assert loaders.augmented_size(settings, build_stages(settings)[0]) == side


def test_validation_masks_are_those_of_the_setting_and_full_masks_stay(root):
    soft, nearest = open_data(root, mask_resize="soft"), open_data(root)
    for one, other in zip(soft.valid, nearest.valid, strict=True):
        assert one.mask.max() == 255
        assert other.mask.max() == 1
        assert all(map(torch.equal, one.full_masks, other.full_masks))


def by_image(data, epoch):
    """Load an epoch and return the pixels by image position."""
    data.batches.set_epoch(epoch)
    order = [index for batch in data.batches for index, _ in batch]
    return dict(zip(order, torch.cat([image for image, _ in data.train]), strict=True))


def test_augmentation_differs_between_epochs_folds_stages_and_seeds(root):
    views = [by_image(open_data(root), epoch) for epoch in range(3)]
    views += [by_image(open_data(root, seed_parts=p), 0) for p in [(5, 1, 1), (5, 0, 2), (6, 0, 1)]]
    for one, other in pairwise(views):
        changed = [not torch.equal(one[i], other[i]) for i in range(11)]
        assert sum(changed) >= 9  # an image may stay unchanged, or be augmented equally


def test_images_are_augmented_differently(root):
    """One image with the seeds of all images; equal worker streams would repeat augmentations."""
    data = open_data(root)
    seeds = [seed for batch in data.batches for _, seed in batch]
    one_image = TrainImages(open_source(root).pixels(["image01"], 64), Augmentation())
    views = {one_image[0, seed][0].numpy().tobytes() for seed in seeds}
    assert len(views) >= 9


def test_settings_are_applied_to_the_images(root):
    samples = list(find_samples(root)[0].values())
    for clahe in (True, False):
        data = open_data(root, clahe=clahe, augmentation_flag=False)
        expected = [preprocess(read_image(s.image), 64, clahe) for s in samples]
        trained = by_image(data, 0)
        validated = torch.cat([batch.image for batch in data.valid])
        assert all(np.array_equal(trained[i][0], expected[i]) for i in range(11))
        assert np.array_equal(validated[:, 0], expected[:7])


def test_processes_split_every_batch(root):
    complete = by_image(open_data(root), 0)
    parts = [by_image(open_data(root, rank=rank, world_size=2), 0) for rank in range(2)]
    assert len(parts[0]) + len(parts[1]) == 11
    together = parts[0] | parts[1]
    assert all(torch.equal(together[i], complete[i]) for i in range(11))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_validate_every_image_once(root, world_size):
    """7 images do not divide evenly, and none is repeated as padding."""
    shards = [open_data(root, rank=r, world_size=world_size).valid for r in range(world_size)]
    seen = [[i for batch in shard for i in batch.positions.tolist()] for shard in shards]
    assert sorted(i for shard in seen for i in shard) == list(range(7))
    assert all(shard == sorted(shard) for shard in seen)


@pytest.mark.parametrize("world_size", [1, 2])
def test_no_batch_exceeds_its_size_and_the_left_over_is_padded(root, world_size):
    """Eleven images in batches of 2 or 4: the last one has a single image of one process."""
    counted = 0
    for rank in range(world_size):
        data = open_data(root, rank=rank, world_size=world_size, batch_size_stage1=2 * world_size)
        sizes = [len(image) for image, _ in data.train]
        parts = data.step_parts(0)
        assert sizes == [2] * len(parts)
        counted += sum(sizes) - sum(part.padding for part in parts)
        assert sum(part.step_images for part in parts) == len(data.fold.train)
    assert counted == 11


def test_validation_batches_have_all_their_parts(root):
    for batch in open_data(root, workers=1).valid:
        assert batch.positions.dtype == torch.int64
        assert batch.image.dtype == batch.mask.dtype == torch.uint8
        assert batch.image.shape == batch.mask.shape == (len(batch.positions), 1, 64, 64)
        assert [mask.shape for mask in batch.full_masks] == [(72, 60)] * len(batch.positions)


def fold_of(positives, others, valid_positives=1):
    names = [f"p{i}" for i in range(positives)]
    valid = [f"v{i}" for i in range(valid_positives)] or ["e"]
    train = names + [f"n{i}" for i in range(others)]
    return Fold(3, train, valid, frozenset(names + valid) - {"e"})


def test_a_batch_that_cannot_be_divided_is_refused(root):
    stage = build_stages(config(root, batch_size_stage1=6), 1e-3)[0]
    check_batch_split(stage, fold_of(0, 11), processes=3)
    with pytest.raises(
        InputError, match=r"--batch_size_stage1 6 is not divisible .* 4; use a multiple"
    ):
        check_batch_split(stage, fold_of(0, 11), processes=4)
    with pytest.raises(InputError, match="11 training images are too few for 6 processes"):
        check_batch_split(stage, fold_of(0, 11), processes=6)


def test_an_epoch_with_too_few_images_is_refused(root):
    """The last epoch is the smallest: only 3 positives."""
    stage = build_stages(config(root, batch_size_stage1=6, positive_share="0.2:1.0"), 1e-3)[0]
    check_batch_split(stage, fold_of(4, 20), processes=2)
    with pytest.raises(InputError, match="3 training images are too few for 2 processes"):
        check_batch_split(stage, fold_of(3, 20), processes=2)


@pytest.mark.parametrize("changes", [{"positive_share": 0.5}, {"epoch_stage3": 1}])
@pytest.mark.parametrize(("train", "valid"), [(0, 3), (3, 0)])
def test_a_share_of_positives_needs_positives(root, changes, train, valid):
    stages = build_stages(config(root, **changes), 1e-3)
    stage = stages[-1]
    check_batch_split(stage, fold_of(3, 9, 3), processes=1)
    with pytest.raises(InputError, match=f"stage {stage.number} .* fold 3 has {train} .* {valid}"):
        check_batch_split(stage, fold_of(train, 9, valid), processes=1)


@pytest.mark.parametrize("train", [0, 1, 3])
@pytest.mark.parametrize("valid", [0, 1])
def test_a_part_of_a_fold_without_positives_is_named(train, valid):
    fold = fold_of(train, 9, valid)
    if train and valid:
        check_positives(fold, "data")
        return
    with pytest.raises(InputError) as error:
        check_positives(fold, "data")
    message = str(error.value)
    if train or valid:
        part = (
            f"{len(fold.valid)} images to validate"
            if train
            else f"{len(fold.train)} images to train"
        )
        assert f"fold 3 has no positive among its {part} on" in message
        assert f"the {train + valid} positives of data" in message
    else:
        assert f"none of the {len(fold.train) + len(fold.valid)} images is positive" in message
        assert "no mask in data/train_mask has a pixel" in message
    assert "--allow_empty true" in message


@pytest.mark.parametrize("loader", ["train", "valid"])
def test_an_error_in_a_worker_is_reported_without_a_traceback(tmp_path, capsys, loader):
    write_dataset(tmp_path, count=7)
    for path in (tmp_path / "train_mask").iterdir():
        cv2.imwrite(str(path), np.zeros((50, 40), np.uint8))

    data = open_data(tmp_path, workers=1)

    @command
    def main():
        list(getattr(data, loader))

    assert main() == 2
    gc.collect()  # torch's error keeps the loader in a cycle: its workers would end late
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith(f"error: {tmp_path}/train_images/image")
    assert f"but its mask {tmp_path}/train_mask/image" in message
    assert message.endswith("is 40x50 pixels; prepare them again\n")


@pytest.mark.parametrize("workers", [0, 1])
def test_loaders_leave_the_global_random_numbers_alone(root, workers):
    data = open_data(root, workers)
    prediction = open_prediction_loader(data.valid.dataset, 2, workers, list, range(3))
    before = torch.get_rng_state()
    for loader in (data.train, data.valid, prediction):
        list(loader)
    assert torch.equal(torch.get_rng_state(), before)
