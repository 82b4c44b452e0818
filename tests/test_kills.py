"""A killed and resumed run is bit-identical; benchmarks.kills tests larger runs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.tiny import write_dataset
from tests.test_solver import assert_same, checkpoints, scalars
from utils.postprocessing.histograms import load_histograms

REPOSITORY = Path(__file__).parent.parent

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with an undisturbed fold, and one killed in each phase and resumed."""
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


@pytest.mark.parametrize("phase", ["step", "validation", "checkpoint"])
def test_a_killed_and_resumed_run_is_bit_identical(runs, phase):
    assert_same(checkpoints(runs / phase), checkpoints(runs / "undisturbed"))
    one, other = (load_histograms(runs / name / "oof.npz") for name in (phase, "undisturbed"))
    np.testing.assert_array_equal(one.all, other.all)
    np.testing.assert_array_equal(one.mask, other.mask)
    for tag in ("loss/train", "loss/val", "lr", "dice/all"):
        assert len(scalars(runs / "undisturbed", tag)) == 4
        assert scalars(runs / phase, tag) == scalars(runs / "undisturbed", tag)
    assert not list((runs / phase).glob(".*"))
