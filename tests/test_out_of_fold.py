"""Rows of images, put together in any order, travelling between processes."""

import pickle

import numpy as np
import pytest

from tests.makers import histograms_of, make_rows
from utils.inference.out_of_fold import collect, describe_image
from utils.postprocessing.components import MOST


def test_rows_together_are_the_histograms_of_the_maps():
    images, rows = make_rows(3, gate=True, presence=True)
    ids = [row.id for row in rows]
    sent = pickle.loads(pickle.dumps(rows[::-1]))
    histograms = collect(ids[1:] + ids[:1], sent)
    images = images[1:] + images[:1]
    plain = histograms_of([(levels, mask) for levels, mask, _, _ in images])
    gates = histograms_of([(deciding, mask) for _, mask, deciding, _ in images])
    assert histograms.ids.tolist() == ids[1:] + ids[:1]
    for name in ("height", "width", "all", "mask"):
        assert np.array_equal(getattr(histograms, name), getattr(plain, name))
        assert getattr(histograms, name).dtype == np.int32
    assert np.array_equal(histograms.gate, gates.all)
    assert histograms.gate.dtype == np.int32
    assert histograms.presence.tolist() == [presence for *_, presence in images]
    assert histograms.presence.dtype == np.float32


def test_components_know_their_image():
    _, rows = make_rows(4, gate=False, presence=False)
    histograms = collect([row.id for row in rows[::-1]], rows)
    image = histograms.components[:, 0]
    for place, row in enumerate(rows[::-1]):
        assert np.array_equal(histograms.components[image == place, 1:], row.components)
    assert histograms.gate is None
    assert histograms.presence is None


def test_maps_may_be_views_of_any_order():
    (levels, mask, deciding, _), *_ = make_rows(4, gate=True, presence=False)[0][3:]
    expected = describe_image("a", *(part.copy() for part in (levels[::-1].T, mask[::-1].T)))
    found = describe_image("a", levels[::-1].T, mask[::-1].T, deciding[:, ::-1].T)
    assert np.array_equal(found.all, expected.all)
    assert np.array_equal(found.mask, expected.mask)
    rows = (sorted(map(tuple, row.components.tolist())) for row in (found, expected))
    assert next(rows) == next(rows)


def test_one_image_of_noise_leaves_all_without_components():
    levels = np.zeros((2 * MOST + 2, 1), np.uint8)
    levels[::2] = 99
    noise = describe_image("noise", levels, levels // 99)
    _, rows = make_rows(0, gate=False, presence=False)
    assert collect(["image0"], rows[:1]).components is not None
    assert collect(["noise", "image0"], [rows[0], noise]).components is None


def test_rows_that_do_not_belong_together_are_refused():
    _, with_gate = make_rows(0, gate=True, presence=False)
    _, with_presence = make_rows(0, gate=False, presence=True)
    _, plain = make_rows(0, gate=False, presence=False)
    ids = [row.id for row in plain]
    for other, name in ((with_gate, "gate"), (with_presence, "presence")):
        with pytest.raises(ValueError, match=name):
            collect(ids[:2], [plain[0], other[1]])
    with pytest.raises(KeyError, match="image1"):
        collect(ids[:2], plain[:1])
    with pytest.raises(ValueError, match="image2"):
        collect(ids[:2], plain[:3])
