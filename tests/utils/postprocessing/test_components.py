"""Components, against those of a flood fill."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.makers import predicted, slow_components
from utils.postprocessing.components import (
    COMPONENT_LEVELS,
    MAX_COMPONENTS,
    check_components,
    drop_components,
    find_components,
)
from utils.postprocessing.grid import SEARCH_LEVELS
from utils.postprocessing.histograms import level_of, threshold_of


def generate(seed):
    """Generate levels, half of the pixels low, and a mask."""
    rng = np.random.default_rng(seed)
    levels, mask = predicted(seed, 4, (7, 9))[seed % 4]
    return np.where(rng.random(levels.shape) < 0.5, levels, 2).astype(np.uint8), mask


@given(st.integers(0, 10_000))
def test_every_component_is_measured_at_every_level(seed):
    levels, mask = generate(seed)
    expected = [
        (
            level,
            len(component),
            sum(int(levels[pixel]) for pixel in component),
            sum(int(mask[pixel]) for pixel in component),
        )
        for level in COMPONENT_LEVELS
        for component in slow_components(levels > level)
    ]
    found = find_components(levels, mask)
    assert found is not None
    assert found.dtype == np.int64
    assert found.shape == (len(expected), 4)
    assert sorted(map(tuple, found.tolist())) == sorted(expected)


def test_a_map_below_every_level_has_none():
    levels = np.full((4, 4), COMPONENT_LEVELS[0], np.uint8)
    found = find_components(levels, levels * 0)
    assert found is not None
    assert found.shape == (0, 4)


def test_too_many_components_are_not_measured():
    def dots(count):
        levels = np.zeros((2 * count, 1), np.uint8)
        levels[::2] = COMPONENT_LEVELS[0] + 1
        return find_components(levels, np.zeros_like(levels))

    assert len(dots(MAX_COMPONENTS)) == MAX_COMPONENTS
    assert dots(MAX_COMPONENTS + 1) is None


def test_components_are_connected_through_corners():
    mask = np.eye(3, dtype=np.uint8)
    mask[0, 2] = 0
    assert np.array_equal(drop_components(mask, mask * 200, 3, 0.0), mask)
    assert not drop_components(mask, mask * 200, 4, 0.0).any()


def test_component_levels_are_ascending_search_levels():
    assert list(COMPONENT_LEVELS) == sorted(set(COMPONENT_LEVELS) & set(SEARCH_LEVELS))
    assert [level_of(threshold_of(level)) for level in COMPONENT_LEVELS] == list(COMPONENT_LEVELS)


LEVEL = COMPONENT_LEVELS[3]


def table_and_histograms():
    """Return a component table of two images at one level, and the areas that it adds up to."""
    rows = [(0, LEVEL, 3, 600, 1), (0, LEVEL, 2, 500, 2), (1, LEVEL, 4, 400, 0)]
    areas, inside = np.zeros((2, 2, 256), np.int64)
    areas[:, LEVEL], inside[:, LEVEL] = (5, 4), (3, 0)
    return np.array(rows), areas, inside


def test_a_consistent_table_passes():
    check_components(*table_and_histograms())


@pytest.mark.parametrize(
    ("row", "column", "value"),
    [
        (0, 0, 2),
        (0, 0, -1),
        (0, 0, 1),
        (0, 1, LEVEL + 1),
        (0, 1, COMPONENT_LEVELS[4]),
        (0, 2, 2),
        (0, 2, -3),
        (0, 2, 2**62),
        (0, 3, 3 * LEVEL),
        (0, 3, 3 * 255 + 1),
        (0, 4, 0),
        (0, 4, 4),
        (2, 4, -1),
    ],
)
@pytest.mark.filterwarnings("error")
def test_an_inconsistent_table_is_refused(row, column, value):
    table, areas, inside = table_and_histograms()
    table[row, column] = value
    with pytest.raises(ValueError, match="component"):
        check_components(table, areas, inside)


@pytest.mark.parametrize(
    "change", [lambda t: t[1:], lambda t: t[:, :4], lambda t: t[0], lambda t: t.astype(float)]
)
def test_a_table_of_wrong_shape_or_dtype_is_refused(change):
    table, areas, inside = table_and_histograms()
    with pytest.raises(ValueError, match="component"):
        check_components(change(table), areas, inside)
