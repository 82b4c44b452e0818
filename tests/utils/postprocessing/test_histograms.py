"""Dice from histograms, against masks compared pixel by pixel."""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.helpers.makers import histograms_of, make_rows, measured, predicted, slow_dice
from utils.errors import InputError
from utils.inference.out_of_fold import collect_histograms, measure_prediction
from utils.postprocessing.histograms import align_folds, concatenate, level_of, load_histograms
from utils.postprocessing.maps.tensors import count_levels, resize_probability, to_levels

LEVEL_MAPS = arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2, 127, 128, 254, 255]))
MASKS = arrays(np.uint8, (4, 5), elements=st.integers(0, 1))


@given(LEVEL_MAPS, MASKS)
def test_area_and_dice_at_every_level_equal_those_of_the_thresholded_mask(levels, mask):
    histograms = histograms_of([(levels, mask)])
    areas, dice = histograms.areas()[0], histograms.dice()[0]
    for level in range(256):
        cut = levels > level
        assert areas[level] == cut.sum()
        assert abs(dice[level] - slow_dice(cut, mask)) < 1e-15


@given(LEVEL_MAPS, MASKS)
def test_counts_equal_those_of_a_loop_over_pixels(levels, mask):
    counts = np.zeros((2, 256), np.int32)
    for level, inside in zip(levels.ravel(), mask.ravel(), strict=True):
        counts[0, level] += 1
        counts[1, level] += inside
    counted = count_levels(torch.from_numpy(levels), torch.from_numpy(mask))
    assert counted.dtype == torch.int32
    assert np.array_equal(counted.numpy(), counts)


def test_dice_is_one_where_both_are_empty_and_zero_where_one_is():
    empty, full = np.zeros((3, 3), np.uint8), np.ones((3, 3), np.uint8)
    dice = histograms_of([(empty, empty), (empty, full), (full * 255, empty)]).dice()
    assert (dice[0] == 1).all()
    assert (dice[1] == 0).all()
    assert (dice[2, :255] == 0).all()
    assert dice[2, 255] == 1  # nothing is above level 255


def test_a_large_image_is_counted_exactly():
    levels = torch.full((3000, 3000), 200, dtype=torch.uint8)
    counts = count_levels(levels, torch.ones_like(levels))
    assert counts[:, 200].tolist() == [9_000_000, 9_000_000]
    assert counts.sum() == 18_000_000


def test_levels_are_equally_wide_and_the_last_is_only_certainty():
    steps = (torch.arange(255) + 0.5) / 255
    assert to_levels(steps).tolist() == list(range(255))
    edges = to_levels(torch.tensor([0.0, 0.999, 1.0]))
    assert edges.dtype == torch.uint8
    assert edges.tolist() == [0, 254, 255]
    assert to_levels(torch.tensor(1.0, dtype=torch.bfloat16)).item() == 255


def test_the_level_of_a_levels_threshold_is_that_level():
    assert [level_of(level / 255) for level in range(256)] == list(range(256))


def test_a_pixel_at_a_threshold_is_not_above_it():
    histograms = histograms_of([(np.array([[127, 128, 129]], np.uint8), np.ones((1, 3), np.uint8))])
    assert histograms.areas()[0, level_of(128 / 255)] == 1


