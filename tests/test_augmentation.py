"""Augmentation: decided by the seed, geometry shared with the mask, chances as documented."""

import warnings
from itertools import combinations, product

import albumentations as A
import numpy as np
import pytest

from tests.dicoms import picture
from utils.augmentation import Augmentation

SEEDS = range(800)
CHANCES = {"turn": 0.75, "gamma": 0.5, "contrast": 0.5, "blur": 0.3, "noise": 0.2}
KINDS = {
    A.HorizontalFlip: "turn",
    A.VerticalFlip: "turn",
    A.RandomRotate90: "turn",
    A.RandomGamma: "gamma",
    A.RandomBrightnessContrast: "contrast",
    A.MotionBlur: "blur",
    A.MedianBlur: "blur",
    A.Blur: "blur",
    A.GaussNoise: "noise",
}
GREY = np.full((32, 32), 128, np.uint8)


def corner(size=32):
    """Draw a mask that no flip and no turn leaves as it is."""
    mask = np.zeros((size, size), np.uint8)
    mask[2:20, 2:8] = mask[2:8, 2:16] = 1
    return mask


@pytest.fixture(scope="module")
def views():
    """For each seed: the names of the transforms that ran, and what became of image and mask."""
    ran = set()

    def watched(kind):
        original = kind.apply

        def apply(self, *args, **settings):
            ran.add(kind)
            return original(self, *args, **settings)

        return apply

    with pytest.MonkeyPatch.context() as patch:
        for kind in KINDS:
            patch.setattr(kind, "apply", watched(kind))
        augmentation, found = Augmentation(), []
        for seed in SEEDS:
            ran.clear()
            image, mask = augmentation(corner() * 120 + 60, corner(), seed)
            found.append((frozenset(ran), image, mask))
    return found


def table_of(views):
    """[seeds, 5] bool: which of the five parts changed the image."""
    parts = [{KINDS[kind] for kind in ran} for ran, _, _ in views]
    return np.array([[name in ran for name in CHANCES] for ran in parts])


def symmetries(pixels):
    return [np.rot90(p, k) for p in (pixels, pixels[:, ::-1]) for k in range(4)]


def test_every_part_comes_as_often_as_documented(views):
    shares = table_of(views).mean(axis=0)
    for share, (name, chance) in zip(shares, CHANCES.items(), strict=True):
        assert abs(share - chance) < 4 * (chance * (1 - chance) / len(SEEDS)) ** 0.5, name


def test_parts_come_independently_of_one_another(views):
    """One stream for each transform, with the same seed, would make them come and go together."""
    table = table_of(views)
    for (i, one), (j, other) in combinations(enumerate(CHANCES), 2):
        correlation = np.corrcoef(table[:, i], table[:, j])[0, 1]
        assert abs(correlation) < 4 / len(SEEDS) ** 0.5, (one, other)


def test_one_flip_or_turn_and_one_blur_at_most_and_each_as_often(views):
    for name, chance in (("turn", 0.75), ("blur", 0.3)):
        members = [kind for kind, part in KINDS.items() if part == name]
        counts = [sum(kind in ran for ran, _, _ in views) for kind in members]
        assert all(len(ran & set(members)) <= 1 for ran, _, _ in views)
        third = chance / 3
        tolerance = 4 * (third * (1 - third) * len(SEEDS)) ** 0.5
        assert np.abs(np.array(counts) - third * len(SEEDS)).max() < tolerance


def test_the_mask_is_only_flipped_or_turned_and_the_image_with_it(views):
    possible = symmetries(corner())
    for ran, image, mask in views:
        assert any(np.array_equal(mask, p) for p in possible)
        assert np.array_equal(mask, corner()) or any(KINDS[kind] == "turn" for kind in ran)
        if not any(KINDS[kind] == "blur" for kind in ran):
            inside = mask.astype(bool)
            between = (image[inside].mean() + image[~inside].mean()) / 2
            assert np.array_equal(image > between, inside)


def test_every_position_comes_up(views):
    """Both flips, and turns by 90, 180 and 270 degrees."""
    seen = {mask.tobytes() for _, _, mask in views}
    diagonal_flips = {s.tobytes() for s in (corner().T, np.rot90(corner().T, 2))}
    assert seen == {s.tobytes() for s in symmetries(corner())} - diagonal_flips


def test_noise_is_of_three_to_seven_grey_levels():
    augmentation = Augmentation()
    mask, spreads = np.zeros_like(GREY), []
    for seed in range(400):
        changed, _ = augmentation(GREY, mask, seed)
        if changed.std():  # nothing else makes an even image uneven
            spreads.append(changed.std())
    assert 50 < len(spreads) < 110
    # Noise is cut to whole levels, towards zero: that costs up to half a level.
    assert 2.4 < min(spreads) < 3.5
    assert 6.0 < max(spreads) < 7.2


def test_gamma_and_contrast_change_grey_levels_within_their_limits():
    augmentation = Augmentation()
    changed = [augmentation(GREY, GREY * 0, seed)[0].mean() for seed in range(200)]
    darkest = 0.8 * 255 * (128 / 255) ** 1.2 - 0.2 * 255
    brightest = 1.2 * 255 * (128 / 255) ** 0.8 + 0.2 * 255
    assert darkest - 2 < min(changed) < 90
    assert 170 < max(changed) < brightest + 2


def test_the_same_seed_gives_the_same_pixels_in_any_order_and_another_seed_others():
    image, mask = picture(40, 40), corner(40)
    one, other = Augmentation(), Augmentation()
    forwards = {seed: one(image, mask, seed) for seed in range(30)}
    backwards = {seed: other(image, mask, seed) for seed in reversed(range(30))}
    for seed in range(30):
        for a, b in zip(forwards[seed], backwards[seed], strict=True):
            assert np.array_equal(a, b)
    assert len({image.tobytes() for image, _ in forwards.values()}) >= 25


def test_global_random_states_neither_matter_nor_move():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    a = Augmentation()(picture(40, 40), corner(40), 7)
    assert np.array_equal(np.random.get_state()[1], before)
    np.random.seed(1)
    b = Augmentation()(picture(40, 40), corner(40), 7)
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_shape_and_type_stay_and_the_input_is_left_alone():
    augmentation = Augmentation()
    for seed, (height, width) in product(range(20), [(32, 32), (64, 64)]):
        image, mask = picture(height, width), corner(height)
        changed, changed_mask = augmentation(image, mask, seed)
        assert changed.dtype == changed_mask.dtype == np.uint8
        assert changed.shape == changed_mask.shape == (height, width)
        assert np.array_equal(image, picture(height, width))
        assert np.array_equal(mask, corner(height))


def test_albumentations_knows_every_argument():
    with warnings.catch_warnings(action="error"):
        Augmentation()
    with pytest.raises(UserWarning, match="not valid"):  # as pyproject.toml makes it
        A.GaussNoise(var_limit=(10, 50))
