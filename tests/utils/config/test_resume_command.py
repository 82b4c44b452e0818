"""The printed command, read back by a shell and by the parser, does the same work."""

import shlex
import shutil
import sys
from pathlib import Path

import pytest

from utils.config import resume_command as module
from utils.config.command_line import parse_config
from utils.config.resume_command import resume_command
from utils.training.start import run_folder
from utils.training.start.run_folder import create_run, hold_run, make_folder, open_run


@pytest.fixture(autouse=True)
def started_plainly(monkeypatch):
    """As if main.py had been started, without a launcher and with all GPUs."""
    monkeypatch.setattr(run_folder, "describe_environment", dict)  # takes time
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["main.py"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "main.py"])


def start(*flags):
    """Start or continue a run; return its settings and its folder."""
    config, given = parse_config(list(flags), "")
    is_named = config.run_name is not None
    config, folder = open_run(config, given)
    folder = make_folder(folder, is_named)
    with hold_run(folder):
        return create_run(config, given, folder), folder


def read_back(command):
    """Return the settings of a printed command, which begins with `python SCRIPT`."""
    config, given = parse_config(shlex.split(command)[2:], "")
    return open_run(config, given)


@pytest.mark.parametrize(
    "flags",
    [
        "--run_name x --folds 0",
        "--run_name x --folds 0,3 --batch_size_stage1 1 --two_stage false",
        "--folds 1",
        "--run_name x --n_splits 10 --folds 7",
        "--run_name x --folds 2 --mode train_stage2",
        "--run_name x --num_workers 1 --accelerator cpu --devices 2 --cache false",
        "--run_name=-x --seed 3",
        "--run_name 'a b; $(c) '\"'it'\"",
        "--run_name größe_日本",
        "--run_name 007",
        "--run_name 1e3",
        "--model_path 'my runs' --run_name x --dataset_root \"d'ata\" --exclude 'a b.txt'",
    ],
)
def test_the_command_does_the_same_work(flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "train_stage2" in flags:
        start("--run_name", "x")
    config, folder = start(*shlex.split(flags))
    continued, again = read_back(resume_command(config, folder))
    assert again == folder
    assert vars(continued) == vars(config) | {"resume": True}


def test_what_a_later_call_changed_is_in_its_command(tmp_path, monkeypatch):
    """The saved run has other workers, another data set and a list of exclusions."""
    monkeypatch.chdir(tmp_path)
    start("--run_name", "x", "--num_workers", "2", "--exclude", "list.txt", "--allow_empty", "true")
    changes = "--num_workers 0 --dataset_root moved --exclude null --allow_empty false --folds 1,2"
    config, folder = start("--run_name", "x", "--resume", "true", *changes.split())
    assert (config.num_workers, config.exclude) == (0, None)
    command = resume_command(config, folder)
    assert read_back(command)[0] == config
    expected = "python main.py --run_name x --resume true --folds 1,2 --exclude null "
    assert command == expected + "--allow_empty false --num_workers 0 --dataset_root moved"


def test_the_network_is_named_where_another_has_a_run_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, folder = start("--run_name", "x", "--model_type", "linknet")
    assert "--model_type" not in resume_command(config, folder)
    start("--run_name", "x", "--model_type", "U_Net")
    command = resume_command(config, folder)
    assert "--model_type linknet" in command
    assert read_back(command)[1] == folder


@pytest.mark.parametrize("place", ["checkpoints/unet_resnet34/copy", "runs/unet_resnet34/x"])
def test_a_copied_run_is_named_after_its_folder(tmp_path, monkeypatch, capsys, place):
    monkeypatch.chdir(tmp_path)
    _, folder = start("--model_path", "elsewhere", "--run_name", "x")
    copied = Path(place)
    shutil.copytree(folder, copied)
    flags = ["--run_name", copied.name]
    flags += ["--model_path", "runs"] if copied.parts[0] == "runs" else []
    config, found = start(*flags, "--resume", "true")
    assert found == copied
    assert "changed" not in capsys.readouterr().out
    assert read_back(resume_command(config, found))[1] == copied


TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "1"}
MACHINES = {"GROUP_WORLD_SIZE": "2", "GROUP_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("environment", "start_words"),
    [
        ({}, ".venv/bin/python '/my code/train_sfold.py'"),
        (
            {"CUDA_VISIBLE_DEVICES": "0,2"},
            "CUDA_VISIBLE_DEVICES=0,2 .venv/bin/python '/my code/train_sfold.py'",
        ),
        (
            {"CUDA_VISIBLE_DEVICES": "0", "SLURM_JOB_ID": "7"},
            ".venv/bin/python '/my code/train_sfold.py'",
        ),
        (TORCHRUN, "torchrun --nproc_per_node 4 '/my code/train_sfold.py'"),
        (
            TORCHRUN | MACHINES,
            "torchrun --nproc_per_node 4 --nnodes 2 --node_rank 0 --master_addr a --master_port "
            "29500 '/my code/train_sfold.py'",
        ),
    ],
)
def test_the_command_starts_the_script_as_it_was_started(environment, start_words, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/my code/train_sfold.py", "--folds", "0"])
    monkeypatch.setattr(sys, "orig_argv", [".venv/bin/python", *sys.argv])
    assert module._describe_start(environment) == start_words
