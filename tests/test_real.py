"""`make real` goes from a download to scores, and goes on with a run that was stopped."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from datasets import sample
from tests.helpers.pages import REPOSITORY

MODEL = "smp:Unet:tu-tf_efficientnet_lite0"
MASKS = "no png_masks, no stage_2_train*.csv and no *train*rle.csv"
SMALL = (
    "--pretrained false --image_size_stage1 64 --epoch_stage1 2 --epoch_stage1_freeze 0 "
    "--n_splits 2 --num_workers 0 --accelerator cpu"
)
RECORDING = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in
    "-m datasets.prepare"*) exit "$REFUSED" ;;
    train_sfold.py*) mkdir -p "$TRAINED"; echo ImageId,fold > "$TRAINED/folds.csv" ;;
esac
"""
"""A python that notes how it was called; prepare ends with $REFUSED."""


def make_real(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "-o", ".venv/ready", "real", *words]
    return subprocess.run(
        command,
        cwd=REPOSITORY,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def download(tmp_path):
    """A folder with a csv of masks and with patients, below a home of its own."""
    folder = tmp_path / "my data"
    folder.mkdir()
    for name in ("stage_2_train.csv", "a_train-rle.csv", "patients.csv"):
        (folder / name).touch()
    return folder


@pytest.fixture
def record(tmp_path, monkeypatch):
    """Return a function that calls make, and returns its result and the commands that it ran."""
    (tmp_path / "python").write_text(RECORDING)
    (tmp_path / "python").chmod(0o755)

    def call(*words: str, refused: int = 0) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        (tmp_path / "prepared").mkdir(exist_ok=True)
        words = (f"BIN={tmp_path}", f"REAL={tmp_path}/prepared", f"REAL_RUNS={tmp_path}", *words)
        run = str(tmp_path / MODEL / "real")
        calls = tmp_path / "calls"
        calls.unlink(missing_ok=True)
        ended = make_real(
            *words, CALLS=str(calls), TRAINED=run, REFUSED=str(refused), HOME=str(tmp_path)
        )
        return ended, calls.read_text().splitlines() if calls.exists() else []

    return call


@pytest.mark.slow
def test_a_download_is_prepared_trained_on_predicted_and_scored(tmp_path):
    assert sample.main(["--out", str(tmp_path / "raw"), "--size", "96", "--count", "24"]) == 0
    words = [f"DATA={tmp_path}/raw", f"REAL={tmp_path}/prepared", f"REAL_RUNS={tmp_path}"]
    words += [f"BIN={Path(sys.executable).parent}", f"SETTINGS={SMALL}"]
    ended = make_real(*words)
    assert ended.returncode == 0, ended.stderr
    run = tmp_path / MODEL / "real"
    folds = pd.read_csv(run / "folds.csv")
    predicted = pd.read_csv(run / "submission.csv")
    assert set(predicted["ImageId"]) == set(folds.loc[folds["fold"] == 0, "ImageId"])
    assert (run / "report.html").is_file()
    assert (run / "worst.png").is_file()
    assert "Dice" in ended.stdout
    # What a run leaves that is killed after its last epoch.
    for name in ("fold0/oof.npz", "threshold.json", "summary.json", "submission.csv"):
        (run / name).unlink()
    trained = (run / "fold0/stage1_last.pth").stat().st_mtime_ns
    again = make_real(*words)
    assert again.returncode == 0, again.stderr
    assert (run / "submission.csv").is_file()
    assert (run / "fold0/stage1_last.pth").stat().st_mtime_ns == trained


@pytest.mark.parametrize("data", ["~/my data", "{}/my data"])
def test_the_csv_and_the_patients_of_a_folder_are_found(download, record, tmp_path, data):
    """Where the shell leaves ~ as it is, and where a name has a space."""
    ended, (prepare, train, *_) = record(f"DATA={data.format(tmp_path)}")
    assert ended.returncode == 0, ended.stderr
    assert f"--images {download} --rle {download}/stage_2_train.csv --out" in prepare
    assert f"--groups {tmp_path}/prepared/patients.csv" in train
    assert "thresholds were chosen on the images that are scored" in ended.stdout


def test_the_masks_of_the_sample_images_are_not_taken_for_those_of_training(record, tmp_path):
    """In Kaggle's folder, the csv of the sample images comes before that of the training images."""
    (tmp_path / "train-rle-sample.csv").touch()
    ended, calls = record(f"DATA={tmp_path}")
    assert (ended.returncode, calls) == (2, [])
    (tmp_path / "train-rle.csv").touch()
    ended, (prepare, *_) = record(f"DATA={tmp_path}")
    assert ended.returncode == 0, ended.stderr
    assert f"--rle {tmp_path}/train-rle.csv --out" in prepare


@pytest.mark.parametrize("within", [".", "siim-acr-pneumothorax"])
def test_the_folders_of_the_png_images_and_masks_are_found(record, tmp_path, within):
    """In the folder that is named, or in that of the archive, as Kaggle's archives unpack."""
    (tmp_path / "my data" / within / "png_masks").mkdir(parents=True)
    ended, (prepare, *_) = record(f"DATA={tmp_path}/my data")
    assert ended.returncode == 0, ended.stderr
    found = os.path.normpath(tmp_path / "my data" / within)
    images, masks, names = (
        os.path.normpath(prepare.split(f" --{flag} ")[1].split(" --")[0])
        for flag in ("images", "masks", "names")
    )
    assert images == f"{found}/png_images"
    assert masks == f"{found}/png_masks"
    assert names == f"{found}/stage_1_train_images.csv"


@pytest.mark.parametrize(("code", "goes_on"), [(0, True), (1, True), (2, False), (130, False)])
def test_only_a_refused_image_does_not_end_it(download, record, code, goes_on):
    ended, calls = record(f"DATA={download}", refused=code)
    assert (len(calls) > 1) == goes_on
    assert (ended.returncode == 0) == goes_on


@pytest.mark.parametrize("settings", ["--folds 1,0", "--folds=all", "--folds 2 --folds 0,2 --lr 1"])
def test_folds_with_the_one_that_is_scored_are_trained(record, settings):
    ended, (_, train, *_) = record("PREPARE=--images a", f"SETTINGS={settings}")
    assert ended.returncode == 0, ended.stderr
    assert train.endswith(f"--folds 0 {settings}")


def test_own_ways_to_prepare_need_no_folder(record):
    ended, (prepare, *_) = record("PREPARE=--images a --masks b")
    assert ended.returncode == 0, ended.stderr
    assert prepare.startswith("-m datasets.prepare --images a --masks b --out ")


def test_data_and_run_follow_the_name_and_the_model(download):
    names = ["REAL_NAME=b", "MODEL=unet_resnet18"]
    commands = make_real("--dry-run", f"DATA={download}", *names).stdout
    assert "--out datasets/real_data/b " in commands
    assert "--model_type unet_resnet18 --model_path checkpoints --run_name b" in commands
    assert "predict.py --run checkpoints/unet_resnet18/b " in commands


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "make real DATA=DIR"),
        (["DATA={}"], f"found {MASKS} in {{}}: name"),
        (["DATA={}/none"], f"found {MASKS} in {{}}/none: name"),
        (["PREPARE=--images a", "SETTINGS=--lr 1 --run_name b"], "SETTINGS has --run_name, "),
        (["PREPARE=--images a", "SETTINGS=--folds 1,10 --lr 1"], "has --folds 1,10 without fold 0"),
        (["PREPARE=--images a", "SETTINGS=--lr 1 --folds=1"], "has --folds 1 without fold 0"),
        (["PREPARE=--images a", "SETTINGS=--model_type=linknet"], "has --model_type=linknet, "),
    ],
)
def test_what_is_missing_or_leads_elsewhere_is_named_first(record, tmp_path, words, message):
    ended, calls = record(*(word.format(tmp_path) for word in words))
    assert ended.returncode == 2
    assert message.format(tmp_path) in ended.stdout
    assert not calls
