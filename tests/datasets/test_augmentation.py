"""Augmentation: determined by the seed, same geometry for the mask, documented probabilities."""

import random
import warnings
from itertools import combinations, product
from typing import NamedTuple

import albumentations as A
import cv2
import numpy as np
import pytest

from datasets.augmentation import AUGMENTATIONS, Augmentation, build_augmentation
from tests.helpers.dicoms import picture
from utils.errors import InputError

SEEDS = range(800)
SIDE = 64
SETS = [name for name in AUGMENTATIONS if name != "none"]
BLURS = {"MotionBlur", "MedianBlur", "Blur"}
PARTS = {
    "original": {
        "turn": (0.75, {"HorizontalFlip", "VerticalFlip", "RandomRotate90"}),
        "gamma": (0.5, {"RandomGamma"}),
        "contrast": (0.5, {"RandomBrightnessContrast 0.2 0.2"}),
        "blur": (0.3, BLURS),
        "noise": (0.2, {"GaussNoise 3 to 7"}),
    },
    "final": {
        "flip": (0.4, {"HorizontalFlip"}),
        "rotation": (0.4, {"Rotate"}),
        "clahe": (0.4, {"CLAHE"}),
        "gamma": (0.1, {"RandomGamma"}),
        "contrast": (0.1, {"RandomBrightnessContrast 0.2 0.2"}),
        "blur": (0.3, BLURS),
        "noise": (0.2, {"GaussNoise 3 to 7", "GaussNoise 3 to 13"}),
    },
    "winner": {
        "flip": (0.5, {"HorizontalFlip"}),
        "grey": (
            0.3,
            {
                "RandomGamma",
                "RandomBrightnessContrast 0.2 0.0",
                "RandomBrightnessContrast 0.0 0.2",
            },
        ),
        "distortion": (0.3, {"ElasticTransform", "GridDistortion", "OpticalDistortion"}),
        "affine": (0.5, {"Affine"}),
    },
}
"""For each set: the probability of each part, and the transforms of which it applies one."""

KINDS = (
    *(A.HorizontalFlip, A.VerticalFlip, A.RandomRotate90, A.Rotate, A.Affine),
    *(A.ElasticTransform, A.GridDistortion, A.OpticalDistortion),
    *(A.RandomGamma, A.RandomBrightnessContrast, A.CLAHE, A.GaussNoise),
    *(A.MotionBlur, A.MedianBlur, A.Blur),
)
DISTORTING = {"ElasticTransform", "GridDistortion", "OpticalDistortion"}
MOVING = {"Rotate", "Affine", *DISTORTING}
UNEVEN = {*BLURS, "CLAHE"}
"""Transforms after which a grey level depends on its position."""
TURNING = {"HorizontalFlip", "VerticalFlip", "RandomRotate90"}
GREY = np.full((32, 32), 128, np.uint8)


