"""The command lines of main.py and train_sfold.py, run in-process and as several processes."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from sklearn.model_selection import KFold

import experiment
import main
import predict
import train_sfold
from models.names import model_types
from tests.helpers.tiny import SETTINGS, TinyNet, as_flags, config, write_dataset
from utils import files
from utils.config.command_line import load_config
from utils.errors import InputError
from utils.files import OwnedLock
from utils.postprocessing.histograms import load_histograms
from utils.signals import EXIT_RETRY
from utils.training.checkpoints import FoldCheckpoints
from utils.training.start import plan
from utils.training.start.plan import make_table, try_network
from utils.training.start.run_folder import lock_fold

REPOSITORY = Path(__file__).parent.parent
QUICK = {"image_size_stage2": 32, "epoch_stage1": 1, "epoch_stage2": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def command_line(root):
    """Return a function that builds flags for a training of a few seconds with a real network."""

    def flags(model_path, **changes):
        settings = SETTINGS | QUICK | {"dataset_root": root, "model_path": model_path}
        return as_flags({name: v for name, v in (settings | changes).items() if v is not None})

    return flags


@pytest.fixture(scope="module")
def run(command_line, tmp_path_factory):
    """Train a complete run of main.py, all folds."""
    checkpoints = tmp_path_factory.mktemp("checkpoints")
    assert main.main(command_line(checkpoints, run_name="first")) == 0
    return checkpoints / "unet_resnet34" / "first"


def test_a_run_folder_has_the_documented_files(run):
    names = {path.name for path in run.iterdir() if "tfevents" not in path.name}
    files = {"config.yaml", "environment.json", "folds.csv", "data.csv", "summary.json", "lock"}
    results = {"threshold.json", "threshold.png", "report.html"}
    assert names == files | results | {"fold0", "fold1"}
    for fold in ("fold0", "fold1"):
        names = {path.name for path in (run / fold).iterdir()}
        checkpoints = {f"stage{s}_{which}.pth" for s in (1, 2) for which in ("last", "best")}
        events = {name for name in names if name.startswith("events.out.tfevents")}
        assert names == checkpoints | events | {"log.txt", "oof.npz", "lock"}
        assert len(events) == 1


def test_every_image_is_validated_in_exactly_one_fold(run, root):
    ids = [load_histograms(run / f"fold{n}" / "oof.npz").ids.tolist() for n in (0, 1)]
    assert sorted(ids[0] + ids[1]) == sorted(p.stem for p in (root / "train_images").iterdir())
    table = pd.read_csv(run / "folds.csv")
    assert table.columns.tolist() == ["ImageId", "fold", "positive", "PatientId"]
    assert table.loc[table["fold"] == 1, "ImageId"].tolist() == ids[1]


def test_the_settings_can_be_loaded(run):
    settings = load_config(run / "config.yaml")
    assert (settings.seed, settings.run_name) == (5, "first")
    assert settings.pretrained is False


def test_the_environment_lists_versions_and_commit(run):
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__.split("+")[0]
    assert set(environment) >= {"git_commit", "git_dirty", "python", "gpus"}


def test_the_summary_matches_the_folds(run):
    summary = json.loads((run / "summary.json").read_text())
    assert [row["fold"] for row in summary["folds"]] == [0, 1]
    dice = [row["dice"] for row in summary["folds"]]
    assert summary["mean"]["dice"] == pytest.approx(np.mean(dice))
    assert summary["deviation"]["dice"] == pytest.approx(np.std(dice, ddof=1))
    assert summary["pooled"]["images"] == 14


def test_the_learning_rate_is_drawn_once_from_the_seed(run):
    rates = {
        torch.load(run / f"fold{n}" / "stage1_last.pth")["scheduler"]["base_lrs"][0] for n in (0, 1)
    }
    settings = load_config(run / "config.yaml")
    assert rates == {main.draw_lr(settings)}
    assert 5e-7 <= rates.pop() <= settings.lr + 5e-7


@pytest.mark.slow
def test_train_sfold_uses_the_given_learning_rate_and_stratifies(command_line, tmp_path):
    assert train_sfold.main(command_line(tmp_path, run_name="s", folds=0, two_stage=False)) == 0
    run = tmp_path / "unet_resnet34" / "s"
    state = torch.load(run / "fold0" / "stage1_last.pth")
    assert state["scheduler"]["base_lrs"] == [2e-4]
    positives = pd.read_csv(run / "folds.csv").groupby("fold")["positive"].sum()
    assert abs(positives[0] - positives[1]) <= 1


@pytest.mark.parametrize(
    "flags",
    [
        {"run_name": "new"},
        {"run_name": "first", "resume": True},
        {"run_name": "first", "mode": "choose_threshold"},
    ],
    ids=["new run", "resume", "choose_threshold"],
)
def test_a_read_only_folder_of_runs_is_one_line_before_the_work(
    run, command_line, monkeypatch, capsys, flags
):
    """A test of the super-user has to pretend."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert main.main(command_line(run.parent.parent, **flags)) == 2
    output = capsys.readouterr()
    assert re.fullmatch(r"error: .* is read-only\. Make it writable, or .*\n", output.err)
    assert "reading masks" not in output.out
    assert not (run.parent / "new").exists()


