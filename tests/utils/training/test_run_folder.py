"""The folder of a run: begun, found again, and guarded against other settings."""

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
    """Open a run as a command line with these flags would."""

    def open_with(**settings):
        config = Config(model_path=str(tmp_path), **settings)
        return open_run(config, frozenset(settings) | {"model_path"})

    return open_with


@pytest.fixture
def begin(call):
    """Open a new run and write its folder; later ones are newer."""
    count = iter(range(1, 100))

    def begin_with(**settings):
        config, folder = call(**settings)
        create_run(config, frozenset(settings), folder)
        os.utime(folder / "config.yaml", (next(count) * 1000,) * 2)
        return config, folder

    return begin_with


def test_a_new_run_has_its_settings_name_and_seed_stored(begin, tmp_path):
    config, folder = begin(run_name="first", seed=7, lr=0.5)
    assert folder == tmp_path / "unet_resnet34" / "first"
    assert load_config(folder / "config.yaml") == config
    assert (config.run_name, config.seed, config.lr) == ("first", 7, 0.5)
    assert "torch" in json.loads((folder / "environment.json").read_text())["packages"]


def test_opening_writes_nothing(call, tmp_path):
    call(run_name="first")
    assert list(tmp_path.iterdir()) == []


def test_name_and_seed_are_drawn_where_not_given(begin):
    config, folder = begin()
    assert folder.name == config.run_name
    assert config.run_name[:2] == "20"
    seeds = {begin(run_name=f"r{i}")[0].seed for i in range(5)}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert load_config(folder / "config.yaml").seed == config.seed


def test_a_run_goes_on_with_the_settings_it_was_begun_with(begin, call):
    begun, folder = begin(run_name="first", seed=7, lr=0.5, clahe=False)
    config, again = call(run_name="first", resume=True)
    assert again == folder
    assert config == replace(begun, resume=True)
    same, _ = call(run_name="first", resume=True, lr=0.5, seed=7)
    assert same == config


def test_what_cannot_change_the_learning_may_change_and_is_said(begin, call, capsys):
    begun, _ = begin(run_name="first", seed=7)
    changes = {"folds": "1", "num_workers": 3, "devices": 1, "dataset_root": "/moved"}
    config, _ = call(run_name="first", **changes)
    assert config == replace(begun, **changes)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 3  # which folds to train is not a change
    assert "run first: dataset_root is now /moved, was ./datasets/SIIM_data" in said


def test_what_one_call_asks_for_is_not_remembered(begin, call):
    begin(run_name="first", seed=7, folds="1")
    assert call(run_name="first", resume=True)[0].folds == "all"
    config, _ = call(run_name="first", mode="train_stage2")
    assert (config.mode, config.resume) == ("train_stage2", False)


def test_a_run_that_goes_on_is_not_written_again(begin, call):
    _, folder = begin(run_name="first", seed=7)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    config, _ = call(run_name="first", folds="1", resume=True)
    create_run(config, frozenset(), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_other_settings_are_refused_each_by_name(begin, call):
    begin(run_name="first", seed=7)
    with pytest.raises(InputError) as refused:
        call(run_name="first", resume=True, lr=0.5, n_splits=3, folds="1", seed=8)
    message = str(refused.value)
    for change in ("lr 0.0002 -> 0.5", "n_splits 5 -> 3", "seed 7 -> 8"):
        assert change in message
    assert "folds" not in message
    assert "Leave them out to continue it" in message


def test_what_this_call_says_is_checked_together_with_the_settings_of_the_run(begin, call):
    """By itself each call says nothing wrong: the run has one stage and two folds."""
    begin(run_name="first", seed=7, two_stage=False, n_splits=2)
    with pytest.raises(InputError, match="--mode train_stage2: there is no stage 2"):
        call(run_name="first", mode="train_stage2")
    with pytest.raises(InputError, match="--folds 3: give all, or fold numbers from 0 to 1"):
        call(run_name="first", resume=True, folds="3")


def test_a_batch_size_may_change_until_a_fold_begins_the_stage(begin, call):
    begun, folder = begin(run_name="first", seed=7, n_splits=2)
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
    assert config == replace(begun, resume=True, batch_size_stage2=2)


def test_a_changed_batch_size_is_remembered_and_nothing_else(begin, call):
    begun, folder = begin(run_name="first", seed=7)
    config, _ = call(run_name="first", resume=True, batch_size_stage2=2, num_workers=3)
    create_run(config, frozenset(), folder)
    assert load_config(folder / "config.yaml") == replace(begun, batch_size_stage2=2)
    assert call(run_name="first", resume=True)[0].batch_size_stage2 == 2


def test_of_two_that_begin_one_run_at_once_the_second_takes_the_settings_of_the_first(call):
    """Both find no run, and both draw a seed."""
    (one, folder), (two, _) = call(run_name="both", folds="0"), call(run_name="both", folds="1")
    assert one.seed != two.seed
    given = frozenset({"run_name", "folds"})
    assert create_run(one, given, folder) == one
    assert begin_again(two, given, folder) == replace(one, folds="1")
    assert load_config(folder / "config.yaml") == one
    with pytest.raises(InputError, match=r"lr 0\.0002 -> 0\.5"):
        begin_again(replace(two, lr=0.5), given | {"lr"}, folder)


def begin_again(config, given, folder):
    """Begin a run that came to be between the look for it and now."""
    real = Path.exists
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "exists", lambda path: path.name != "config.yaml" and real(path))
        return create_run(config, given, folder)


def test_last_is_the_newest_run_of_any_network(begin, call):
    begin(run_name="b", seed=1)
    begin(run_name="a", seed=2, model_type="another")
    assert call(run_name="last", resume=True)[0].run_name == "a"
    assert call(run_name="last", resume=True, model_type="unet_resnet34")[0].run_name == "b"


def test_one_name_under_two_networks_needs_the_network(begin, call):
    begin(run_name="x", seed=1, model_type="unet_resnet34")
    begin(run_name="x", seed=2, model_type="another")
    with pytest.raises(InputError, match=r"2 runs are named x; .* --model_type: .*unet_resnet34"):
        call(run_name="x", resume=True)
    assert call(run_name="x", resume=True, model_type="another")[0].seed == 2


@pytest.mark.parametrize("settings", [{"resume": True}, {"mode": "train_stage2"}])
def test_a_run_that_is_not_there_is_answered_with_those_that_are(begin, call, settings):
    with pytest.raises(InputError, match=r"no run 'x' under .*; there are no runs yet"):
        call(run_name="x", **settings)
    begin(run_name="first", seed=1)
    with pytest.raises(InputError, match="existing runs: unet_resnet34/first"):
        call(run_name="x", **settings)


def test_last_does_not_begin_a_run(call):
    with pytest.raises(InputError, match="no run 'last'"):
        call(run_name="last")


@pytest.mark.parametrize("name", ["[a]", "a*", "what?"])
def test_a_name_is_not_a_pattern(begin, call, name):
    begin(run_name="a", seed=1)
    begin(run_name="whatx", seed=1)
    begun, folder = begin(run_name=name, seed=2)
    assert folder.name == name
    assert call(run_name=name, resume=True) == (replace(begun, resume=True), folder)


def test_a_damaged_run_is_named(begin, call):
    _, folder = begin(run_name="first", seed=1)
    (folder / "config.yaml").write_text("lr: [")
    with pytest.raises(InputError, match=r"first/config\.yaml cannot be read"):
        call(run_name="first", resume=True)
