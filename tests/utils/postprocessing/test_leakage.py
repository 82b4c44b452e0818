"""Encoder weights that were trained on validation images, against counts over lists of images."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from datasets.folds import make_folds, read_folds, write_folds
from tests.helpers.makers import histograms_of, make_images
from utils.errors import InputError
from utils.postprocessing import selection
from utils.postprocessing.leakage import add_leaks, find_leak, out_of_fold, read_leaks, remove_leaks
from utils.postprocessing.selection import choose_thresholds, describe_thresholds
from utils.postprocessing.summary import summarise_run

IDS = [f"image{i:02d}" for i in range(23)]


def folds_of(ids, n_splits):
    return make_folds({name: i % 3 == 0 for i, name in enumerate(ids)}, n_splits, stratified=False)


def found(path, table, setting="encoder_weights"):
    """Return the leak of a file that has one."""
    leak = find_leak(path, table, setting)
    assert leak is not None
    return leak


def write_checkpoint(run, fold, table, encoder_weights=None, adopted=False, init_from=None):
    """Write a checkpoint of a fold as training does, without weights."""
    (run / f"fold{fold}").mkdir(parents=True)
    write_folds(table, run / "folds.csv")
    config = {"model_type": "net", "run_name": run.name, "encoder_weights": encoder_weights}
    config["init_from"] = init_from
    content = {"state_dict": {}, "fold": fold, "config": config}
    path = run / f"fold{fold}" / "stage1_best.pth"
    torch.save(content | ({} if adopted else {"optimizer": {}}), path)
    return path


@pytest.mark.parametrize("n_splits", [2, 3, 5])
@pytest.mark.parametrize("shared", [0, 1, 12, 23])
def test_the_shared_images_are_those_the_checkpoint_was_trained_on(n_splits, shared, tmp_path):
    """Whatever the two runs have in common: all images, some, or none."""
    theirs = folds_of([*IDS[:shared], *(f"other{i}" for i in range(9))], 3)
    table = folds_of(IDS, n_splits)
    for fold in range(3):
        leak = find_leak(write_checkpoint(tmp_path / f"run{fold}", fold, theirs), table)
        trained = [name for name, f in zip(theirs.ImageId, theirs.fold, strict=True) if f != fold]
        expected = {
            str(n): sum(
                f == n and i in trained for i, f in zip(table.ImageId, table.fold, strict=True)
            )
            for n in range(n_splits)
        }
        assert (leak["images"] if leak else dict.fromkeys(expected, 0)) == expected
        if leak:
            assert (leak["fold"], leak["run"]) == (fold, f"net/run{fold}")


def test_the_same_fold_of_the_same_split_shares_no_image_with_itself(tmp_path):
    table = folds_of(IDS, 5)
    add_leaks(tmp_path, [found(write_checkpoint(tmp_path / "run", 3, table), table)])
    assert [out_of_fold(tmp_path, [n])["out_of_fold"] for n in range(5)] == [
        n == 3 for n in range(5)
    ]
    reason = out_of_fold(tmp_path, [0, 3])["not_out_of_fold"]
    sizes = table.groupby("fold").size()
    assert "run/fold3/stage1_best.pth were trained on fold 3 of run net/run" in reason
    assert all(f"{sizes[n]} of fold {n}" in reason for n in (0, 1, 2, 4))
    assert "of fold 3," not in reason


def test_images_of_an_earlier_checkpoint_are_counted_too(tmp_path):
    """A trained on our images; B on others, from the encoder of A; we start from B."""
    table, others = folds_of(IDS, 4), folds_of([f"other{i}" for i in range(9)], 3)
    first = write_checkpoint(tmp_path / "A", 0, table)
    second = write_checkpoint(tmp_path / "B", 1, others, str(first))
    assert found(second, table)["images"] == found(first, table)["images"]
    first.unlink()
    assert find_leak(second, table) is None


@pytest.mark.parametrize("named", ["checkpoint", "run"])
def test_images_of_an_earlier_network_are_counted_too(named, tmp_path):
    """B began from A, whole; without A, nobody knows what it was trained on."""
    table, others = folds_of(IDS, 4), folds_of([f"other{i}" for i in range(9)], 3)
    first = write_checkpoint(tmp_path / "A", 1, table)
    origin = str(first if named == "checkpoint" else tmp_path / "A")
    second = write_checkpoint(tmp_path / "B", 1, others, init_from=origin)
    assert found(second, table)["images"] == found(first, table)["images"]
    first.unlink()
    assert found(second, table)["images"] is None


def test_a_leaking_network_is_described_and_marks_the_folds_it_saw(tmp_path):
    table = folds_of(IDS, 3)
    path = write_checkpoint(tmp_path / "A", 1, table)
    leak = found(path, table, "init_from")
    add_leaks(tmp_path, [leak])
    assert read_leaks(tmp_path) == [leak]
    assert [out_of_fold(tmp_path, [n])["out_of_fold"] for n in range(3)] == [False, True, False]
    reason = out_of_fold(tmp_path, [0])["not_out_of_fold"]
    assert reason.startswith(f"the network {path} was trained on fold 1 of run net/A, and so on")


@pytest.mark.parametrize("how", ["moved", "renamed", "adopted", "folds.csv"])
def test_a_checkpoint_whose_images_cannot_be_told_counts_for_every_fold(how, tmp_path):
    table = folds_of(IDS, 2)
    path = write_checkpoint(tmp_path / "run", 1, table, adopted=how == "adopted")
    if how == "moved":
        path = path.rename(tmp_path / "weights.pth")
    elif how == "renamed":
        path = path.parent.rename(tmp_path / "run" / "fold0") / path.name
    elif how == "folds.csv":
        (tmp_path / "run" / "folds.csv").unlink()
    leak = found(path, table)
    assert leak["images"] is None
    add_leaks(tmp_path, [leak])
    for fold in (0, 1):
        content = out_of_fold(tmp_path, [fold])
        assert not content["out_of_fold"]
        assert "cannot be told" in content["not_out_of_fold"]


@pytest.mark.parametrize(
    "content",
    [{"conv1.weight": torch.ones(1)}, {"state_dict": {}, "epoch": 3}],
    ids=["plain", "other"],
)
def test_other_weights_are_no_leak(content, tmp_path):
    torch.save(content, tmp_path / "weights.pth")
    assert find_leak(tmp_path / "weights.pth", folds_of(IDS, 2)) is None


def test_leaks_are_added_once_and_removed(tmp_path):
    table = folds_of(IDS, 2)
    leaks = [found(write_checkpoint(tmp_path / name, 0, table), table) for name in "ab"]
    assert read_leaks(tmp_path) == []
    for added in (leaks[:1], leaks, leaks[1:], []):
        add_leaks(tmp_path, added)
    assert read_leaks(tmp_path) == leaks
    remove_leaks(tmp_path)
    assert out_of_fold(tmp_path, [0, 1]) == {"out_of_fold": True}


@pytest.mark.parametrize("text", ["", "[1]", "{}x", '[{"fold": 1}]', '{"a": 1}', "[" * 60_000])
def test_a_damaged_list_is_named(text, tmp_path):
    (tmp_path / "leakage.json").write_text(text)
    with pytest.raises(InputError, match=r"leakage\.json cannot be read"):
        read_leaks(tmp_path)


def test_the_scores_of_a_run_say_whether_they_are_out_of_fold(tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "draw_threshold", lambda *_: torch.zeros(1, 1, 3).numpy())
    run, rows = tmp_path / "run", []
    for n in range(2):
        (run / f"fold{n}").mkdir(parents=True)
        levels, masks = make_images(9, seed=n, sharp=0.6)
        histograms = histograms_of(list(zip(levels, masks, strict=True)))
        histograms = replace(histograms, ids=np.array(IDS[9 * n : 9 * n + 9]))
        histograms.save(run / f"fold{n}" / "oof.npz")
        rows += [(name, n, 1, "") for name in histograms.ids.tolist()]
    write_folds(
        pd.DataFrame(rows, columns=["ImageId", "fold", "positive", "PatientId"]), run / "folds.csv"
    )
    table = read_folds(run / "folds.csv")
    for clean in (True, False):
        if not clean:
            add_leaks(run, [found(write_checkpoint(tmp_path / "other", 1, table), table)])
        summary, content = summarise_run(run), choose_thresholds(run)
        saved = [
            json.loads((run / f"{name}.json").read_text()) for name in ("summary", "threshold")
        ]
        for part in (summary, content, *saved):
            assert part["out_of_fold"] is clean
            assert ("9 of fold 0" in part.get("not_out_of_fold", "")) is not clean
        assert ("NOT OUT OF FOLD" in describe_thresholds(content)) is not clean
    # Fold 1 was held out in the other training too.
    (run / "fold0" / "oof.npz").unlink()
    assert summarise_run(run)["out_of_fold"]