@pytest.mark.parametrize("size", [(32, 32), (50, 41), (16, 20), (97, 64)])
def test_a_map_is_resized_like_in_opencv(size):
    small = np.random.default_rng(0).random((32, 32), np.float32)
    resized = resize_probability(torch.from_numpy(small), *size)
    expected = cv2.resize(small, size[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(resized, expected, atol=1e-5)


def test_positive_images_are_those_whose_mask_has_a_pixel():
    pairs = predicted(seed=1)
    assert histograms_of(pairs).positive.tolist() == [bool(mask.any()) for _, mask in pairs]


def test_saved_histograms_are_loaded_and_concatenated_in_order(tmp_path):
    parts = [histograms_of(predicted(seed, count)) for seed, count in ((0, 3), (1, 5))]
    for i, part in enumerate(parts):
        part.save(tmp_path / f"{i}.npz")
    joined = concatenate([load_histograms(tmp_path / f"{i}.npz") for i in range(2)])
    for name in ("ids", "height", "width", "all", "mask"):
        values = getattr(joined, name)
        both = [getattr(part, name) for part in parts]
        assert np.array_equal(values, np.concatenate(both))
        assert values.dtype == both[0].dtype or name == "ids"


def test_optional_arrays_are_saved_only_if_they_exist(tmp_path):
    full = measured(0, gate=True, presence=True)
    full.save(tmp_path / "full.npz")
    loaded = vars(load_histograms(tmp_path / "full.npz"))
    for name, values in vars(full).items():
        assert np.array_equal(loaded[name], values)
        assert loaded[name].dtype == values.dtype
    histograms_of(predicted(0)).save(tmp_path / "plain.npz")
    with np.load(tmp_path / "plain.npz") as arrays:
        stored = {"ids", "height", "width", "all", "mask"}
        assert set(arrays.files) == stored | {"arrays"}
        assert set(arrays["arrays"].tolist()) == stored
    plain = load_histograms(tmp_path / "plain.npz")
    assert (plain.gate, plain.presence, plain.components) == (None, None, None)


def test_a_file_of_an_older_version_without_a_list_is_loaded(tmp_path):
    full = measured(0, gate=True, presence=True)
    stored: dict[str, Any] = full.arrays()
    np.savez_compressed(tmp_path / "old.npz", **stored)
    assert_equal(load_histograms(tmp_path / "old.npz"), full)


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(tmp_path):
    """A bit of every third byte, and of every byte of the zip's directory, which names arrays."""
    full = measured(0, gate=True, presence=True)
    intact, damaged = tmp_path / "intact.npz", tmp_path / "damaged.npz"
    full.save(intact)
    data, bits = bytearray(intact.read_bytes()), np.random.default_rng(0)
    directory, refused = data.index(b"PK\1\2"), 0
    positions = [*range(0, directory, 3), *range(directory, len(data))]
    for position in positions:
        bit = 1 << int(bits.integers(8))
        data[position] ^= bit
        damaged.write_bytes(data)
        data[position] ^= bit
        try:
            loaded = load_histograms(damaged)
        except InputError:
            refused += 1
        else:
            assert_equal(loaded, full, f"byte {position}, bit {bit}")
    assert refused > len(positions) / 2


def test_an_array_whose_header_asks_for_too_few_bytes_is_refused(tmp_path):
    """Counts of four bytes read as counts of two: the rest of the array still counts."""
    path = tmp_path / "short.npz"
    stored: dict[str, Any] = histograms_of(predicted(0)).arrays()
    np.savez(path, **stored)
    parts = path.read_bytes().partition(b"'<i4', 'fortran_order': False, 'shape': (8, 256)")
    path.write_bytes(parts[0] + parts[1].replace(b"i4", b"i2") + parts[2])
    with pytest.raises(InputError, match=r"short\.npz cannot be read .+ CRC"):
        load_histograms(path)


def assert_equal(loaded, expected, place=""):
    """Compare every array, and which are None, with their dtypes."""
    for name, values in vars(expected).items():
        ours = vars(loaded)[name]
        assert (ours is None) == (values is None), f"{name} {place}"
        assert np.array_equal(ours, values), f"{name} {place}"
        assert values is None or ours.dtype == values.dtype, f"{name} {place}"


def test_an_array_that_the_list_lacks_or_the_file_lacks_is_refused(tmp_path):
    arrays = measured(0, gate=True, presence=True).arrays()
    for removed, listed in (("gate", list(arrays)), (None, [n for n in arrays if n != "gate"])):
        kept: dict[str, Any] = {n: array for n, array in arrays.items() if n != removed}
        np.savez(tmp_path / "other.npz", **(kept | {"arrays": np.array(listed)}))
        with pytest.raises(InputError, match=r"other\.npz cannot be read .+ was written with"):
            load_histograms(tmp_path / "other.npz")


def test_concatenated_components_stay_with_their_images():
    parts = [measured(seed, gate=True, presence=True) for seed in (0, 7, 8)]
    joined, first = concatenate(parts), 0
    assert joined.components is not None
    for part in parts:
        count = len(part.ids)
        image = joined.components[:, 0]
        mine = joined.components[(first <= image) & (image < first + count)]
        assert part.components is not None
        assert np.array_equal(mine - np.array([first, 0, 0, 0, 0]), part.components)
        for name in ("gate", "presence", "maximum"):
            assert np.array_equal(vars(joined)[name][first : first + count], vars(part)[name])
        first += count
    assert first == len(joined.ids)


def test_folds_are_concatenated_with_the_arrays_that_all_have():
    plain, rich = histograms_of(predicted(0)), measured(1, gate=True, presence=True)
    joined = concatenate([plain, rich])
    assert joined.presence is None
    assert joined.components is None
    assert joined.gate is not None
    assert rich.gate is not None
    assert np.array_equal(joined.gate, np.concatenate((plain.all, rich.gate)))
    assert rich.components is not None
    assert [part.gate is None for part in align_folds([plain, plain])] == [True, True]


def test_the_gate_map_has_its_own_areas():
    images, rows = make_rows(3, gate=True, presence=False)
    histograms = collect_histograms([row.id for row in rows], rows)
    for i, (levels, _, gate, *_) in enumerate(images):
        for level in range(256):
            assert histograms.gate_areas()[i, level] == (gate > level).sum()
            assert histograms.areas()[i, level] == (levels > level).sum()
    plain = histograms_of(predicted(0))
    assert np.array_equal(plain.gate_areas(), plain.areas())


def test_the_image_score_is_the_presence_or_the_maximum_of_the_gate_map():
    for gate in (False, True):
        images, _ = make_rows(3, gate, presence=True)
        histograms = measured(3, gate, presence=True)
        assert histograms.image_scores().tolist() == [presence for *_, presence, _ in images]
        headless = replace(histograms, presence=None)
        assert headless.image_scores().tolist() == [maximum for *_, maximum in images]
        expected = [(levels if d is None else d).max() / 255 for levels, _, d, *_ in images]
        older = replace(headless, maximum=None)
        np.testing.assert_allclose(older.image_scores(), expected, atol=1e-15)


def test_images_whose_maxima_have_one_level_do_not_tie():
    rows = [
        measure_prediction(name, np.full((2, 2), 3, np.uint8), np.zeros((2, 2), np.uint8), *parts)
        for name, parts in (("a", (None, None, 0.0155)), ("b", (None, None, 0.0120)))
    ]
    scores = collect_histograms(["a", "b"], rows).image_scores()
    assert scores.tolist() == np.array([0.0155, 0.0120], np.float32).tolist()


def test_one_fold_without_maxima_gives_all_folds_scores_of_levels():
    """Else an image of that fold would rank below those of the same level in the others."""
    new = measured(0)
    old = replace(measured(1), maximum=None)
    joined = concatenate([new, old])
    assert joined.maximum is None
    assert concatenate([new, new]).maximum is not None


def test_arrays_of_wrong_shape_or_dtype_are_refused(tmp_path):
    full = measured(0, gate=True, presence=True)
    assert full.gate is not None
    assert full.presence is not None
    assert full.maximum is not None
    assert full.components is not None
    moved = full.components.copy()
    moved[0, 2] += 1
    for name, part in (
        ("gate", full.gate[:, :255]),
        ("gate", full.gate.astype(float)),
        ("presence", full.presence[1:]),
        ("presence", full.presence.astype(int)),
        ("presence", full.presence * np.nan),
        ("presence", full.presence + 0.5),
        ("maximum", full.maximum[1:]),
        ("maximum", full.maximum + 1),
        ("components", full.components[1:]),
        ("components", moved),
    ):
        replace(full, **{name: part}).save(tmp_path / "other.npz")
        with pytest.raises(InputError, match=rf"other\.npz cannot be read .+ {name[:-1]}"):
            load_histograms(tmp_path / "other.npz")


def test_an_unusable_file_is_named(tmp_path):
    intact = tmp_path / "intact.npz"
    histograms_of(predicted(0)).save(intact)
    data = intact.read_bytes()
    for name, content in (
        ("short", data[: len(data) // 2]),
        ("altered", data[:200] + bytes(99) + data[299:]),
        ("text", b"no arrays"),
        ("empty", b""),
    ):
        (tmp_path / f"{name}.npz").write_bytes(content)
    np.savez(tmp_path / "lacking.npz", ids=np.array(["a"]))
    np.savez(tmp_path / "objects.npz", ids=np.array([{}], dtype=object))
    for name in ("short", "altered", "text", "empty", "lacking", "objects", "missing"):
        with pytest.raises(InputError, match=rf"{name}\.npz cannot be read"):
            load_histograms(tmp_path / f"{name}.npz")
