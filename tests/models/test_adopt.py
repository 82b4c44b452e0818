"""Runs created from checkpoints of the original repository and of backboned-unet."""

import numpy as np
import pytest
import torch

import main as training
import predict
from models.adopt import main
from models.backboned_unet import Unet
from models.build import build_model
from tests.helpers.tiny import SETTINGS, as_flags, write_dataset
from utils.commands.adopt import read_weights
from utils.config.settings import Config
from utils.errors import InputError

IMAGE = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def old_network(seed):
    torch.manual_seed(seed)
    network = Unet("resnet34", pretrained=False, classes=1)
    network.train()(IMAGE.expand(2, -1, -1, -1) + torch.randn(2, 3, 64, 64))
    return network.eval()


def old_state(network, prefix=""):
    """Return a state dict of backboned-unet, which also has a classifier."""
    state = network.state_dict()
    state |= {"backbone.fc.weight": torch.ones(1000, 512), "backbone.fc.bias": torch.ones(1000)}
    return {prefix + key: value for key, value in state.items()}


def original(network):
    """Return a checkpoint of the original repository, whose best Dice is a numpy number."""
    optimizer = torch.optim.Adam(network.final_conv.parameters(), lr=2e-4)
    network(IMAGE).mean().backward()
    optimizer.step()
    return {
        "epoch": 12,
        "state_dict": old_state(network, "module."),
        "max_dice": np.float64(0.8419),
        "optimizer": optimizer.state_dict(),
        "lr": 1e-4,
    }


FORMATS = {
    "original": original,
    "package": old_state,
    "wrapped package": lambda network: old_state(network, "module."),
}


@pytest.mark.parametrize("checkpoint_format", FORMATS)
def test_every_format_yields_the_same_output(checkpoint_format, tmp_path):
    network = old_network(0)
    torch.save(FORMATS[checkpoint_format](network), tmp_path / "old.pth")
    ours = build_model("unet_resnet34", pretrained=False)
    ours.load_state_dict(read_weights(tmp_path / "old.pth", Config()))
    with torch.no_grad():
        assert torch.equal(ours.eval()(IMAGE), network(IMAGE))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("tiny"), count=6)


@pytest.fixture(scope="module")
def old_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("old") / "old.pth"
    torch.save(original(old_network(0)), path)
    return path


@pytest.fixture
def adopt(tmp_path):
    def run(*checkpoints, **settings):
        flags = as_flags({"model_path": tmp_path, "run_name": "old"} | settings)
        return main(["--checkpoint", *map(str, checkpoints), *flags])

    return run


QUICK = SETTINGS | {"image_size_stage2": 32, "epoch_stage2": 1, "epoch_stage1_freeze": 0}


def test_an_adopted_run_predicts_and_chooses_thresholds(adopt, old_file, root, tmp_path):
    assert adopt(old_file, **QUICK, dataset_root=root, folds=1) == 0
    run = tmp_path / "unet_resnet34" / "old"
    out = tmp_path / "submission.csv"
    rule = {"threshold": 0.5, "min_area": 1, "top_threshold": 0.5}
    flags = as_flags({"run": run, "out": out, "num_workers": 0, "folds": 1} | rule)
    assert predict.main([*flags, "--images", str(root / "train_images")]) == 0
    assert len(out.read_text().splitlines()) == 7
    before = (run / "fold1" / "stage2_best.pth").read_bytes()
    name = ["--model_path", str(tmp_path), "--run_name", "old"]
    assert training.main([*name, "--resume", "true", "--folds", "1"]) == 0
    assert (run / "threshold.json").exists()
    assert (run / "fold1" / "stage2_best.pth").read_bytes() == before


@pytest.mark.slow
def test_stage_two_starts_from_an_adopted_stage_one(adopt, old_file, root, tmp_path):
    settings = QUICK | {"dataset_root": root, "lr_stage2": 1e-30, "stage": 1, "folds": 0}
    assert adopt(old_file, **settings) == 0
    folder = tmp_path / "unet_resnet34" / "old" / "fold0"
    assert {path.name for path in folder.iterdir()} == {"stage1_best.pth", "stage1_last.pth"}
    name = ["--model_path", str(tmp_path), "--run_name", "old"]
    assert training.main([*name, "--mode", "train_stage2", "--folds", "0"]) == 0
    trained = torch.load(folder / "stage2_last.pth")["state_dict"]
    old = read_weights(old_file, Config())
    for key in (key for key in old if "running" not in key and "num_batches" not in key):
        torch.testing.assert_close(trained[key], old[key], msg=key)


def test_checkpoints_that_do_not_fit_are_refused_and_nothing_is_written(
    adopt, old_file, tmp_path, capsys
):
    torch.save({"state_dict": {"conv.weight": torch.ones(1)}}, tmp_path / "bad.pth")
    torch.save({"epoch": 3}, tmp_path / "empty.pth")
    for name in ("bad.pth", "empty.pth"):
        assert adopt(old_file, tmp_path / name, folds="0,1") == 2
        message = capsys.readouterr().err
        assert f"{name} has no weights that fit --model_type unet_resnet34 (Error(s) in " in message
        assert 'Unet: Missing key(s) in state_dict: "backbone.conv1.weight", ' in message
        assert message.endswith(" ...); set the --model_type that was trained\n")
        assert message.count("\n") == 1
    assert not (tmp_path / "unet_resnet34").exists()


def test_a_presence_head_is_adopted_only_with_its_weights(tmp_path):
    settings = Config(model_type="unet_resnet18", presence_weight=0.5)
    for has_head in (False, True):
        network = build_model("unet_resnet18", pretrained=False, presence_head=has_head)
        torch.save(network.state_dict(), tmp_path / f"{has_head}.pth")
    expected = r"Missing key.*\"presence_head.*--presence_weight 0 if that had no presence head$"
    with pytest.raises(InputError, match=expected):
        read_weights(tmp_path / "False.pth", settings)
    assert read_weights(tmp_path / "True.pth", settings).keys() == network.state_dict().keys()


def test_every_fold_needs_a_checkpoint(adopt, old_file, capsys):
    assert adopt(old_file) == 2
    assert "has 1 files for 5 folds" in capsys.readouterr().err


def test_a_run_is_not_overwritten(adopt, old_file, capsys):
    assert adopt(old_file, folds="0") == 0
    assert adopt(old_file, folds="0") == 2
    assert "exists already" in capsys.readouterr().err
