"""Cases: each image once, in the order that was promised, with outlines that fit its masks."""

import re

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.report.cases import KINDS, SIDE, Areas, choose_cases, draw_picture, trace_outline

IMAGE = st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from([0.0, 0.25, 0.5, 1.0]))


@given(st.lists(IMAGE, min_size=1, max_size=30), st.integers(1, 5))
def test_cases_are_of_their_kind_and_shown_once(images, count):
    truth, predicted, dice = (np.array(column) for column in zip(*images, strict=True))
    areas = Areas(np.array([f"{i:03d}" for i in range(len(images))]), dice, truth, predicted)
    chosen = choose_cases(areas, count)
    assert [*chosen] == [kind.name for kind in KINDS]
    shown = [i for several in chosen.values() for i in several]
    assert len(shown) == len(set(shown))
    kinds = [(bool(truth[i]), bool(predicted[i])) for i in range(len(images))]
    found, missed, false = (
        [i for i, kind in enumerate(kinds) if kind == wanted]
        for wanted in ((True, True), (True, False), (False, True))
    )
    missed.sort(key=lambda i: -truth[i])
    false.sort(key=lambda i: -predicted[i])
    assert chosen["Missed"] == missed[:count]
    assert chosen["False"] == false[:count]
    assert chosen["Worst"] == sorted(found, key=lambda i: dice[i])[:count]
    rest = [i for i in found if i not in chosen["Worst"]]
    assert chosen["Best"] == sorted(rest, key=lambda i: -dice[i])[:count]
    assert set(chosen["Median"]) <= set(found)


def fill(path, shape):
    """Draw what an SVG path encloses."""
    loops = [re.findall(r"([\d.]+),([\d.]+)", loop) for loop in path.split("M") if loop]
    corners = [(np.array(loop, float) - 0.5).round().astype(np.int32) for loop in loops]
    return cv2.fillPoly(np.zeros(shape, np.uint8), corners, 1)


@pytest.mark.parametrize("seed", range(3))
def test_outlines_enclose_the_mask(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((300, 260), np.uint8)
    for _ in range(3):
        cv2.circle(mask, (*map(int, rng.integers(40, 220, 2)),), int(rng.integers(3, 40)), 1, -1)
    filled = fill(trace_outline(mask), mask.shape)
    assert (filled != mask).mean() < 0.01


def test_a_mask_of_one_pixel_is_still_shown():
    mask = np.zeros((2048, 1024), np.uint8)
    assert trace_outline(mask) == ""
    mask[1000, 500] = 1
    picture = draw_picture(np.zeros_like(mask), mask, np.zeros_like(mask))
    assert (picture.width, picture.height) == (SIDE // 2, SIDE)
    assert picture.truth == "M125.5,250.5Z"
    assert picture.prediction == ""
