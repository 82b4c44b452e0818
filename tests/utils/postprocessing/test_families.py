"""The choice of a family of rules: against plain loops, and on data where the answer is known."""

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.makers import TOY, blobs, take
from utils.inference.out_of_fold import collect_histograms, measure_prediction
from utils.postprocessing.families import (
    PIECES,
    UNTESTED,
    choose_family,
    fit_rules,
    split_by_patient,
    standard_error,
)
from utils.postprocessing.grid import FAMILIES, Family, Grid, families_for
from utils.postprocessing.histograms import concatenate
from utils.postprocessing.rule import NO_MASKS
from utils.postprocessing.search import best_rule


def made(maps, presence=None, prefix="image"):
    """Measure (levels, mask) pairs."""
    rows = [
        measure_prediction(f"{prefix}{i:03}", levels, mask, None, presence and presence[i])
        for i, (levels, mask) in enumerate(maps)
    ]
    return collect_histograms([row.id for row in rows], rows)


def named(histograms, prefix):
    return replace(histograms, ids=np.array([f"{prefix}{name}" for name in histograms.ids]))


def slow_error(values, patients):
    """Calculate the standard error of a mean over patients from its definition."""
    mean = math.fsum(values) / len(values)
    sums: dict[object, float] = {}
    for i, (value, patient) in enumerate(zip(values, patients, strict=True)):
        key = patient or i
        sums[key] = sums.get(key, 0.0) + value - mean
    squares = math.fsum(total**2 for total in sums.values())
    return math.sqrt(len(sums) / (len(sums) - 1) * squares) / len(values)


def slow_choice(groups, patients):
    """Choose a family over groups of images, and its rule, with a search for every group.

    Args:
        groups: histograms that take the place of folds.
        patients: of each group, the patient of each image.
    """
    families = families_for(groups[0])
    dice: dict[Family, list[float]] = {family: [] for family in families}
    for family in families:
        for i, group in enumerate(groups):
            others = concatenate([other for k, other in enumerate(groups) if k != i])
            dice[family] += best_rule(others, TOY, family).dice(group).tolist()
    flat = [patient for own in patients for patient in own]
    means = {family: math.fsum(values) / len(values) for family, values in dice.items()}
    best = max(families, key=lambda family: (round(means[family], 12), -families.index(family)))
    for family in families:
        if round(means[family], 12) <= round(means[families[0]], 12) and best != families[0]:
            continue
        behind = [a - b for a, b in zip(dice[best], dice[family], strict=True)]
        if math.fsum(behind) / len(behind) <= slow_error(behind, flat) + 1e-9:
            return family, best_rule(concatenate(groups), TOY, family), means
    raise AssertionError("the best is within one standard error of itself")


def pieces_of(fold, patients):
    """Split a fold by the definition: patients without a mask by name, then the others, dealt."""
    with_mask = {p for p, positive in zip(patients, fold.positive, strict=True) if positive}
    order = sorted({p for p in patients if p not in with_mask}) + sorted(with_mask)
    pieces: list[list[int]] = [[] for _ in range(min(PIECES, len(order)))]
    for i, patient in enumerate(order):
        pieces[i % PIECES] += [k for k, name in enumerate(patients) if name == patient]
    return [take(fold, piece) for piece in pieces], [[patients[k] for k in p] for p in pieces]


def slow_choice_on(folds, patients):
    return (
        slow_choice(folds, patients)
        if len(folds) > 1
        else slow_choice(*pieces_of(folds[0], patients[0]))
    )