def corner(size=SIDE):
    """Draw a mask that every flip and rotation changes."""
    mask = np.zeros((size, size), np.uint8)
    mask[size // 16 : size * 5 // 8, size // 16 : size // 4] = 1
    mask[size // 16 : size // 4, size // 16 : size // 2] = 1
    return mask


def bar(size=SIDE):
    """Draw a centred mask, four times as wide as high."""
    mask = np.zeros((size, size), np.uint8)
    mask[size * 7 // 16 : size * 9 // 16, size // 4 : size * 3 // 4] = 1
    return mask


def label(transform):
    name = type(transform).__name__
    if isinstance(transform, A.RandomBrightnessContrast):
        return f"{name} {transform.brightness_limit[1]} {transform.contrast_limit[1]}"
    if isinstance(transform, A.GaussNoise):
        return "{} {:.0f} to {:.0f}".format(name, *(255 * s for s in transform.std_range))
    return name


class View(NamedTuple):
    """The transforms that ran, and the resulting image and mask."""

    ran: frozenset
    image: np.ndarray
    mask: np.ndarray


def watch(name, image, mask, seeds=SEEDS):
    """Augment an image with each of the seeds."""
    ran = set()

    def watched(kind):
        original = kind.apply

        def apply(self, *args, **settings):
            ran.add(label(self))
            return original(self, *args, **settings)

        return apply

    views = []
    with pytest.MonkeyPatch.context() as patch:
        for kind in KINDS:
            patch.setattr(kind, "apply", watched(kind))
        augmentation = Augmentation(name)
        for seed in seeds:
            ran.clear()
            augmented = augmentation(image, mask, seed)
            views.append(View(frozenset(ran), *augmented))
    return views


@pytest.fixture(scope="module")
def views():
    """The corner on grey, as augmented by each set."""
    return {name: watch(name, corner() * 120 + 60, corner()) for name in SETS}


@pytest.fixture(scope="module")
def views_of_bar():
    return {name: watch(name, bar() * 120 + 60, bar()) for name in ("final", "winner")}


def table_of(name, views):
    """[seeds, parts] bool: which parts changed the image."""
    parts = [members for _, members in PARTS[name].values()]
    return np.array([[bool(view.ran & members) for members in parts] for view in views])


def off_edge(mask):
    """Find the pixels more than one pixel from the edge of a mask; interpolation blurs the others.

    A distorted mask can have parts and holes smaller than that.
    """
    kernel = np.ones((3, 3), np.uint8)
    return cv2.dilate(mask, kernel) == cv2.erode(mask, kernel)


def symmetries(pixels):
    return [np.rot90(p, k) for p in (pixels, pixels[:, ::-1]) for k in range(4)]


@pytest.mark.parametrize("name", SETS)
class TestEverySet:
    def test_every_part_has_its_documented_probability(self, name, views):
        shares = table_of(name, views[name]).mean(axis=0)
        for share, (part, (p, _)) in zip(shares, PARTS[name].items(), strict=True):
            assert abs(share - p) < 4 * (p * (1 - p) / len(SEEDS)) ** 0.5, part

    def test_parts_are_applied_independently_of_each_other(self, name, views):
        """With a separate stream per part and equal seeds, they would be applied together."""
        table = table_of(name, views[name])
        for (i, one), (j, other) in combinations(enumerate(PARTS[name]), 2):
            correlation = np.corrcoef(table[:, i], table[:, j])[0, 1]
            assert abs(correlation) < 4 / len(SEEDS) ** 0.5, (one, other)

    def test_each_part_applies_at_most_one_transform_all_with_equal_probability(self, name, views):
        for _, members in PARTS[name].values():
            counts = np.array([sum(member in v.ran for v in views[name]) for member in members])
            assert all(len(view.ran & members) <= 1 for view in views[name])
            each, total = 1 / len(members), counts.sum()
            tolerance = 4 * (each * (1 - each) * total) ** 0.5
            assert np.abs(counts - each * total).max() <= tolerance, members

    def test_no_other_transform_runs(self, name, views):
        known = set().union(*(members for _, members in PARTS[name].values()))
        assert set().union(*(view.ran for view in views[name])) == known

    def test_the_mask_stays_a_mask_and_moves_with_the_image(self, name, views):
        compared = 0
        for view in views[name]:
            assert set(np.unique(view.mask)) <= {0, 1}
            if view.ran & UNEVEN or view.mask.sum() < 20:
                continue
            inside = view.mask.astype(bool)
            between = (view.image[inside].mean() + view.image[~inside].mean()) / 2
            wrong = ((view.image > between) != inside)[off_edge(view.mask)].mean()
            assert wrong <= (0.03 if view.ran & DISTORTING else 0), view.ran
            compared += 1
        assert compared > 200

    def test_without_a_moving_transform_the_mask_is_only_flipped_or_turned(self, name, views):
        possible = symmetries(corner())
        for view in views[name]:
            if view.ran & MOVING:
                continue
            assert any(np.array_equal(view.mask, p) for p in possible)
            assert np.array_equal(view.mask, corner()) or view.ran & TURNING

    def test_the_area_outside_the_image_is_black_and_not_mask(self, name):
        full = np.ones((SIDE, SIDE), np.uint8)
        moved = [v for v in watch(name, full * 255, full, range(200)) if v.ran <= MOVING | TURNING]
        for view in moved:
            wrong = ((view.image > 0) != view.mask)[off_edge(view.mask)].mean()
            assert wrong <= (0.03 if view.ran & DISTORTING else 0), view.ran
        assert (sum((view.image == 0).any() for view in moved) > 10) == (name != "original")

    def test_pixels_depend_on_the_seed_and_not_on_the_order_of_calls(self, name):
        image, mask = picture(40, 40), corner(40)
        one, other = Augmentation(name), Augmentation(name)
        forwards = {seed: one(image, mask, seed) for seed in range(60)}
        backwards = {seed: other(image, mask, seed) for seed in reversed(range(60))}
        for seed in range(60):
            for a, b in zip(forwards[seed], backwards[seed], strict=True):
                assert np.array_equal(a, b)
        assert len({image.tobytes() for image, _ in forwards.values()}) >= 45

    def test_global_random_states_are_neither_used_nor_changed(self, name):
        """Sixty seeds run every transform; the elastic one draws a field from numpy."""
        augmentation, image, mask = Augmentation(name), picture(40, 40), corner(40)

        def run(seed):
            np.random.seed(seed)
            random.seed(seed)
            cv2.setRNGSeed(seed)
            return [augmentation(image, mask, i)[0].tobytes() for i in range(60)]

        first = run(0)
        states = np.random.get_state(legacy=False)["state"]["key"].copy(), random.getstate()
        assert run(1) == first
        np.random.seed(0)
        random.seed(0)
        assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], states[0])
        assert random.getstate() == states[1]

    def test_shape_and_dtype_are_kept_and_the_input_is_not_modified(self, name):
        augmentation = Augmentation(name)
        for seed, (height, width) in product(range(40), [(32, 32), (64, 64)]):
            image, mask = picture(height, width), corner(height)
            changed, changed_mask = augmentation(image, mask, seed)
            assert changed.dtype == changed_mask.dtype == np.uint8
            assert changed.shape == changed_mask.shape == (height, width)
            assert np.array_equal(image, picture(height, width))
            assert np.array_equal(mask, corner(height))

    def test_albumentations_accepts_every_argument(self, name):
        with warnings.catch_warnings(action="error"):
            Augmentation(name)
        with pytest.raises(UserWarning, match="not valid"):  # as pyproject.toml makes it
            A.GaussNoise(var_limit=(10, 50))


def test_the_original_set_produces_every_flip_and_rotation(views):
    """Both flips, and turns by 90, 180 and 270 degrees."""
    seen = {view.mask.tobytes() for view in views["original"]}
    diagonal_flips = {s.tobytes() for s in (corner().T, np.rot90(corner().T, 2))}
    assert seen == {s.tobytes() for s in symmetries(corner())} - diagonal_flips


@pytest.mark.parametrize(("name", "limits"), [("original", (3, 7)), ("final", (2.55, 12.75))])
def test_noise_has_the_documented_strength(name, limits):
    """On uniform grey, which only the corners of a rotation change otherwise."""
    views = watch(name, GREY, GREY * 0, range(500))
    noisy = [view for view in views if any("GaussNoise" in kind for kind in view.ran)]
    spreads = [view.image.std() for view in noisy if "Rotate" not in view.ran]
    assert len(spreads) > 40
    # Noise is truncated to integer levels, which costs up to half a level.
    assert limits[0] - 0.8 < min(spreads) < limits[0] + 0.6
    assert limits[1] - 1.5 < max(spreads) < limits[1] + 0.6


def test_gamma_and_contrast_change_grey_levels_within_their_limits():
    augmentation = Augmentation("original")
    changed = [augmentation(GREY, GREY * 0, seed)[0].mean() for seed in range(200)]
    darkest = 0.8 * 255 * (128 / 255) ** 1.2 - 0.2 * 255
    brightest = 1.2 * 255 * (128 / 255) ** 0.8 + 0.2 * 255
    assert darkest - 2 < min(changed) < 90
    assert 170 < max(changed) < brightest + 2


@pytest.mark.parametrize(
    ("name", "kind", "limit"), [("final", "Rotate", 15), ("winner", "Affine", 45)]
)
def test_rotations_reach_their_limits_in_both_directions(views_of_bar, name, kind, limit):
    moved = [view.mask for view in views_of_bar[name] if view.ran & MOVING == {kind}]
    angles = [direction(mask) for mask in moved]
    assert 0.9 * limit < max(angles) < limit + 2
    assert 0.9 * limit < -min(angles) < limit + 2


def direction(mask):
    """Return the angle of the long axis of a mask in degrees, from its second moments."""
    m = cv2.moments(mask, binaryImage=True)
    return np.degrees(np.arctan2(2 * m["mu11"], m["mu20"] - m["mu02"])) / 2


def stretch(mask):
    """Return the ratio of length to width of a mask, from its second moments."""
    m = cv2.moments(mask, binaryImage=True)
    minor, major = np.linalg.eigvalsh([[m["mu20"], m["mu11"]], [m["mu11"], m["mu02"]]])
    return (major / minor) ** 0.5


def test_the_winner_set_keeps_the_aspect_ratio(views_of_bar):
    moved = [view.mask for view in views_of_bar["winner"] if view.ran & MOVING == {"Affine"}]
    assert np.abs(np.array([stretch(mask) for mask in moved]) - 4).max() < 0.45


def test_the_winner_set_shifts_and_scales_within_its_limits(views_of_bar):
    moved = [view.mask for view in views_of_bar["winner"] if view.ran & MOVING == {"Affine"}]
    centres = np.array([np.argwhere(mask).mean(axis=0) for mask in moved]) - (SIDE - 1) / 2
    scales = np.array([mask.sum() for mask in moved]) ** 0.5 / bar().sum() ** 0.5
    furthest = np.abs(centres).max(axis=0)
    assert ((furthest >= 3) & (furthest < 4.5)).all()  # 6.25 % are 4 pixels
    assert 0.87 < scales.min() < 0.93
    assert 1.07 < scales.max() < 1.13


def test_the_elastic_distortion_moves_pixels_as_far_as_in_2019():
    """Uniform noise of standard deviation 1/sqrt(3), smoothed with sigma 6, times 120: 3.26 pixels.

    Smoothing divides the standard deviation by 2 sigma sqrt(pi).
    """
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    views = watch("winner", ramp, ramp * 0, range(500))
    elastic = [view for view in views if view.ran == {"ElasticTransform"}]
    assert len(elastic) > 4
    moved = np.stack([view.image.astype(int) - ramp for view in elastic])[:, 30:-30, 30:-30]
    assert moved.std() == pytest.approx(120 / 3**0.5 / (2 * 6 * np.pi**0.5), rel=0.1)


def test_sets_are_built_by_name_and_original_is_the_default():
    assert AUGMENTATIONS == ("original", "final", "winner", "none")
    assert build_augmentation("none") is None
    image, mask = picture(40, 40), corner(40)
    outputs = {}
    for name in SETS:
        augmentation = build_augmentation(name)
        assert augmentation is not None
        outputs[name] = augmentation(image, mask, 4)[0].tobytes()
    assert len(set(outputs.values())) == 3
    assert Augmentation()(image, mask, 4)[0].tobytes() == outputs["original"]


def test_an_unknown_name_is_refused_with_the_known_names():
    with pytest.raises(InputError, match="'winer'; choose original, final, winner, none"):
        build_augmentation("winer")


def test_soft_masks_are_interpolated_and_others_keep_their_two_values():
    """With the same geometry: the soft mask, cut at half, is the hard one but for its edge."""
    image, mask = picture(SIDE, SIDE, 0), np.zeros((SIDE, SIDE), np.uint8)
    mask[20:44, 16:40] = 1
    between = 0
    augment, augment_soft = Augmentation("winner"), Augmentation("winner", soft=True)
    for seed in range(20):
        _, hard = augment(image, mask, seed)
        _, soft = augment_soft(image, mask * 255, seed)
        assert set(np.unique(hard)) <= {0, 1}
        between += int(((soft > 0) & (soft < 255)).sum())
        assert ((soft > 127) != hard).mean() < 0.02
    assert between > 100
