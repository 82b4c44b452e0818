"""A run that is killed goes on to the same bits; benchmarks.kills does it to real ones."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.tiny import write_dataset
from tests.test_solver import assert_same, checkpoints, scalars
from utils.postprocessing.histograms import load_histograms

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folds that were trained whole and killed, by where."""
    root = write_dataset(tmp_path_factory.mktemp("data"))
    out = tmp_path_factory.mktemp("runs")
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.killed_runs", str(root), str(out)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return out


@pytest.mark.parametrize("place", ["step", "validation", "checkpoint"])
def test_a_killed_run_goes_on_to_the_same_bits(runs, place):
    assert_same(checkpoints(runs / place), checkpoints(runs / "whole"))
    one, other = (load_histograms(runs / name / "oof.npz") for name in (place, "whole"))
    np.testing.assert_array_equal(one.all, other.all)
    np.testing.assert_array_equal(one.mask, other.mask)
    for tag in ("loss/train", "loss/val", "lr", "dice/all"):
        assert len(scalars(runs / "whole", tag)) == 4
        assert scalars(runs / place, tag) == scalars(runs / "whole", tag)
    assert not list((runs / place).glob(".*"))
