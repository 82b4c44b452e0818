"""The numbers behind the sliders give the scores of every rule, exactly."""

import base64
import gzip
from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.makers import blobs
from tests.helpers.reported import FULL_RULE
from utils.postprocessing.histograms import threshold_of
from utils.postprocessing.rule import NO_MASKS, PostProcess, score
from utils.report.explorer import pack_rules

PLAIN = PostProcess(threshold_of(91), 300, threshold_of(147))


def unpack(rules):
    """Return what script.js does: truth, area, inside, areas passed and presences passed."""
    data, n = gzip.decompress(base64.b64decode(rules["data"])), rules["images"]
    t, g = len(rules["thresholds"]), len(rules["top_thresholds"])
    counts = np.frombuffer(data, "<u4", n * (1 + 2 * t)).reshape(-1, n).astype(int)
    passes = np.frombuffer(data, np.uint8, offset=4 * n * (1 + 2 * t)).reshape(-1, n)
    assert len(passes) == g + 1
    return counts[0], counts[1 : t + 1], counts[t + 1 :], passes[:g], passes[g]


def slow_score(rules, threshold, area, top, presence):
    """Add up Dice, Dice on positives, empties kept and masks, image by image."""
    truth, areas, inside, passed, present = unpack(rules)
    dice, positive, kept, masks = [], [], [], 0
    for i, true in enumerate(truth):
        shown = passed[top][i] > area and present[i] > presence
        mask, both = (areas[threshold][i], inside[threshold][i]) if shown else (0, 0)
        dice.append(2 * both / (mask + true) if mask + true else 1.0)
        masks += mask > 0
        if true:
            positive.append(dice[-1])
        else:
            kept.append(mask == 0)
    return np.mean(dice), np.mean(positive), np.mean(kept), masks


@pytest.mark.parametrize("chosen", [PLAIN, FULL_RULE, NO_MASKS])
@pytest.mark.parametrize("gate", [True, False])
def test_every_rule_of_the_sliders_has_the_scores_of_the_code(chosen, gate):
    histograms = blobs(3, gate, presence=True, components=True, images=9)
    rules, rng = pack_rules(histograms, chosen), np.random.default_rng(0)
    names = ("thresholds", "min_areas", "top_thresholds", "presence_thresholds")
    tried = [[*rng.integers([len(rules[name]) for name in names])] for _ in range(25)]
    at = rules["chosen"]
    tried.append([at[n] for n in ("threshold", "min_area", "top_threshold", "presence")])
    for place in tried:
        values = [rules[name][i] for name, i in zip(names, place, strict=True)]
        keys = ("threshold", "min_area", "top_threshold", "presence_threshold")
        rule = replace(chosen, **dict(zip(keys, values, strict=True)))
        expected = score(histograms, rule)
        found = slow_score(rules, *place)
        assert found[:3] == pytest.approx(
            (expected.dice, expected.dice_positive, expected.empty_kept), abs=1e-12
        )
        assert found[3] == expected.predicted
    assert rule == chosen


def test_without_a_presence_head_there_is_one_presence_threshold():
    rules = pack_rules(blobs(0, False, False, True), PLAIN)
    assert rules["presence_thresholds"] == [0.0]
    assert (unpack(rules)[4] == 1).all()


def test_a_thousand_images_take_a_megabyte():
    histograms = blobs(0, False, True, False, images=10)
    rng = np.random.default_rng(0)
    # Nothing compresses worse than noise.
    noise = rng.integers(0, 4000, (250, 256), dtype=np.int32)
    many = replace(
        histograms,
        ids=np.arange(250).astype(str),
        height=np.full(250, 1024, np.int32),
        width=np.full(250, 1024, np.int32),
        all=noise,
        mask=noise // 3,
        presence=rng.random(250).astype(np.float32),
    )
    assert len(pack_rules(many, PLAIN)["data"]) < 1_000_000 / 4
