"""The choice of thresholds: exact, and honest."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import main
from utils.choice import choose_thresholds, cross_fit
from utils.errors import InputError
from utils.metric import Histograms, count_levels, join
from utils.summary import load_folds
from utils.threshold import LEAVE_EMPTY, PostProcess, best_triplet, load_rule, score

SIDE = 9


def make_images(count, seed, sharp=0.5):
    """Draw maps of levels and true masks, [N,9,9]; a third of the masks are empty."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, SIDE, SIDE), np.uint8)
    for i in range(count):
        if i % 3:
            top, left = rng.integers(0, 5, 2)
            masks[i, top : top + 4, left : left + 3] = 1
    noise = rng.integers(0, 256, masks.shape)
    levels = np.clip(sharp * 255 * masks + (1 - sharp) * noise, 0, 255).astype(np.uint8)
    levels[0, 0, :2] = (0, 255)
    return levels, masks


def histograms_of(levels, masks, prefix="image"):
    counts = torch.stack(
        [
            count_levels(torch.from_numpy(a), torch.from_numpy(b))
            for a, b in zip(levels, masks, strict=True)
        ]
    ).numpy()
    ids = np.array([f"{prefix}{i}" for i in range(len(levels))])
    side = np.full(len(levels), SIDE, np.int32)
    return Histograms(ids, side, side, counts[:, 0], counts[:, 1])


def dice_by_hand(levels, mask, top, area, threshold):
    """Count pixel by pixel; knows nothing of histograms."""
    above_top = predicted = both = true = 0
    for y in range(SIDE):
        for x in range(SIDE):
            above_top += int(levels[y][x]) > top
            predicted += int(levels[y][x]) > threshold
            true += int(mask[y][x])
            both += int(levels[y][x]) > threshold and bool(mask[y][x])
    if above_top < area:
        predicted = both = 0
    return 1.0 if predicted + true == 0 else 2 * both / (predicted + true)


def mean_by_hand(levels, masks, top, area, threshold):
    values = [dice_by_hand(*pair, top, area, threshold) for pair in zip(levels, masks, strict=True)]
    return math.fsum(values) / len(values)


@pytest.mark.parametrize("sharp", [0.2, 0.5, 0.9])
def test_the_search_finds_what_trying_every_rule_finds(sharp):
    levels, masks = make_images(8, seed=1, sharp=sharp)
    grid, areas = (0, 60, 127, 128, 190, 254), (0, 1, 3, 12, 81, 82)
    rule = best_triplet(histograms_of(levels, masks), grid, areas)
    by_hand = {
        (top, area, threshold): mean_by_hand(levels, masks, top, area, threshold)
        for top in grid
        for area in areas
        for threshold in grid
    }
    best = max(by_hand.values())
    tied = [key for key, value in by_hand.items() if value > best - 1e-12]
    # Of equals: the top nearest the middle, then the smaller area, then the threshold so.
    expected = min(tied, key=lambda k: (abs(k[0] - 127.5), k[0], k[1], abs(k[2] - 127.5), k[2]))
    found = (round(rule.top_threshold * 255), rule.min_area, round(rule.threshold * 255))
    assert found == expected
    assert score(histograms_of(levels, masks), rule).dice == pytest.approx(best, abs=1e-12)


def test_silence_is_chosen_where_nothing_beats_it():
    levels, masks = make_images(6, seed=2)
    assert best_triplet(histograms_of(levels, np.zeros_like(masks))) == LEAVE_EMPTY
    assert best_triplet(histograms_of(np.zeros_like(levels), masks)) == LEAVE_EMPTY


def test_the_whole_search_never_falls_below_the_ordinary_pair():
    levels, masks = make_images(30, seed=3)
    histograms = histograms_of(levels, masks)
    pairs = [PostProcess(t / 255, a, t / 255) for t in range(3, 255, 4) for a in (0, 64)]
    best_pair = max(score(histograms, rule).dice for rule in pairs)
    assert score(histograms, best_triplet(histograms)).dice >= best_pair - 1e-12


