"""The folder of a run: created, reopened, and protected against changed settings."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from utils.config.command_line import load_config
from utils.config.settings import Config
from utils.errors import InputError
from utils.training.run_folder import create_run, open_run


@pytest.fixture
def call(tmp_path):
    """Open a run as from a command line with these flags."""

    def open_with(**settings):
        config = Config(model_path=str(tmp_path), **settings)
        return open_run(config, frozenset(settings) | {"model_path"})

    return open_with


@pytest.fixture
def create(call):
    """Create a new run; each has a later time stamp than the one before."""
    count = iter(range(1, 100))

    def create_with(**settings):
        config, folder = call(**settings)
        create_run(config, frozenset(settings), folder)
        os.utime(folder / "config.yaml", (next(count) * 1000,) * 2)
        return config, folder

    return create_with


def test_a_new_run_saves_its_settings_name_and_seed(create, tmp_path):
    config, folder = create(run_name="first", seed=7, lr=0.5)
    assert folder == tmp_path / "unet_resnet34" / "first"
    assert load_config(folder / "config.yaml") == config
    assert (config.run_name, config.seed, config.lr) == ("first", 7, 0.5)
    assert "torch" in json.loads((folder / "environment.json").read_text())["packages"]


def test_opening_writes_nothing(call, tmp_path):
    call(run_name="first")
    assert list(tmp_path.iterdir()) == []


def test_name_and_seed_have_defaults(create):
    config, folder = create()
    assert folder.name == config.run_name
    assert config.run_name[:2] == "20"
    seeds = {create(run_name=f"r{i}")[0].seed for i in range(5)}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert load_config(folder / "config.yaml").seed == config.seed


def test_a_resumed_run_keeps_its_settings(create, call):
    saved, folder = create(run_name="first", seed=7, lr=0.5, clahe=False)
    config, again = call(run_name="first", resume=True)
    assert again == folder
    assert config == replace(saved, resume=True)
    same, _ = call(run_name="first", resume=True, lr=0.5, seed=7)
    assert same == config


def test_settings_that_cannot_change_the_result_may_change_and_are_printed(create, call, capsys):
    saved, _ = create(run_name="first", seed=7)
    changes = {"folds": "1", "num_workers": 3, "devices": 1, "dataset_root": "/moved"}
    config, _ = call(run_name="first", **changes)
    assert config == replace(saved, **changes)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3  # the folds to train are not a change
    assert "run first: dataset_root changed from ./datasets/SIIM_data to /moved" in lines


def test_settings_of_a_single_call_are_not_saved(create, call):
    create(run_name="first", seed=7, folds="1")
    assert call(run_name="first", resume=True)[0].folds == "all"
    config, _ = call(run_name="first", mode="train_stage2")
    assert (config.mode, config.resume) == ("train_stage2", False)


def test_a_resumed_run_is_not_rewritten(create, call):
    _, folder = create(run_name="first", seed=7)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    config, _ = call(run_name="first", folds="1", resume=True)
    create_run(config, frozenset(), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_changed_settings_are_refused_by_name(create, call):
    create(run_name="first", seed=7)
    with pytest.raises(InputError) as refused:
        call(run_name="first", resume=True, lr=0.5, n_splits=3, folds="1", seed=8)
    message = str(refused.value)
    for change in ("lr 0.0002 -> 0.5", "n_splits 5 -> 3", "seed 7 -> 8"):
        assert change in message
    assert "folds" not in message
    assert "Omit these flags to continue it" in message


def test_the_flags_of_a_call_are_checked_against_the_saved_settings(create, call):
    """Each call is valid on its own, but the run has one stage and two folds."""
    create(run_name="first", seed=7, two_stage=False, n_splits=2)
    with pytest.raises(InputError, match="--mode train_stage2: there is no stage 2"):
        call(run_name="first", mode="train_stage2")
    with pytest.raises(InputError, match="--folds 3: give all, or fold numbers from 0 to 1"):
        call(run_name="first", resume=True, folds="3")


def test_a_batch_size_may_change_until_a_fold_starts_the_stage(create, call):
    saved, folder = create(run_name="first", seed=7, n_splits=2)
    for fold in ("fold0", "fold1"):
        (folder / fold).mkdir()
    checkpoint = folder / "fold1" / "stage2_last.pth"
    checkpoint.touch()
    with pytest.raises(InputError, match="batch_size_stage2 4 -> 2"):
        call(run_name="first", resume=True, batch_size_stage2=2)
    for allowed in ({"batch_size_stage1": 2}, {"batch_size_stage2": 2, "folds": 0}):
        assert call(run_name="first", resume=True, **allowed)[0].seed == 7
    (folder / "fold1" / "oof.npz").touch()  # a finished fold is not trained again
    config, _ = call(run_name="first", resume=True, batch_size_stage2=2)
    assert config == replace(saved, resume=True, batch_size_stage2=2)


def test_only_a_changed_batch_size_is_saved(create, call):
    saved, folder = create(run_name="first", seed=7)
    config, _ = call(run_name="first", resume=True, batch_size_stage2=2, num_workers=3)
    create_run(config, frozenset(), folder)
    assert load_config(folder / "config.yaml") == replace(saved, batch_size_stage2=2)
    assert call(run_name="first", resume=True)[0].batch_size_stage2 == 2


def test_of_two_processes_that_create_a_run_the_second_uses_the_settings_of_the_first(call):
    """Neither finds a run, and each draws a seed."""
    (one, folder), (two, _) = call(run_name="both", folds="0"), call(run_name="both", folds="1")
    assert one.seed != two.seed
    given = frozenset({"run_name", "folds"})
    assert create_run(one, given, folder) == one
    assert create_again(two, given, folder) == replace(one, folds="1")
    assert load_config(folder / "config.yaml") == one
    with pytest.raises(InputError, match=r"lr 0\.0002 -> 0\.5"):
        create_again(replace(two, lr=0.5), given | {"lr"}, folder)


def create_again(config, given, folder):
    """Create a run that another process created after this one had looked for it."""
    real = Path.exists
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "exists", lambda path: path.name != "config.yaml" and real(path))
        return create_run(config, given, folder)


def test_last_is_the_newest_run_of_any_network(create, call):
    create(run_name="b", seed=1)
    create(run_name="a", seed=2, model_type="another")
    assert call(run_name="last", resume=True)[0].run_name == "a"
    assert call(run_name="last", resume=True, model_type="unet_resnet34")[0].run_name == "b"


def test_a_name_used_by_two_networks_needs_the_network(create, call):
    create(run_name="x", seed=1, model_type="unet_resnet34")
    create(run_name="x", seed=2, model_type="another")
    with pytest.raises(InputError, match=r"2 runs are named x; .* --model_type: .*unet_resnet34"):
        call(run_name="x", resume=True)
    assert call(run_name="x", resume=True, model_type="another")[0].seed == 2


@pytest.mark.parametrize("settings", [{"resume": True}, {"mode": "train_stage2"}])
def test_the_error_for_a_missing_run_lists_the_existing_ones(create, call, settings):
    with pytest.raises(InputError, match=r"no run 'x' under .*; there are no runs yet"):
        call(run_name="x", **settings)
    create(run_name="first", seed=1)
    with pytest.raises(InputError, match="existing runs: unet_resnet34/first"):
        call(run_name="x", **settings)


def test_last_does_not_create_a_run(call):
    with pytest.raises(InputError, match="no run 'last'"):
        call(run_name="last")


@pytest.mark.parametrize("name", ["[a]", "a*", "what?"])
def test_a_name_is_not_a_pattern(create, call, name):
    create(run_name="a", seed=1)
    create(run_name="whatx", seed=1)
    saved, folder = create(run_name=name, seed=2)
    assert folder.name == name
    assert call(run_name=name, resume=True) == (replace(saved, resume=True), folder)


def test_a_damaged_run_is_named(create, call):
    _, folder = create(run_name="first", seed=1)
    (folder / "config.yaml").write_text("lr: [")
    with pytest.raises(InputError, match=r"first/config\.yaml cannot be read"):
        call(run_name="first", resume=True)