@pytest.mark.parametrize("parts", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize(("count", "seed"), [(1, 0), (2, 1), (3, 2), (4, 3)])
def test_the_procedure_equals_one_of_plain_loops(count, seed, parts):
    """The family is chosen anew without each fold, which the rule that scores it never saw."""
    presence, components = parts
    folds = [
        named(blobs(10 * seed + n, False, presence, components, 12 + n), f"fold{n}-")
        for n in range(count)
    ]
    patients = [[f"fold{n}-patient{i // 2}" for i in range(12 + n)] for n in range(count)]
    flat = [patient for own in patients for patient in own]
    fitted = fit_rules(dict(enumerate(folds)), flat, TOY)
    family, rule, means = slow_choice_on(folds, patients)
    assert (fitted.choice.family, fitted.rule) == (family.name, rule)
    scores = {name: score.dice for name, score in fitted.choice.scores.items()}
    assert scores == pytest.approx({family.name: mean for family, mean in means.items()})
    if count == 1:
        assert fitted.cross_fitted is None
    else:
        leaving_out = [[own[:n] + own[n + 1 :] for own in (folds, patients)] for n in range(count)]
        expected = {n: slow_choice_on(*others)[1] for n, others in enumerate(leaving_out)}
        assert fitted.cross_fitted == expected
    assert fitted.per_fold == {n: best_rule(fold, TOY) for n, fold in enumerate(folds)}


def test_the_procedure_is_tested_on_more_than_one_family():
    """Otherwise the comparison with plain loops could not fail."""
    chosen = set()
    for seed in range(8):
        folds = {n: blobs(10 * seed + n, False, True, True, images=12) for n in range(3)}
        chosen.add(fit_rules(folds, [""] * 36, TOY).choice.family)
    assert len(chosen) >= 4, chosen


def block(size=20, level=200):
    levels = np.full((size, size), level, np.uint8)
    return levels, levels // level


def test_parts_that_are_noise_stay_off():
    """Presence is random; the best rule on all images uses it, the procedure does not."""
    rng, (levels, mask) = np.random.default_rng(1), block()
    maps = [(levels, mask * (rng.random(mask.shape) < 0.7) * (i % 5 > 1)) for i in range(40)]
    histograms = made(maps, rng.random(40).tolist())
    assert best_rule(histograms).presence_threshold > 0
    for folds in ({0: histograms}, {n: take(histograms, range(n, 40, 2)) for n in range(2)}):
        fitted = fit_rules(folds, [""] * 40)
        assert fitted.choice.family == "pair"
        assert fitted.rule.top_threshold == fitted.rule.threshold
        assert fitted.rule.presence_threshold == 0


def test_presence_is_used_where_it_decides():
    """All maps are alike; only presence tells positives from empty images."""
    rng, (levels, mask) = np.random.default_rng(2), block()
    maps = [(levels, mask * (i % 2)) for i in range(40)]
    presence = [
        float(rng.uniform(0.55, 0.9) if i % 2 else rng.uniform(0.1, 0.5)) for i in range(40)
    ]
    fitted = fit_rules({0: made(maps, presence)}, [""] * 40)
    assert fitted.choice.family == "triplet+presence"
    assert fitted.rule.presence_threshold > 0


def speckled(seed, images=40):
    """Blobs of 8 to 100 pixels, on every third image, and up to 30 specks of 1 pixel on all."""
    rng, maps = np.random.default_rng(seed), []
    for i in range(images):
        levels, mask = np.zeros((2, 24, 24), np.uint8)
        side = rng.integers(8, 11)
        mask[:side, :side] = i % 3 == 0
        levels[12::2, ::2] = 240 * (rng.random((6, 12)) < rng.uniform(0.5, 1))
        levels[mask > 0] = 240
        maps.append((levels, mask))
    return made(maps)


def test_components_are_used_where_they_decide():
    """Specks on all images have as many pixels as the blobs, but are not connected."""
    histograms = speckled(3)
    fitted = fit_rules({0: histograms}, [""] * 40)
    assert fitted.choice.family == "triplet+components"
    assert fitted.rule.min_component_area == 64
    assert fitted.rule.dice(histograms).mean() == 1


def test_the_standard_error_is_of_the_difference_between_families():
    """A gain of 0.02 on every image is certain, though images differ far more than that."""
    rng = np.random.default_rng(4)
    hard = rng.uniform(0, 0.9, 50)
    dice = {"pair": hard, "triplet": hard + 0.02 + rng.uniform(-0.01, 0.01, 50)}
    choice = choose_family(dice, [""] * 50)
    assert choice.family == "triplet"
    gap = choice.scores["triplet"].dice - choice.scores["pair"].dice
    assert choice.scores["pair"].standard_error < gap < standard_error(hard, [""] * 50)
    # A gain as large on average, but from few images, is not.
    few = np.zeros(50)
    few[:3] = (1.2, 0.2, -0.4)
    assert choose_family({"pair": hard, "triplet": hard + few}, [""] * 50).family == "pair"


def choose(**dice):
    return choose_family({name: np.array(own) for name, own in dice.items()}, ["a", "b"])


def test_the_simplest_family_within_one_standard_error_is_chosen():
    """On (0, 1) the standard error of a mean of 0.5 is 0.5, so 0 is just within."""
    rest = {"triplet+presence": [0.4, 0.5], "triplet+components": [0.0, 1.0]}
    choice = choose(pair=[-0.2, 0.0], triplet=[0.0, 0.0], **rest)
    assert choice.family == "triplet"
    assert choice.scores["triplet"] == pytest.approx((0, 0.5))
    assert choice.scores["triplet+components"] == pytest.approx((0.5, 0))
    assert choose(pair=[-0.2, 0.0], triplet=[-0.1, 0.0], **rest).family == "triplet+presence"


def test_no_masks_are_predicted_only_if_no_family_is_better():
    """Else a network would be silenced wherever there are few images with a mask."""
    assert choose(empty=[0.0, 0.9], pair=[0.0, 1.0]).family == "pair"
    assert choose(empty=[0.0, 0.9], pair=[0.0, 0.9]).family == "empty"
    assert choose(empty=[0.0, 0.9], pair=[0.0, 0.8], triplet=[0.1, 0.7]).family == "empty"
    # The pair is near the triplet, but worse than no masks.
    near = {"pair": [0.0, 0.8], "triplet": [0.0, 1.0]}
    assert choose(**near).family == "pair"
    assert choose(empty=[0.0, 0.9], **near).family == "triplet"


@pytest.mark.parametrize("count", [2, 3, 7, 100, 1001])
def test_one_image_is_never_enough_for_another_part(count):
    """A difference in a single image is exactly one standard error, whatever is rounded."""
    for gain in (0.1, 1 / 3, 0.7):
        dice = np.linspace(0, 0.3, count)
        better = dice + gain * (np.arange(count) == count // 2)
        assert choose_family({"pair": dice, "triplet": better}, [""] * count).family == "pair"


def test_images_of_a_patient_count_as_one():
    """The gain is 0.1 on 8 images of one patient, and a loss on 8 patients with one image each."""
    gain = np.repeat([0.1, -0.04], 8)
    patients = ["same"] * 8 + [f"other{i}" for i in range(8)]
    dice = {"pair": np.zeros(16), "triplet": gain}
    assert choose_family(dice, patients).family == "pair"
    assert choose_family(dice, [""] * 16).family == "triplet"
    error = standard_error(gain, patients)
    assert error == pytest.approx(slow_error(gain.tolist(), patients))
    assert error > 2 * standard_error(gain, [""] * 16)


def shuffled(folds, patients, seed):
    """Shuffle the images within each fold, and their patients."""
    rng, result, names = np.random.default_rng(seed), {}, []
    for n, fold in folds.items():
        order = rng.permutation(len(fold.ids))
        result[n] = take(fold, order)
        names += [patients[n][i] for i in order]
    return result, names


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("grouped", [False, True])
def test_the_order_of_the_images_makes_no_difference(count, grouped):
    folds = {n: named(blobs(n, n == 1, True, True, images=14), f"fold{n}-") for n in range(count)}
    folds = {n: replace(fold, gate=None) for n, fold in folds.items()}
    patients = {n: [f"{n}p{i // 3}" * grouped for i in range(14)] for n in range(count)}
    flat = [patient for own in patients.values() for patient in own]
    fitted = fit_rules(folds, flat, TOY)
    for seed in range(3):
        other_folds, other_names = shuffled(folds, patients, seed)
        other = fit_rules(other_folds, other_names, TOY)
        assert other.rule == fitted.rule
        assert other.choice.family == fitted.choice.family
        assert (other.cross_fitted, other.per_fold) == (fitted.cross_fitted, fitted.per_fold)
        for name, score in fitted.choice.scores.items():
            assert other.choice.scores[name] == pytest.approx(score, abs=1e-9)


def test_a_fold_does_not_affect_the_rule_that_scores_it():
    for count in (2, 3):
        folds = {n: blobs(n, False, True, True, images=12) for n in range(count)}
        other = folds | {0: blobs(99, False, True, True, images=12)}
        names = [""] * (12 * count)
        before, after = (fit_rules(f, names, TOY).cross_fitted for f in (folds, other))
        assert before is not None
        assert after is not None
        assert before[0] == after[0]


def test_a_fold_is_split_by_patient_with_positives_in_every_piece():
    histograms = blobs(5, False, False, True, images=40)
    patients = [f"patient{i // 4 * 2 + i % 2}" for i in range(40)]
    pieces = split_by_patient(histograms, patients, PIECES)
    assert sorted(set(pieces)) == list(range(PIECES))
    assert {len(set(pieces[[p == name for p in patients]])) for name in patients} == {1}
    positives = [histograms.positive[pieces == piece].sum() for piece in range(PIECES)]
    assert positives == [4] * PIECES


def test_too_few_images_to_cross_fit():
    """A single patient is split into images; a single image is given a pair or no masks."""
    histograms = blobs(6, False, True, True, images=6)
    single = fit_rules({0: histograms}, ["one"] * 6, TOY)
    assert single == fit_rules({0: histograms}, [""] * 6, TOY)
    assert len(single.choice.scores) == 6
    image = fit_rules({0: take(histograms, [1])}, ["one"], TOY)
    assert (image.choice.family, image.choice.scores) == (UNTESTED, {})
    pair = next(family for family in families_for(histograms) if family.name == UNTESTED)
    assert image.rule == best_rule(take(histograms, [1]), TOY, pair)
    assert fit_rules({0: take(histograms, [0])}, [""], TOY).rule == NO_MASKS


def weak(seed, images, informed):
    """Maps that hardly know the masks; presence knows them well if `informed`, else not at all."""
    rng, maps = np.random.default_rng(seed), []
    for i in range(images):
        mask = np.zeros((10, 10), np.uint8)
        top, left = rng.integers(0, 5, 2)
        mask[top : top + 5, left : left + 5] = i % 4 == 0
        levels = rng.normal(110 + 20 * mask + rng.normal(0, 30), 25).clip(0, 255)
        maps.append((levels.astype(np.uint8), mask))
    presence = 0.7 * rng.random(images) + 0.3 * (informed * (np.arange(images) % 4 == 0))
    return made(maps, presence.tolist())


def test_on_small_sets_the_procedure_is_not_below_the_triplet():
    """Rules chosen on 48 images score 200 others. All parts lose where presence knows nothing."""
    levels, areas = tuple(range(15, 250, 24)), (0, 2, 4, 8, 16, 32, 64)
    grid = Grid(levels, areas, component_areas=(0, 4), component_means=(0.0, 0.5))
    means = {}
    for informed in (False, True):
        unseen, scores = weak(1000, 200, informed), []
        for seed in range(8):
            histograms = weak(seed, 48, informed)
            triplet = best_rule(histograms, grid, FAMILIES[2])
            procedure = fit_rules({0: histograms}, [""] * 48, grid).rule
            rules = (procedure, triplet, best_rule(histograms, grid))
            scores.append([rule.dice(unseen).mean() for rule in rules])
        means[informed] = np.mean(scores, axis=0)
    procedure, triplet, everything = means[False]
    assert everything < triplet
    assert procedure >= triplet
    procedure, triplet, _ = means[True]
    assert procedure > triplet + 0.01