def test_a_disk_that_turns_read_only_under_way_is_one_line(run, command_line, monkeypatch, capsys):
    def refuse(path, *_):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(os, "replace", refuse)
    words = command_line(run.parent.parent, run_name="first", mode="choose_threshold")
    assert main.main(words) == 2
    assert capsys.readouterr().err == (
        f"error: {run}/threshold.json: Read-only file system; make it accessible or choose another "
        "folder, then run the command again (to continue a training, with --resume true)\n"
    )


def test_a_fold_that_is_removed_under_way_is_not_left_out_of_the_summary(
    run, command_line, tmp_path, capsys
):
    shutil.copytree(run, tmp_path / "unet_resnet34" / "first")
    words = command_line(tmp_path, run_name="first", resume=True)

    class Removed(experiment.Solver):
        def fit(self):
            shutil.rmtree(self.folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "_solver_class", lambda *_: Removed)
        assert main.main(words) == 2
    assert "fold0/oof.npz was removed or renamed in the meantime" in capsys.readouterr().err


def test_two_stage_false_trains_one_stage(command_line, tmp_path):
    assert main.main(command_line(tmp_path, run_name="one", folds="0", two_stage=False)) == 0
    fold = tmp_path / "unet_resnet34" / "one" / "fold0"
    assert not list(fold.glob("stage2_*"))
    assert (fold / "oof.npz").exists()


EVERYTHING = {
    "loss": "bce:3,dice:1,focal:4",
    "loss_stage3": "dice_image,lovasz:0.5",
    "positive_share": "0.8:0.5",
    "epoch_stage2": 2,
    "epoch_stage3": 2,
    "schedule": "one_cycle",
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "clip_grad_norm": 1.0,
    "ema": 0.99,
    "keep_best": 2,
    "best_by": "loss",
    "presence_weight": 0.5,
    "augmentation": "winner",
}
"""All features that a recipe can use, at once."""


@pytest.mark.slow
def test_a_recipe_with_every_feature_is_trained_searched_and_predicted_with(
    command_line, root, tmp_path, capsys
):
    flags = command_line(tmp_path, run_name="all", folds=0, **EVERYTHING)
    assert train_sfold.main(flags) == 0
    run = tmp_path / "unet_resnet34" / "all"
    names = {path.name for path in (run / "fold0").glob("*.pth")}
    assert {f"stage{s}_{which}.pth" for s in (1, 2, 3) for which in ("last", "best")} <= names
    assert len(FoldCheckpoints(run / "fold0").best(2)) == 2
    assert len(FoldCheckpoints(run / "fold0").best(3)) == 2
    found = load_histograms(run / "fold0" / "oof.npz")
    assert found.gate is not None
    assert found.gate.shape == found.all.shape
    assert (found.gate != found.all).any()
    assert found.presence is not None
    assert found.presence.shape == found.ids.shape
    rule = json.loads((run / "threshold.json").read_text())
    assert {"presence_threshold", "min_component_area", "min_component_mean"} <= rule.keys()
    valid = [str(root / "train_images" / f"{name}.png") for name in found.ids]
    words = ["--run", str(run), "--folds", "0", "--out", str(tmp_path / "out.csv")]
    assert predict.main([*words, "--num_workers", "0", "--images", *valid]) == 0
    scores = pd.read_csv(tmp_path / "scores.csv").set_index("ImageId")
    np.testing.assert_allclose(
        scores.loc[found.ids, "probability"], found.presence, rtol=0, atol=2e-6
    )


