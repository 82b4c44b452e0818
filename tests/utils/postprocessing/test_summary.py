"""The summary of a run, against the scores of each fold."""

import json
import shutil
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from tests.helpers.makers import histograms_of, predicted
from utils.errors import InputError
from utils.postprocessing.histograms import concatenate
from utils.postprocessing.rule import PostProcess, score
from utils.postprocessing.search import best_pair
from utils.postprocessing.summary import format_table, load_folds, summarise_run


@pytest.fixture
def folds(tmp_path):
    """Three finished folds of a run, one that has only started, and copies that a user made."""
    histograms = {n: histograms_of(predicted(n, count=6 + n)) for n in (0, 2, 10)}
    for number, part in histograms.items():
        (tmp_path / f"fold{number}").mkdir()
        part.save(tmp_path / f"fold{number}" / "oof.npz")
    (tmp_path / "fold1").mkdir()
    for name in ("fold0_old", "fold2 (copy)", "my fold"):
        shutil.copytree(tmp_path / "fold0", tmp_path / name)
    return histograms


def test_finished_folds_are_loaded_in_numerical_order(folds, tmp_path):
    assert list(load_folds(tmp_path)) == [0, 2, 10]


def test_predictions_of_another_fold_are_refused(folds, tmp_path):
    rows = [(f"{n}-{i}", n, 1, "") for n in (0, 1) for i in range(2)]
    table = pd.DataFrame(rows, columns=["ImageId", "fold", "positive", "PatientId"])
    table.to_csv(tmp_path / "folds.csv", index=False)
    part = histograms_of(predicted(0, count=2))
    replace(part, ids=np.array(["0-0", "0-1"])).save(tmp_path / "fold0" / "oof.npz")
    assert list(load_folds(tmp_path)) == [0, 2, 10]
    shutil.copy(tmp_path / "fold0" / "oof.npz", tmp_path / "fold1")
    with pytest.raises(
        InputError, match=r"fold1/oof\.npz holds predictions of fold 0 \(image 0-0\)"
    ):
        load_folds(tmp_path)


def test_every_fold_is_scored_by_its_own_rule_and_all_by_one(folds, tmp_path):
    summary = summarise_run(tmp_path)
    pairs = [(row, folds[row["fold"]]) for row in summary["folds"]]
    for row, histograms in [*pairs, (summary["pooled"], concatenate(list(folds.values())))]:
        rule = best_pair(histograms)
        assert PostProcess(*(row[n] for n in ("threshold", "min_area", "top_threshold"))) == rule
        assert row["images"] == len(histograms.ids)
        assert row["positives"] == histograms.positive.sum()
        for name, value in asdict(score(histograms, rule)).items():
            assert row[name] == pytest.approx(value)
    assert [row["fold"] for row in summary["folds"]] == [0, 2, 10]
    assert summary["pooled"]["images"] == 6 + 8 + 16


def test_mean_and_deviation_are_those_of_the_folds(folds, tmp_path):
    summary = summarise_run(tmp_path)
    for name in ("dice", "baseline", "dice_positive", "empty_kept"):
        values = [row[name] for row in summary["folds"]]
        mean = sum(values) / 3
        assert summary["mean"][name] == pytest.approx(mean)
        variance = sum((value - mean) ** 2 for value in values) / 2
        assert summary["deviation"][name] == pytest.approx(variance**0.5)


def test_the_deviation_of_a_single_fold_is_zero(folds, tmp_path):
    for number in (2, 10):
        (tmp_path / f"fold{number}" / "oof.npz").unlink()
    assert set(summarise_run(tmp_path)["deviation"].values()) == {0.0}


def test_summary_json_is_what_is_returned(folds, tmp_path):
    summary = summarise_run(tmp_path)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_without_positives_their_dice_is_nan_in_the_table_and_null_in_json(tmp_path):
    (tmp_path / "fold0").mkdir()
    empty = np.zeros((4, 4), np.uint8)
    histograms_of([(empty, empty)]).save(tmp_path / "fold0" / "oof.npz")
    table = format_table(summarise_run(tmp_path))
    content = json.loads((tmp_path / "summary.json").read_text())
    assert content["folds"][0]["dice_positive"] is None
    assert "nan" in table


def test_the_table_lists_folds_then_averages_then_pooled(folds, tmp_path):
    summary = summarise_run(tmp_path)
    lines = format_table(summary).splitlines()
    first = ["fold", "0", "2", "10", "mean", "deviation", "pooled"]
    assert [line.split()[0] for line in lines] == first
    assert len({len(line) for line in lines}) == 1
    row = summary["folds"][1]
    scores = [f"{row[n]:.4f}" for n in ("dice", "baseline", "dice_positive", "empty_kept")]
    rule = [str(row[n]) for n in ("predicted", "threshold", "min_area")]
    assert lines[2].split() == ["2", "8", str(row["positives"]), *scores, *rule]
    assert lines[4].split()[1] == f"{summary['mean']['dice']:.4f}"


def test_a_run_without_a_finished_fold_is_named(tmp_path):
    with pytest.raises(InputError, match=r"fold\*/oof\.npz: no fold of this run is finished"):
        summarise_run(tmp_path)
