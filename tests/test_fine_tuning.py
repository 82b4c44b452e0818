"""--init_from on the command line, with a tiny network: lungs first, then pneumothorax."""

import json
import shutil

import numpy as np
import pytest
import torch

import main
import solver
import train_sfold
from tests.helpers.starts import folds_of, write_trained
from tests.helpers.tiny import SETTINGS, TinyNet, as_flags, build_tiny, write_dataset
from utils.config.command_line import load_config
from utils.config.normalisation import IMAGENET, Normalisation
from utils.inference import ensemble
from utils.postprocessing import selection
from utils.training.start import initial, plan

IDS = [f"image{i:02d}" for i in range(14)]
QUICK = {"image_size_stage2": 32, "epoch_stage1": 1, "epoch_stage2": 1, "two_stage": False}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tune(root, tmp_path, monkeypatch, capsys):
    """Run a script as from a command line; return the exit code and all it printed."""
    monkeypatch.setattr(TinyNet, "size_step", 32, raising=False)
    for module in (plan, solver, ensemble):
        monkeypatch.setattr(module, "build_model", build_tiny)
    monkeypatch.setattr(selection, "draw_threshold", lambda *_: np.zeros((1, 1, 3), np.uint8))

    def run(script=main, **changes):
        settings = SETTINGS | QUICK | {"dataset_root": root, "model_path": tmp_path}
        settings = {k: v for k, v in (settings | changes).items() if v is not None}
        capsys.readouterr()
        code = script.main(as_flags(settings))
        return code, "".join(capsys.readouterr())

    return run


def content_of(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def test_every_fold_starts_from_the_same_fold_of_a_run_with_the_same_folds(tune, tmp_path):
    first, second = (tmp_path / "unet_resnet34" / name for name in ("first", "second"))
    write_trained(first, folds_of(IDS, 2), TinyNet(), two_stage=False)
    code, text = tune(run_name="second", init_from=first, pretrained=None)
    assert code == 0, text
    assert "no pretrained weights" not in text
    for fold in (0, 1):
        log = (second / f"fold{fold}" / "log.txt").read_text()
        assert f"from run unet_resnet34/first, fold {fold}, stage 1 (epoch 3)" in log
        assert "encoder frozen at epoch 1" in log
    assert content_of(second, "summary")["out_of_fold"]
    assert not (second / "leakage.json").exists()
    shutil.rmtree(first)
    assert tune(run_name="second", resume=True, pretrained=None)[0] == 0
    for name in ("second", "other"):
        (second / "fold1" / "stage1_last.pth").unlink(missing_ok=True)
        (second / "fold1" / "oof.npz").unlink(missing_ok=True)
        code, text = tune(run_name="second", resume=True, init_from=tmp_path / name)
        assert code == 2
        assert f"init_from {first} -> {tmp_path / name}" in text
    code, text = tune(run_name="second", resume=True, pretrained=None)
    assert code == 2
    assert f"--init_from {first}: is neither a checkpoint nor the folder of a run" in text


def test_a_run_saves_the_normalisation_that_its_pretrained_weights_want(
    tune, tmp_path, monkeypatch
):
    """A resumed run keeps it, and a run from one of its networks takes it over."""
    monkeypatch.setattr(initial, "wanted_by", lambda _: Normalisation((0.5, 0.5, 0.5), (0.25,) * 3))
    folder = tmp_path / "unet_resnet34"
    code, text = tune(run_name="first", pretrained=True, folds=0)
    assert code == 0, text
    assert text.count("--input_mean 0.5,0.5,0.5 --input_std 0.25,0.25,0.25") == 1
    monkeypatch.setattr(initial, "wanted_by", lambda _: IMAGENET)
    assert tune(run_name="first", resume=True, pretrained=None)[0] == 0
    path = folder / "first" / "fold1" / "stage1_best.pth"
    assert torch.load(path)["config"]["input_std"] == "0.25,0.25,0.25"
    for name, flags in (
        ("tuned", {"init_from": path, "pretrained": None}),
        ("other", {"encoder_weights": path}),
    ):
        code, text = tune(run_name=name, folds=1, **flags)
        assert code == 0, text
        assert load_config(folder / name / "config.yaml").normalisation.std == (0.25, 0.25, 0.25)
    given = {"input_mean": 0.5, "input_std": 0.5}
    code, text = tune(run_name="given", folds=1, init_from=path, pretrained=None, **given)
    assert code == 0, text
    assert "warning: the weights to start from want --input_mean 0.5,0.5,0.5 --input" in text
    assert load_config(folder / "given" / "config.yaml").normalisation.std == (0.5, 0.5, 0.5)


def test_a_run_from_scratch_is_normalised_as_imagenet_and_so_is_one_without_the_setting(
    tune, tmp_path
):
    assert tune(run_name="first", folds=0)[0] == 0
    path = tmp_path / "unet_resnet34" / "first" / "config.yaml"
    assert load_config(path).input_mean == "0.485,0.456,0.406"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("input_")]
    path.write_text("\n".join(lines))
    assert load_config(path).input_mean is None
    assert load_config(path).normalisation == IMAGENET


def test_a_run_begun_otherwise_does_not_start_from_a_network_when_resumed(tune, root, tmp_path):
    write_trained(tmp_path / "runs/unet_resnet34/first", folds_of(["a", "b", "c"], 2))
    flags = {"run_name": "first", "model_path": tmp_path / "runs", "resume": True}
    code, text = tune(**flags, init_from=tmp_path / "runs/unet_resnet34/first")
    assert code == 2
    assert "was started with other settings: " in text
    assert f"init_from None -> {tmp_path}/runs/unet_resnet34/first" in text


def test_a_run_with_other_folds_is_refused_and_one_of_its_networks_marks_the_scores(tune, tmp_path):
    other = tmp_path / "lungs/unet_resnet34/other"
    write_trained(other, folds_of(IDS[3:], 2), TinyNet(), two_stage=False)
    code, text = tune(run_name="x", init_from=other, pretrained=None)
    assert code == 2
    assert "fold 0 cannot start from fold 0 of that run: the network" in text
    assert not (tmp_path / "unet_resnet34").exists()
    path = other / "fold1" / "stage1_best.pth"
    code, text = tune(train_sfold, run_name="x", init_from=path, pretrained=None, folds=0)
    assert code == 0, text
    reason = f"the network {path} was trained on fold 1 of run unet_resnet34/other"
    assert text.index(f"WARNING: {reason}") < text.index("stage 1 epoch 1/1")
    run = tmp_path / "unet_resnet34" / "x"
    for name in ("summary", "threshold"):
        assert reason in content_of(run, name)["not_out_of_fold"]


def test_lungs_then_pneumothorax(tune, tmp_path):
    """Runs that share no image, of other numbers of folds."""
    lungs = tmp_path / "lungs/unet_resnet34/lungs"
    write_trained(lungs, folds_of([f"lung{i}" for i in range(9)], 3), TinyNet())
    code, text = tune(run_name="x", init_from=lungs, pretrained=None, folds=1, ema=0.9)
    assert code == 0, text
    assert "from run unet_resnet34/lungs, fold 1, stage 2 (epoch 3)" in text
    assert content_of(tmp_path / "unet_resnet34" / "x", "summary")["out_of_fold"]
    code, text = tune(run_name="y", init_from=lungs, pretrained=None, n_splits=4, folds="0,3")
    assert code == 2
    assert "fold 3 has no network to start from" in text
    code, text = tune(run_name="z", init_from=lungs, pretrained=None, model_type="linknet")
    assert code == 2
    assert "model_type unet_resnet34 -> linknet" in text