def test_a_fold_with_checkpoints_is_not_overwritten(run, command_line, capsys):
    before = (run / "fold0" / "stage1_last.pth").stat().st_mtime_ns
    assert main.main(command_line(run.parent.parent, run_name="first", folds="0")) == 2
    assert "--run_name first --resume true --folds 0 " in capsys.readouterr().err
    assert (run / "fold0" / "stage1_last.pth").stat().st_mtime_ns == before


def test_images_replaced_after_the_first_fold_are_refused(run, root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plan, "try_network", lambda *_, **__: TinyNet())
    folder = tmp_path / "runs" / "unet_resnet34" / "first"
    shutil.copytree(run, folder, copy_function=os.link)
    shutil.copytree(root, tmp_path / "data", ignore=shutil.ignore_patterns("cache"))
    victim = tmp_path / "data" / "train_images" / "image03.png"
    shutil.copy(victim.with_name("image04.png"), victim)
    flags = ["--model_path", str(tmp_path / "runs"), "--dataset_root", str(tmp_path / "data")]
    for more in (["--folds", "1"], ["--resume", "true"]):
        assert main.main([*flags, "--run_name", "first", *more]) == 2
        message = capsys.readouterr().err
        assert f"1 of 28 files have changed, the first is {victim}" in message


def test_a_fold_that_another_process_trains_is_left_out(
    run, command_line, tmp_path, capsys, monkeypatch
):
    """The call trains its other folds, and its exit code says that not all are finished.

    It holds the run's lock while it sums up, or a process that began earlier could end last.
    """
    summarised = []

    def summarise(folder, tta):
        summarised.append(OwnedLock(folder, "").owner() is not None)

    monkeypatch.setattr(files, "_PATIENCE", 0.01)
    monkeypatch.setattr(plan, "try_network", lambda *_, **__: TinyNet())
    monkeypatch.setattr(experiment, "_summarise", summarise)
    folder = tmp_path / "unet_resnet34" / "first"
    shutil.copytree(run, folder, copy_function=os.link)
    (folder / "fold0" / "oof.npz").unlink()
    lock = lock_fold(folder / "fold0")
    assert lock.acquire() is None
    state = (folder / "fold0" / "stage2_last.pth").stat().st_mtime_ns
    flags = ["--model_path", str(tmp_path), "--run_name", "first"]
    for more, expected in ((["--folds", "0"], []), (["--resume", "true"], [True])):
        assert main.main([*flags, *more]) == EXIT_RETRY
        said = f"fold 0 is left out: it is being trained by process {os.getpid()} on "
        assert said in capsys.readouterr().out
        assert summarised == expected
    assert (folder / "fold0" / "stage2_last.pth").stat().st_mtime_ns == state


@pytest.mark.slow
def test_on_several_devices_rank_0_ends_its_work_before_it_says_that_a_fold_is_unfinished(
    command_line, tmp_path
):
    """The launcher kills it as soon as another process ends with anything but 0."""
    folder = tmp_path / "unet_resnet34" / "first"
    (folder / "fold0").mkdir(parents=True)
    lock = lock_fold(folder / "fold0")
    assert lock.acquire() is None
    flags = command_line(tmp_path, run_name="first", accelerator="cpu", devices=2, two_stage=False)
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.slow_summary", *flags],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == EXIT_RETRY, done.stderr[-2000:]
    assert done.stdout.count("fold 0 is left out") == 1
    assert (folder / "threshold.json").exists()
    assert (folder / "report.html").exists()


