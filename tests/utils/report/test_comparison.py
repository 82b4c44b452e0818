"""Runs side by side: differences are those of the shared images, image by image."""

import numpy as np
import pytest

from tests.helpers.reported import write_finished
from utils.errors import InputError
from utils.evaluation.bootstrap import bootstrap_interval
from utils.postprocessing.histograms import load_histograms
from utils.postprocessing.rule import PostProcess
from utils.report.comparison import compare
from utils.report.evidence import read_evidence

OTHER = PostProcess(0.2, 0, 0.2)


def test_differences_are_paired(tmp_path):
    first = read_evidence(write_finished(tmp_path / "net" / "a"))
    second = read_evidence(write_finished(tmp_path / "net" / "b", OTHER))
    comparison = compare(first, second)
    assert (comparison.images, comparison.left_out) == (28, 0)
    dice = {row.score: row for row in comparison.differences}["Dice"]
    change = second.scores.dice - first.scores.dice
    assert dice.gain.mean == pytest.approx(change.mean())
    assert (dice.gain.low, dice.gain.high) == bootstrap_interval(change, first.patients)
    assert (dice.first, dice.second) == (first.scores.dice.mean(), second.scores.dice.mean())
    assert dice.is_clear == (dice.gain.low > 0 or dice.gain.high < 0)


def test_a_run_does_not_differ_from_itself(tmp_path):
    run = read_evidence(write_finished(tmp_path / "net" / "a"))
    for row in compare(run, run).differences:
        assert (row.gain.mean, row.gain.low, row.gain.high) == (0, 0, 0)
        assert not row.is_clear


def test_only_shared_images_are_compared(tmp_path):
    first = read_evidence(write_finished(tmp_path / "net" / "a"))
    folder = write_finished(tmp_path / "net" / "b")
    path = folder / "fold1" / "oof.npz"
    histograms = load_histograms(path)
    names = np.array([f"other{i}" if i < 3 else name for i, name in enumerate(histograms.ids)])
    type(histograms)(**{**vars(histograms), "ids": names}).save(path)
    comparison = compare(first, read_evidence(folder))
    assert (comparison.images, comparison.left_out) == (25, 6)


def test_runs_on_other_images_or_masks_are_refused(tmp_path):
    first = read_evidence(write_finished(tmp_path / "net" / "a"))
    other = read_evidence(write_finished(tmp_path / "net" / "b", prefix="other"))
    with pytest.raises(InputError, match="have no image in common"):
        compare(first, other)
    masks = read_evidence(write_finished(tmp_path / "net" / "c", seed=7))
    with pytest.raises(InputError, match="have other true masks for"):
        compare(first, masks)