def test_cross_fitting_never_sees_the_fold_it_scores():
    folds = {n: histograms_of(*make_images(9, seed=n), prefix=f"fold{n}-") for n in range(3)}
    shown = []

    def choose(histograms):
        shown.append({name.split("-")[0] for name in histograms.ids})
        return best_triplet(histograms)

    fitted = cross_fit(folds, choose)
    assert shown == [{"fold1", "fold2"}, {"fold0", "fold2"}, {"fold0", "fold1"}]
    expected = [fitted.rules[n].dice(folds[n]) for n in folds]
    np.testing.assert_array_equal(fitted.dice, np.concatenate(expected))


def test_the_scored_fold_cannot_change_its_own_rule():
    folds = {n: histograms_of(*make_images(9, seed=n)) for n in range(3)}
    other = folds | {0: histograms_of(*make_images(9, seed=99, sharp=0.9))}
    assert cross_fit(folds).rules[0] == cross_fit(other).rules[0]


@pytest.fixture
def run(tmp_path):
    """A run folder as training leaves it, without any checkpoint."""
    folder = tmp_path / "unet_resnet34" / "made"
    rows = []
    for n in range(3):
        (folder / f"fold{n}").mkdir(parents=True)
        histograms = histograms_of(*make_images(12, seed=n, sharp=0.6), prefix=f"fold{n}-")
        histograms.save(folder / f"fold{n}" / "oof.npz")
        rows += [(name, n, 1, f"patient{i // 2}") for i, name in enumerate(histograms.ids)]
    table = pd.DataFrame(rows, columns=["ImageId", "fold", "positive", "PatientId"])
    table.sort_values("ImageId").to_csv(folder / "folds.csv", index=False)
    (folder / "config.yaml").write_text("seed: 1\nrun_name: made\n")
    return folder


def test_choose_threshold_writes_rule_scores_and_pictures(run, capsys):
    flags = ["--mode", "choose_threshold", "--model_path", str(run.parent.parent)]
    assert main.main([*flags, "--run_name", "made"]) == 0
    content = json.loads((run / "threshold.json").read_text())
    pooled = join(list(load_folds(run).values()))
    rule = load_rule(run / "threshold.json")
    assert rule == best_triplet(pooled)
    assert content["pooled"]["dice"] == score(pooled, rule).dice
    assert content["cross_fitted"]["dice"] <= content["pooled"]["dice"]
    low, high = content["cross_fitted"]["interval"]
    assert low < content["cross_fitted"]["dice"] < high
    assert [fold["fold"] for fold in content["folds"]] == [0, 1, 2]
    printed = capsys.readouterr().out
    assert f"cross-fitted: Dice {content['cross_fitted']['dice']:.4f}" in printed
    events = EventAccumulator(str(run))
    events.Reload()
    assert len(events.Images("threshold")) == 1
    assert (run / "threshold.png").stat().st_size > 10_000


def test_each_folds_own_best_is_what_the_search_finds_on_it(run):
    content, folds = choose_thresholds(run), load_folds(run)
    dice = []
    for row in content["folds"]:
        own, others = PostProcess(**row["per_fold"]), PostProcess(**row["cross_fitted"])
        histograms = folds[row["fold"]]
        assert own == best_triplet(histograms)
        assert score(histograms, own).dice >= score(histograms, others).dice
        dice.append(score(histograms, own).dice)
    assert content["per_fold"]["dice"] == pytest.approx(np.mean(dice))


def test_the_interval_is_over_patients_where_they_are_known(run):
    """Two images of a patient are drawn together; without patients each image counts alone."""
    grouped = choose_thresholds(run)["pooled"]["interval"]
    table = pd.read_csv(run / "folds.csv", dtype={"PatientId": str})
    table["PatientId"] = ""
    table.to_csv(run / "folds.csv", index=False)
    alone = choose_thresholds(run)["pooled"]["interval"]
    assert grouped != alone


def test_a_single_fold_has_no_cross_fitted_score(run, capsys):
    for n in (1, 2):
        (run / f"fold{n}" / "oof.npz").unlink()
    assert choose_thresholds(run)["cross_fitted"] is None


def test_a_run_without_a_finished_fold_is_named(run):
    for n in range(3):
        (run / f"fold{n}" / "oof.npz").unlink()
    with pytest.raises(InputError, match="no fold of this run is finished"):
        choose_thresholds(run)


def test_a_torn_out_of_fold_file_is_named(run):
    path = run / "fold1" / "oof.npz"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"fold1/oof\.npz cannot be read"):
        choose_thresholds(run)