@pytest.mark.slow
def test_of_two_processes_that_begin_one_run_one_trains_a_fold(command_line, tmp_path):
    """Both learn from one decision, here the seed; each says what it did."""
    flags = command_line(tmp_path, run_name="both", seed=None, folds="0", two_stage=False)
    words = [sys.executable, "main.py", *flags, "--epoch_stage1", "30"]
    pair = [
        subprocess.Popen(words, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    texts = [process.communicate()[0] for process in pair]
    assert sorted(process.returncode for process in pair) == [0, EXIT_RETRY]
    trainer, other = sorted(pair, key=lambda process: process.returncode)
    text = texts[pair.index(other)]
    assert f"fold 0 is left out: it is being trained by process {trainer.pid} on " in text
    seed = load_config(tmp_path / "unet_resnet34" / "both" / "config.yaml").seed
    assert all(f"seed {seed}\n" in text for text in texts)
    rates = {line for text in texts for line in text.splitlines() if "drawn from the seed" in line}
    assert len(rates) == 1
    log = (tmp_path / "unet_resnet34" / "both" / "fold0" / "log.txt").read_text()
    assert log.count("stage 1 epoch 30/30") == 1


def test_a_finished_run_can_be_resumed_without_repeating_its_settings(run, root, capsys):
    flags = ["--model_path", str(run.parent.parent), "--run_name", "last", "--resume", "true"]
    assert main.main(flags) == 0
    assert "cross-fitted: Dice" in capsys.readouterr().out


def test_changed_settings_are_refused_by_name(run, capsys):
    flags = ["--model_path", str(run.parent.parent), "--run_name", "first", "--resume", "true"]
    assert main.main([*flags, "--lr", "0.5", "--n_splits", "3"]) == 2
    message = capsys.readouterr().err
    assert "n_splits 2 -> 3" in message
    assert "lr 0.0002 -> 0.5" in message


def test_a_run_is_saved_and_launched_again_with_its_arithmetic(run, monkeypatch):
    saved = load_config(run / "config.yaml")
    assert saved.precision in ("32-true", "bf16-mixed", "16-mixed")
    assert saved.memory_format in ("channels_last", "contiguous")
    launched: list[tuple] = []

    def record(*words):
        launched.append(words)
        raise ZeroDivisionError

    monkeypatch.setattr(experiment, "launch", record)
    flags = ["--model_path", str(run.parent.parent), "--run_name", "first", "--resume", "true"]
    with pytest.raises(ZeroDivisionError):
        main.main(flags)
    expected = (saved.accelerator, saved.devices, 1, saved.precision, False)
    assert launched == [expected]


def test_the_other_script_does_not_resume_a_run(run, capsys):
    flags = ["--model_path", str(run.parent.parent), "--run_name", "first", "--resume", "true"]
    assert train_sfold.main(flags) == 2
    assert "folds.csv holds other folds" in capsys.readouterr().err


@pytest.mark.slow
def test_an_excluded_image_is_in_no_fold_and_a_run_keeps_its_list(command_line, tmp_path, capsys):
    """What counts are the remaining images, not the path of the list."""
    lists = {name: tmp_path / f"{name}.txt" for name in ("same", "other", "moved")}
    for name, text in (("same", "image03"), ("other", "image04"), ("moved", "image03 # dark")):
        lists[name].write_text(text)
    flags = command_line(tmp_path, run_name="x", folds="0", two_stage=False)
    assert main.main([*flags, "--exclude", str(lists["same"])]) == 0
    folds = pd.read_csv(tmp_path / "unet_resnet34" / "x" / "folds.csv")
    assert sorted({f"image{i:02d}" for i in range(14)} - set(folds["ImageId"])) == ["image03"]
    again = ["--model_path", str(tmp_path), "--run_name", "x", "--folds", "0", "--resume", "true"]
    assert main.main(again) == 0
    assert main.main([*again, "--exclude", str(lists["moved"])]) == 0
    assert main.main([*again, "--exclude", str(lists["other"])]) == 2
    assert "holds other folds" in capsys.readouterr().err
    lists["same"].write_text("image04")
    assert main.main(again) == 2
    assert "--exclude list have changed" in capsys.readouterr().err


def test_images_that_are_left_out_are_reported_at_the_start(command_line, tmp_path, capsys):
    root = write_dataset(tmp_path / "data", count=6)
    (root / "train_mask" / "image01.png").unlink()
    (root / "train_images" / "image02.png").unlink()
    for i in (0, 3):
        (root / "train_mask" / f"image{i:02d}.png").write_bytes(b"")
    assert main.main(command_line(tmp_path, dataset_root=root)) == 2
    output = capsys.readouterr()
    assert "1 images without a mask are left out, the first image01" in output.out
    assert "1 masks without an image are left out, the first image02" in output.out
    assert output.err.count("is truncated") == 2


@pytest.mark.slow
def test_folds_trained_separately_form_one_run(run, command_line, tmp_path):
    for fold in ("1", "0"):
        assert main.main(command_line(tmp_path, run_name="apart", folds=fold)) == 0
    apart = tmp_path / "unet_resnet34" / "apart"
    for n in (0, 1):
        together = load_histograms(run / f"fold{n}" / "oof.npz")
        np.testing.assert_array_equal(
            load_histograms(apart / f"fold{n}" / "oof.npz").all, together.all
        )
    assert len(json.loads((apart / "summary.json").read_text())["folds"]) == 2


@pytest.mark.slow
def test_stage_two_can_be_trained_from_stage_one_of_a_run(run, command_line, tmp_path):
    copy = tmp_path / "unet_resnet34" / "first"
    shutil.copytree(run, copy)
    flags = ["--model_path", str(tmp_path), "--run_name", "first", "--mode", "train_stage2"]
    assert main.main([*flags, "--folds", "0"]) == 2  # stage 2 exists already
    original = torch.load(copy / "fold0" / "stage2_last.pth")
    for path in [*(copy / "fold0").glob("stage2_*"), copy / "fold0" / "oof.npz"]:
        path.unlink()
    first_stage = (copy / "fold0" / "stage1_best.pth").stat().st_mtime_ns
    assert main.main([*flags, "--folds", "0"]) == 0
    assert (copy / "fold0" / "stage1_best.pth").stat().st_mtime_ns == first_stage
    again = torch.load(copy / "fold0" / "stage2_last.pth")
    for key, value in original["state_dict"].items():
        assert torch.equal(value, again["state_dict"][key]), key


def test_stage_two_needs_stage_one(run, command_line, tmp_path, capsys):
    copy = tmp_path / "unet_resnet34" / "first"
    shutil.copytree(run, copy)
    (copy / "fold1" / "stage1_best.pth").unlink()
    flags = ["--model_path", str(tmp_path), "--run_name", "first", "--mode", "train_stage2"]
    assert main.main([*flags, "--folds", "1"]) == 2
    assert "fold1/stage1_best.pth" in capsys.readouterr().err


@pytest.mark.slow
def test_folds_do_not_depend_on_the_order_of_files(run, root, command_line, tmp_path, monkeypatch):
    monkeypatch.setattr(
        os, "walk", lambda *a, _walk=os.walk, **k: ((r, d, f[::-1]) for r, d, f in _walk(*a, **k))
    )
    assert main.main(command_line(tmp_path, run_name="x", folds="0", two_stage=False)) == 0
    folds = (tmp_path / "unet_resnet34" / "x" / "folds.csv").read_text()
    assert folds == (run / "folds.csv").read_text()


def test_missing_data_is_reported_with_what_to_do(tmp_path, capsys):
    assert main.main(["--dataset_root", str(tmp_path / "nowhere")]) == 2
    message = capsys.readouterr().err
    assert "nowhere/train_images" in message
    assert "python -m datasets.prepare" in message
    assert "Traceback" not in message


def test_a_boolean_flag_without_a_value_is_refused():
    with pytest.raises(SystemExit) as stopped:
        main.main(["--two_stage"])
    assert stopped.value.code == 2


def write_masks(root, positive):
    """Empty every mask of a data set but those of these images."""
    for path in (root / "train_mask").iterdir():
        mask = np.zeros((72, 60), np.uint8)
        mask[20:40, 20:40] = 255 * (path.stem in positive)
        cv2.imwrite(str(path), mask)


def test_data_or_folds_without_positives_are_refused(command_line, tmp_path, capsys):
    """In each part of each fold of the script's own split."""
    root = write_dataset(tmp_path / "data", count=6)
    ids = sorted(path.stem for path in (root / "train_images").iterdir())
    flags = command_line(tmp_path / "runs", dataset_root=root, cache=False, two_stage=False)
    write_masks(root, [])
    assert main.main(flags) == 2
    message = capsys.readouterr().err
    assert f"no mask in {root}/train_mask has a pixel: none of the 6 images is positive" in message
    assert "--allow_empty true" in message
    write_masks(root, ids[:1])
    parts = KFold(2, shuffle=True, random_state=1).split(ids)
    for number, (train, _) in enumerate(parts):
        what = "validate" if 0 in train else "train"
        assert main.main([*flags, "--folds", str(number)]) == 2
        message = capsys.readouterr().err
        assert f"fold {number} has no positive among its 3 images to {what} on" in message
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_data_without_positives_can_be_trained_on_if_asked(command_line, tmp_path, capsys):
    root = write_dataset(tmp_path / "data", count=6)
    write_masks(root, [])
    flags = command_line(
        tmp_path, run_name="x", folds=0, dataset_root=root, two_stage=False, allow_empty=True
    )
    assert main.main([*flags, "--momentum", "0.5"]) == 0
    text = capsys.readouterr().out
    assert "no image is positive: the scores only count empty images" in text
    unused = "--image_size_stage2 (two_stage is false)"
    assert any("no effect: " in line and unused in line for line in text.splitlines())
    assert "--momentum (optimizer is adam)" in text
    # A resumed run keeps the setting, and a call can take it back.
    again = ["--model_path", str(tmp_path), "--run_name", "x", "--resume", "true", "--folds", "0"]
    assert main.main(again) == 0
    assert main.main([*again, "--allow_empty", "false"]) == 2


def write_patients(path, ids):
    rows = "".join(f"{name},p{i // 2}\n" for i, name in enumerate(ids))
    path.write_text(f"ImageId,PatientId\n{rows}")
    return path


@pytest.mark.parametrize(("known", "fits"), [(0, False), (12, False), (13, True), (14, True)])
def test_groups_that_do_not_match_the_images_are_refused(root, tmp_path, capsys, known, fits):
    """The csv must know nine in ten of 14 images; found in the data set, it is only warned of."""
    ids = sorted(path.stem for path in (root / "train_images").iterdir())
    csv_file = write_patients(tmp_path / "p.csv", [*ids[:known], "1.2.3"])
    fractions = dict.fromkeys(ids, 0.1)
    settings = config(root, groups=str(csv_file))
    if fits:
        make_table(settings, fractions, stratified=False)
    else:
        with pytest.raises(InputError, match=f"--groups .*p.csv: .* of {known} of the 14") as error:
            make_table(settings, fractions, stratified=False)
        assert f"the image {ids[known]} has no row" in str(error.value)
        assert "its id 1.2.3 is none of these images" in str(error.value)
    write_patients(tmp_path / "patients.csv", [*ids[:known], "1.2.3"])
    capsys.readouterr()
    table = make_table(config(tmp_path), fractions, stratified=False)
    assert (table["PatientId"] != "").sum() == known
    text = capsys.readouterr().out
    assert ("warning: " in text) is not fits
    assert (f"WARNING: {tmp_path}/patients.csv is not used" in text) is (known > 0)
    make_table(config(tmp_path), dict.fromkeys(ids[::2], 0.1), stratified=False)
    assert "WARNING" not in capsys.readouterr().out  # an image of each patient


def test_unmatched_groups_leave_no_run_folder(command_line, tmp_path, capsys):
    csv_file = write_patients(tmp_path / "p.csv", [f"scan{i:02d}.png" for i in range(14)])
    flags = command_line(tmp_path / "runs", run_name="x", groups=csv_file)
    assert train_sfold.main(flags) == 2
    assert "0 of the 14 images" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_encoder_weights_of_another_fold_are_warned_of(run, command_line, tmp_path, capsys):
    weights = run / "fold1" / "stage1_best.pth"
    flags = command_line(tmp_path, run_name="x", folds=0, two_stage=False, encoder_weights=weights)
    assert main.main(flags) == 0
    text = capsys.readouterr().out
    reason = f"{weights} were trained on fold 1 of run unet_resnet34/first"
    assert text.index("WARNING: the encoder weights") < text.index("stage 1 epoch 1/1")
    assert text.count(reason) == 2
    assert "NOT OUT OF FOLD" in text[text.index("stage 1 epoch 1/1") :]
    for name in ("summary", "threshold"):
        content = json.loads((tmp_path / "unet_resnet34" / "x" / f"{name}.json").read_text())
        assert content["out_of_fold"] is False
        assert reason in content["not_out_of_fold"]
        assert json.loads((run / f"{name}.json").read_text())["out_of_fold"] is True


def test_a_truncated_image_is_reported(root, command_line, tmp_path, capsys):
    copy = tmp_path / "data"
    shutil.copytree(root, copy)
    victim = copy / "train_images" / "image03.png"
    victim.write_bytes(victim.read_bytes()[:200])
    assert main.main(command_line(tmp_path, dataset_root=copy, num_workers=1)) == 2
    message = capsys.readouterr().err
    assert "image03.png" in message
    assert "Traceback" not in message


def test_the_help_describes_settings_with_units(capsys):
    with pytest.raises(SystemExit) as stopped:
        main.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "--image_size_stage1" in text
    assert "side of the square image, in pixels" in " ".join(text.split())
    assert "python main.py --config recipes/demo.yaml" in text


@pytest.mark.slow
def test_two_processes_train_one_run(command_line, tmp_path):
    """One folder, one learning rate, and equal weights, even when the encoder is thawed.

    The solver raises an error if the weights of the processes differ after a stage.
    """
    flags = command_line(tmp_path, seed=None, folds="0", accelerator="cpu", devices=2)
    flags += ["--epoch_stage1", "2", "--ema", "0.9", "--presence_weight", "0.5"]
    flags += ["--positive_share", "0.6", "--loss", "bce,dice"]
    done = subprocess.run(
        [sys.executable, "main.py", *flags], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    runs = list((tmp_path / "unet_resnet34").iterdir())
    assert len(runs) == 1
    log = (runs[0] / "fold0" / "log.txt").read_text()
    assert log.count("weights are equal on 2 processes") == 2
    assert "encoder thawed at epoch 2" in log
    settings = yaml.safe_load((runs[0] / "config.yaml").read_text())
    lr = np.random.default_rng(settings["seed"]).uniform() * settings["lr"] + 5e-7
    state = torch.load(runs[0] / "fold0" / "stage1_last.pth")
    assert state["scheduler"]["base_lrs"] == [pytest.approx(lr)]
    assert not any(key.startswith("module.") for key in state["state_dict"])
    oof = load_histograms(runs[0] / "fold0" / "oof.npz")
    assert (oof.all.sum(axis=1) == oof.height * oof.width).all()
    assert len(oof.ids) == 7


@pytest.mark.slow
def test_an_error_ends_every_process(command_line, tmp_path):
    flags = command_line(tmp_path, folds="0", accelerator="cpu", devices=2, batch_size_stage1=3)
    done = subprocess.run(
        [sys.executable, "main.py", *flags], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.count("is not divisible by the number of processes, 2") == 1


def test_a_network_that_cannot_be_built_leaves_no_run_folder(command_line, tmp_path, capsys):
    torch.save({"conv.weight": torch.ones(1)}, tmp_path / "wrong.pth")
    wrong = {"encoder_weights": tmp_path / "wrong.pth"}
    for changes, message in (
        (wrong, "do not fit the encoder's 216: conv1.weight is missing"),
        ({"model_type": "unet_resnet43"}, "did you mean 'unet_resnet34'"),
        ({"model_type": "smp:Unet:resnet43"}, "did you mean resnet34"),
    ):
        assert main.main(command_line(tmp_path / "runs", run_name="x", **changes)) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_single_images_are_refused_for_a_network_that_cannot_train_on_them(
    command_line, tmp_path, capsys
):
    changes = {"model_type": "deeplabv3plus", "batch_size_stage1": 2, "batch_size_stage2": 1}
    assert main.main(command_line(tmp_path / "runs", run_name="x", **changes)) == 2
    message = capsys.readouterr().err
    assert "--batch_size_stage2 1: a process would train on one image of 32" in message
    assert "DeepLabV3Plus" in message
    assert not (tmp_path / "runs").exists()


def test_an_invalid_image_size_is_refused_before_the_run(
    command_line, tmp_path, monkeypatch, capsys
):
    network = TinyNet()
    monkeypatch.setattr(network, "size_step", 56, raising=False)
    monkeypatch.setattr(plan, "build_model", lambda *_, **__: network)
    assert main.main(command_line(tmp_path / "runs", run_name="x")) == 2
    message = capsys.readouterr().err
    assert "--image_size_stage1 32: TinyNet needs a multiple of 56; use 56 or 112" in message
    assert not (tmp_path / "runs").exists()


def test_scales_without_effect_are_refused_before_the_run(
    command_line, tmp_path, monkeypatch, capsys
):
    """What counts is the size of the last stage: one that the network has no others near."""
    network = TinyNet()
    monkeypatch.setattr(network, "size_step", 16, raising=False)
    monkeypatch.setattr(plan, "build_model", lambda *_, **__: network)
    flags = command_line(tmp_path / "runs", run_name="x", image_size_stage1=96, tta="scales")
    assert main.main(flags) == 2
    assert "--tta scales: has no effect at 32 pixels" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("model_type", "flag", "size", "near"),
    [
        ("unet_resnet34", "image_size_stage1", 48, "a multiple of 32; use 32 or 64"),
        ("unet_resnet34", "image_size_stage2", 1000, "a multiple of 32; use 992 or 1024"),
        ("U_Net", "image_size_stage2", 1000, "a multiple of 16; use 992 or 1008"),
    ],
)
def test_only_the_network_decides_which_sizes_are_valid(
    command_line, tmp_path, capsys, model_type, flag, size, near
):
    flags = command_line(tmp_path / "runs", model_type=model_type, **{flag: size})
    assert main.main(flags) == 2
    message = capsys.readouterr().err
    assert f"--{flag} {size}: " in message
    assert near in message
    assert not (tmp_path / "runs").exists()


def test_a_size_that_only_some_networks_accept_is_trained(root, monkeypatch):
    settings = config(root, model_type="U_Net", image_size_stage1=48, image_size_stage2=80)
    try_network(settings, is_new=True)


def test_a_resumed_run_needs_no_pretrained_weights(root, tmp_path):
    settings = config(root, encoder_weights=str(tmp_path / "removed.pth"), pretrained=True)
    with pytest.raises(InputError, match=r"removed\.pth"):
        try_network(settings, is_new=True)
    assert try_network(settings, is_new=False).encoder is not None


def test_the_help_lists_the_networks(capsys):
    for command in (main, train_sfold):
        with pytest.raises(SystemExit):
            command.main(["--help"])
        text = capsys.readouterr().out
        assert all(name in text for name in model_types())
        assert "smp:ARCHITECTURE:ENCODER" in text
