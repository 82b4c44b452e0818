"""The choice of thresholds: exact, and cross-fitted without leakage."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import main
from tests.helpers import makers
from tests.helpers.makers import make_images, measured
from utils.errors import InputError
from utils.postprocessing.families import fit_rules
from utils.postprocessing.grid import FAMILIES
from utils.postprocessing.histograms import concatenate
from utils.postprocessing.rule import PostProcess, load_rule, score
from utils.postprocessing.search import best_rule
from utils.postprocessing.selection import choose_thresholds, describe_thresholds
from utils.postprocessing.summary import load_folds


def histograms_of(levels, masks, prefix="image"):
    histograms = makers.histograms_of(list(zip(levels, masks, strict=True)))
    return replace(histograms, ids=np.char.replace(histograms.ids, "image", prefix))


def family_named(name):
    return next(family for family in FAMILIES if family.name == name)


@pytest.fixture
def run(tmp_path):
    """A run folder as after training, but without checkpoints."""
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
    pooled = concatenate(list(load_folds(run).values()))
    rule = load_rule(run / "threshold.json")
    assert rule == best_rule(pooled, family=family_named(content["family"]))
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


def test_per_fold_scores_use_the_best_rule_of_each_fold(run):
    content, folds = choose_thresholds(run), load_folds(run)
    dice = []
    for row in content["folds"]:
        own, others = PostProcess(**row["per_fold"]), PostProcess(**row["cross_fitted"])
        histograms = folds[row["fold"]]
        assert own == best_rule(histograms)
        assert score(histograms, own).dice >= score(histograms, others).dice
        dice.append(score(histograms, own).dice)
    assert content["per_fold"]["dice"] == pytest.approx(np.mean(dice))


def test_the_family_and_its_rivals_are_saved_and_printed(run):
    """The whole procedure is cross-fitted, so its score need not be that of the family."""
    make_rich(run)
    content = choose_thresholds(run)
    folds = load_folds(run)
    patients = [f"patient{i // 2}" for fold in folds.values() for i in range(len(fold.ids))]
    fitted = fit_rules(folds, patients)
    assert fitted.cross_fitted is not None
    assert content["family"] == fitted.choice.family
    assert list(content["families"]) == [family.name for family in FAMILIES]
    for name, row in content["families"].items():
        assert row == fitted.choice.scores[name]._asdict()
    dice = [fitted.cross_fitted[n].dice(fold) for n, fold in folds.items()]
    assert content["cross_fitted"]["dice"] == pytest.approx(np.concatenate(dice).mean())
    assert [PostProcess(**row["cross_fitted"]) for row in content["folds"]] == [
        fitted.cross_fitted[n] for n in folds
    ]
    printed = describe_thresholds(content)
    assert f"family: {content['family']}, the simplest within one standard error" in printed
    assert f"pair {content['families']['pair']['dice']:.4f}" in printed


def test_the_interval_is_over_patients_if_they_are_known(run):
    """Images of a patient are drawn together; without patients, images are drawn singly."""
    grouped = choose_thresholds(run)["pooled"]["interval"]
    table = pd.read_csv(run / "folds.csv", dtype={"PatientId": str})
    table["PatientId"] = ""
    table.to_csv(run / "folds.csv", index=False)
    by_image = choose_thresholds(run)["pooled"]["interval"]
    assert grouped != by_image


def make_rich(run, numbers=range(3)):
    """Add gate, presence and components to folds."""
    for n in numbers:
        path = run / f"fold{n}" / "oof.npz"
        ids = [f"fold{n}-{i}" for i in range(9)]
        replace(measured(n, gate=True, presence=True), ids=np.array(ids)).save(path)


def test_the_auc_is_how_often_a_positive_outranks_an_empty_image(run):
    for change in (lambda: None, lambda: make_rich(run)):
        change()
        content, pooled = choose_thresholds(run), concatenate(list(load_folds(run).values()))
        scores = pooled.image_scores()
        pairs = [
            (a > b) + (a == b) / 2
            for a in scores[pooled.positive].tolist()
            for b in scores[~pooled.positive].tolist()
        ]
        auc = content["auc"]
        assert auc["value"] == pytest.approx(sum(pairs) / len(pairs))
        low, high = auc["interval"]
        assert low < auc["value"] < high
        assert f"AUC {auc['value']:.4f} (95 % {low:.4f} to {high:.4f})" in describe_thresholds(
            content
        )


def test_the_interval_of_the_auc_is_over_patients(run):
    grouped = choose_thresholds(run)["auc"]
    table = pd.read_csv(run / "folds.csv", dtype={"PatientId": str})
    table.assign(PatientId="").to_csv(run / "folds.csv", index=False)
    by_image = choose_thresholds(run)["auc"]
    assert by_image["value"] == grouped["value"]
    assert by_image["interval"] != grouped["interval"]
    table.assign(PatientId=table["ImageId"]).to_csv(run / "folds.csv", index=False)
    low, high = choose_thresholds(run)["auc"]["interval"]
    assert by_image["interval"] == pytest.approx((low, high), abs=0.03)


def test_every_parameter_of_a_rule_is_saved(run):
    make_rich(run)
    content = choose_thresholds(run)
    pooled = concatenate(list(load_folds(run).values()))
    rule = best_rule(pooled, family=family_named(content["family"]))
    assert load_rule(run / "threshold.json") == rule
    assert rule.describe() in describe_thresholds(content)


def test_folds_of_old_and_new_versions_share_a_rule(run):
    make_rich(run, numbers=[1])
    content = choose_thresholds(run)
    rules = [PostProcess(**row[way]) for row in content["folds"] for way in list(row)[1:]]
    assert len(rules) == 9
    assert not any(rule.filters_components or rule.presence_threshold for rule in rules)


def test_a_single_fold_has_no_cross_fitted_score(run, capsys):
    for n in (1, 2):
        (run / f"fold{n}" / "oof.npz").unlink()
    assert choose_thresholds(run)["cross_fitted"] is None


def test_a_run_without_a_finished_fold_is_named(run):
    for n in range(3):
        (run / f"fold{n}" / "oof.npz").unlink()
    with pytest.raises(InputError, match="no fold of this run is finished"):
        choose_thresholds(run)


def test_a_truncated_oof_npz_is_named(run):
    path = run / "fold1" / "oof.npz"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(InputError, match=r"fold1/oof\.npz cannot be read"):
        choose_thresholds(run)
