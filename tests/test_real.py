"""`make real` goes from a download to scores, and goes on with a run that was stopped."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from datasets import sample
from tests.helpers.pages import REPOSITORY

SMALL = (
    "--model_type smp:Unet:tu-tf_efficientnet_lite0 --pretrained false --image_size_stage1 64 "
    "--epoch_stage1 2 --epoch_stage1_freeze 0 --n_splits 2 --num_workers 0 --accelerator cpu"
)


def make_real(data: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    run = folder / "checkpoints/smp:Unet:tu-tf_efficientnet_lite0/real"
    words = ["make", "-o", ".venv/ready", "real", f"DATA={data}", f"REAL={folder / 'prepared'}"]
    words += [f"BIN={Path(sys.executable).parent}", f"REAL_RUN={run}"]
    words += [f"SETTINGS={SMALL} --model_path {folder / 'checkpoints'}"]
    return subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_download_is_prepared_trained_on_predicted_and_scored(tmp_path):
    assert sample.main(["--out", str(tmp_path / "raw"), "--size", "96", "--count", "24"]) == 0
    ended = make_real(tmp_path / "raw", tmp_path)
    assert ended.returncode == 0, ended.stderr
    run = tmp_path / "checkpoints/smp:Unet:tu-tf_efficientnet_lite0/real"
    folds = pd.read_csv(run / "folds.csv")
    predicted = pd.read_csv(run / "submission.csv")
    assert set(predicted["ImageId"]) == set(folds.loc[folds["fold"] == 0, "ImageId"])
    assert (run / "report.html").is_file()
    assert (run / "worst.png").is_file()
    assert "Dice" in ended.stdout
    again = make_real(tmp_path / "raw", tmp_path)
    assert again.returncode == 0, again.stderr


def test_a_missing_folder_is_named_first():
    words = ["make", "-o", ".venv/ready", "real"]
    ended = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "make real DATA=DIR" in ended.stdout
