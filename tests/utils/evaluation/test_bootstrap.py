"""Bootstrap intervals, against resampling image by image."""

import numpy as np
import pytest

from utils.evaluation.bootstrap import DRAWS, bootstrap_interval, bootstrap_ratio, index_groups


def scores(seed=0, images=60):
    """Generate Dice of images: many near 1, some 0, the rest in between."""
    rng = np.random.default_rng(seed)
    return rng.choice([0.0, 1.0, 0.5], images, p=[0.2, 0.6, 0.2]) * rng.uniform(0.8, 1, images)


def clustered(patients=20, each=10, seed=0):
    """Generate values that are equal within a patient."""
    values = np.random.default_rng(seed).random(patients).repeat(each)
    return values, [f"patient {i // each}" for i in range(patients * each)]


def slow_interval(values, groups, counts):
    """Compute the interval from lists of images; `counts` is how often each group is drawn."""
    names = sorted(set(groups))
    means = []
    for draw in counts:
        images = []
        for name, times in zip(names, draw, strict=True):
            members = [v for v, group in zip(values, groups, strict=True) if group == name]
            images += members * int(times)
        means.append(sum(images) / len(images))
    means.sort()
    return [np.interp(q * (len(means) - 1), range(len(means)), means) for q in (0.025, 0.975)]


@pytest.mark.parametrize("sizes", [[1] * 12, [1, 2, 3, 7], [5, 1, 1, 1, 1, 1, 20]])
def test_the_interval_equals_that_of_lists_of_resampled_images(sizes):
    groups = [f"p{i}" for i, size in enumerate(sizes) for _ in range(size)]
    values = scores(images=len(groups))
    share = np.full(len(sizes), 1 / len(sizes))
    counts = np.random.default_rng(7).multinomial(len(sizes), share, size=DRAWS)
    expected = slow_interval(values.tolist(), groups, counts)
    np.testing.assert_allclose(bootstrap_interval(values, groups, seed=7), expected, atol=1e-12)


def test_sampling_with_replacement_has_the_same_interval():
    """With a generator that draws images instead of counts."""
    values = scores()
    rng = np.random.default_rng(1)
    means = [rng.choice(values, len(values)).mean() for _ in range(DRAWS)]
    np.testing.assert_allclose(
        bootstrap_interval(values), np.percentile(means, (2.5, 97.5)), atol=0.015
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_contains_the_mean(seed):
    values = scores(seed)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high


def test_normal_values_have_the_theoretical_interval():
    values = np.random.default_rng(0).normal(size=900)
    low, high = bootstrap_interval(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 30, rel=0.06)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.01)


def test_patients_with_one_image_each_are_like_images():
    values = scores()
    ordered = [f"image {i}" for i in range(len(values))]
    assert bootstrap_interval(values, ordered) == bootstrap_interval(values)
    others = [f"{i:05d}" for i in range(len(values))]
    np.testing.assert_allclose(
        bootstrap_interval(values, others), bootstrap_interval(values), atol=0.015
    )


def test_an_image_of_an_unknown_patient_is_its_own_group():
    values = scores()
    assert bootstrap_interval(values, [""] * len(values)) == bootstrap_interval(values)
    one_patient = bootstrap_interval(values, ["same"] * len(values))
    assert one_patient == pytest.approx((values.mean(), values.mean()))


def test_no_name_of_a_patient_is_taken_by_an_image_of_an_unknown_one():
    for name in ("image 0", "image 1", "0", "image"):
        count, group_of = index_groups(["", "", name, name])
        assert count == 3
        assert len(set(group_of.tolist())) == 3
        assert group_of[2] == group_of[3]


def test_correlated_images_of_patients_widen_the_interval():
    values, patients = clustered()
    (low, high), (image_low, image_high) = (
        bootstrap_interval(values, patients),
        bootstrap_interval(values),
    )
    assert (high - low) / (image_high - image_low) == pytest.approx(np.sqrt(10), rel=0.15)


def test_the_same_seed_gives_the_same_interval():
    assert bootstrap_interval(scores()) == bootstrap_interval(scores())
    assert bootstrap_interval(scores(), seed=1) != bootstrap_interval(scores(), seed=2)


def test_equal_values_have_no_spread():
    assert bootstrap_interval(np.ones(9)) == (1.0, 1.0)


def test_no_images_have_no_interval():
    assert np.isnan(bootstrap_interval(np.array([]))).all()
    assert np.isnan(bootstrap_interval(np.array([]), [])).all()


def test_a_ratio_is_that_of_the_sums_of_each_draw():
    rng = np.random.default_rng(3)
    wholes, groups = rng.integers(0, 9, 12).astype(float), [f"p{i // 3}" for i in range(12)]
    parts = wholes * rng.random(12)
    counts = (
        np.random.default_rng(7).multinomial(4, np.full(4, 1 / 4), size=DRAWS).repeat(3, axis=1)
    )
    expected = np.percentile((counts @ parts) / (counts @ wholes), (2.5, 97.5))
    np.testing.assert_allclose(bootstrap_ratio(parts, wholes, groups, seed=7), expected)


def test_draws_without_anything_to_divide_by_do_not_count():
    assert bootstrap_ratio(np.array([2.0, 0, 0]), np.array([4.0, 0, 0])) == (0.5, 0.5)
    assert np.isnan(bootstrap_ratio(np.zeros(3), np.zeros(3))).all()
