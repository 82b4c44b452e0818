"""Image-level scores, against sklearn and plain loops."""

import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from utils.errors import InputError
from utils.evaluation.image_level import auc, auc_difference, read_scores, score_image_level


def simulate(seed, images=80):
    """Generate probabilities with many ties, higher for positives, and two images per patient."""
    rng = np.random.default_rng(seed)
    positive = rng.random(images) < 0.3
    probability = np.round(np.clip(rng.normal(0.4 + 0.2 * positive, 0.2), 0, 1), 1)
    return probability, positive, np.array([f"p{i // 2}" for i in range(images)])


def test_the_difference_of_two_aucs_is_paired():
    rng = np.random.default_rng(4)
    positive, patients = rng.random(40) < 0.4, [f"p{i // 2}" for i in range(40)]
    first = rng.random(40) + 0.5 * positive
    second = first + rng.random(40)
    difference = auc_difference(first, second, positive, patients)
    once = np.ones(40)
    assert difference.mean == auc(first, positive, once) - auc(second, positive, once)
    # Patients are drawn in the order of their names: p0, p1, p10 ...
    place = np.unique(patients, return_inverse=True)[1]
    draws, expected = np.random.default_rng(0), []
    for _ in range(2000):
        weights = draws.multinomial(20, np.full(20, 1 / 20))[place]
        expected.append(auc(first, positive, weights) - auc(second, positive, weights))
    low, high = np.nanpercentile(expected, (2.5, 97.5))
    assert difference.low == pytest.approx(low)
    assert difference.high == pytest.approx(high)
    alone = auc_difference(first, first, positive, patients)
    assert (alone.mean, alone.low, alone.high) == (0, 0, 0)
    assert np.isnan(auc_difference(first, second, np.zeros(40, bool), patients).mean)


@pytest.mark.parametrize("seed", range(4))
def test_auc_equals_that_of_sklearn(seed):
    probability, positive, _ = simulate(seed)
    weights = np.random.default_rng(seed).integers(0, 4, len(positive))
    ones = np.ones(len(positive))
    assert auc(probability, positive, ones) == pytest.approx(roc_auc_score(positive, probability))
    weighted = roc_auc_score(positive, probability, sample_weight=weights)
    assert auc(probability, positive, weights) == pytest.approx(weighted)


def test_auc_of_a_perfect_a_reversed_and_a_constant_ranking():
    positive, ones = np.array([True, False, True, False]), np.ones(4)
    assert auc(np.array([0.9, 0.1, 0.8, 0.2]), positive, ones) == 1
    assert auc(np.array([0.1, 0.9, 0.2, 0.8]), positive, ones) == 0
    assert auc(np.full(4, 0.3), positive, ones) == 0.5


def test_the_auc_interval_equals_that_of_resampled_images():
    probability, positive, _ = simulate(0)
    rng, values = np.random.default_rng(5), []
    for _ in range(1000):
        chosen = rng.integers(0, len(positive), len(positive))
        values.append(roc_auc_score(positive[chosen], probability[chosen]))
    found = score_image_level(probability, positive, np.arange(80).astype(str)).auc
    assert found.low < found.mean < found.high
    expected = np.percentile(values, (2.5, 97.5))
    np.testing.assert_allclose((found.low, found.high), expected, atol=0.02)


def test_the_auc_interval_resamples_whole_patients():
    probability, positive, _ = (np.tile(part, 9) for part in simulate(0))
    patients = np.tile([f"p{i}" for i in range(80)], 9)
    images = np.arange(720).astype(str)
    by_patient, by_image = (
        score_image_level(probability, positive, g).auc for g in (patients, images)
    )
    assert by_patient.mean == by_image.mean
    assert (by_patient.high - by_patient.low) / (by_image.high - by_image.low) == pytest.approx(
        3, rel=0.15
    )
    assert score_image_level(probability, positive, patients).auc == by_patient


@pytest.mark.parametrize("seed", range(4))
def test_sensitivity_and_specificity_equal_those_of_a_loop(seed):
    probability, positive, groups = simulate(seed)
    pairs = list(zip(probability, positive, strict=True))
    found = score_image_level(probability, positive, groups)

    def rates(threshold):
        inside = [p >= threshold for p, true in pairs if true]
        outside = [p < threshold for p, true in pairs if not true]
        return sum(inside) / len(inside), sum(outside) / len(outside)

    best = max(sorted(set(probability), reverse=True), key=lambda t: round(sum(rates(t)), 12))
    assert found.half.threshold == 0.5
    assert found.best.threshold == best
    for cut in (found.half, found.best):
        assert (cut.sensitivity.mean, cut.specificity.mean) == rates(cut.threshold)
        assert (cut.sensitivity.images, cut.specificity.images) == (
            positive.sum(),
            (~positive).sum(),
        )


def test_of_equally_good_thresholds_the_highest_is_chosen():
    probability, positive = np.array([0.9, 0.5, 0.7, 0.1]), np.array([True, True, False, False])
    assert score_image_level(probability, positive, np.array(list("abcd"))).best.threshold == 0.9


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("positive", [True, False])
def test_images_of_one_class_have_no_auc(positive):
    found = score_image_level(np.array([0.2, 0.7]), np.array([positive] * 2), np.array(["a", "b"]))
    assert np.isnan([found.auc.mean, found.auc.low, found.auc.high]).all()
    known, unknown = found.half.specificity, found.half.sensitivity
    if positive:
        known, unknown = unknown, known
    assert known.mean == 0.5
    assert np.isnan(unknown.mean)


def read(tmp_path, text, ids=("a", "b")):
    path = tmp_path / "scores.csv"
    path.write_bytes(text.encode())
    return read_scores(path, list(ids))


def test_scores_come_in_the_order_of_the_submission(tmp_path):
    table = read(tmp_path, "area,ImageId,model,probability\n0,b,x,0.25\n7, a,x, 1\n")
    assert table["probability"].tolist() == [1, 0.25]
    assert table["area"].tolist() == [7, 0]
    assert read(tmp_path, "\ufeffImageId,probability,area\r\n007,1,0\r\n", ["007"]).size == 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "cannot be read as a csv of scores"),
        (
            "ImageId,probability\na,1\n",
            "looked for the columns ImageId, probability and area, found ['ImageId', 'prob",
        ),
        ("ImageId,probability,area\na,0.5,0\nb,high,0\n", "row 3: probability is 'high'"),
        ("ImageId,probability,area\na,0.5,0\nb,,0\n", "row 3: probability is ''"),
        ("ImageId,probability,area\na,0.5,0\nb,nan,0\n", "row 3: probability is 'nan'"),
        ("ImageId,probability,area\na,1.5,0\nb,0,0\n", "row 2: probability is '1.5'"),
        ("ImageId,probability,area\na,1,0\nb,0,-3\n", "row 3: area is '-3'"),
        ("ImageId,probability,area\na,1,0\nb,1,0\na,1,0\n", "row 4: a is repeated"),
        (
            "ImageId,probability,area\na,1,0\n",
            "1 images are in the submission only, the first is b",
        ),
        (
            "ImageId,probability,area\na,1,0\nb,1,0\nx,1,0\ny,1,0\n",
            "2 images are in the scores only, the first is x",
        ),
    ],
)
def test_unusable_scores_are_named(tmp_path, text, reason):
    with pytest.raises(InputError, match=r"scores\.csv.*" + re.escape(reason)):
        read(tmp_path, text)


def test_missing_scores_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv cannot be read as a csv of scores"):
        read_scores(tmp_path / "none.csv", ["a"])
