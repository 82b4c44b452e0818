"""The folder of a run: created, reopened, and protected against changed settings."""

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from utils import files
from utils.config.command_line import load_config
from utils.config.settings import Config
from utils.errors import InputError
from utils.training.start import run_folder
from utils.training.start.run_folder import (
    check_fold,
    check_precision,
    claim_fold,
    create_run,
    lock_fold,
    make_folder,
    open_run,
    settle_precision,
)

REPOSITORY = Path(__file__).parents[4]


@pytest.fixture(autouse=True, scope="module")
def environment():
    """Describe the environment once, which takes time."""
    with pytest.MonkeyPatch.context() as patch:
        described = run_folder.describe_environment()
        patch.setattr(run_folder, "describe_environment", lambda: described)
        yield


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
        folder.mkdir(parents=True, exist_ok=True)
        config = create_run(config, frozenset(settings), folder)
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


def test_some_settings_may_change_and_are_printed(create, call, capsys):
    saved, _ = create(run_name="first", seed=7)
    changes = {"folds": "1", "num_workers": 3, "devices": 1, "dataset_root": "/moved"}
    config, _ = call(run_name="first", **changes)
    assert config == replace(saved, **changes)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3  # the folds to train are not a change
    assert "run first: dataset_root changed from ./datasets/SIIM_data to /moved" in lines
    note = ", which can change the results a little"
    assert f"run first: devices changed from auto to 1{note}" in lines
    assert sum(note in line for line in lines) == 1


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


@pytest.fixture
def on_cpu(monkeypatch):
    """Choose whether this machine, which has no GPU, computes bfloat16 natively."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def choose(native):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})

    return choose


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_run_keeps_the_precision_of_the_device_that_started_it(
    create, tmp_path, on_cpu, native, precision
):
    new = Config(model_path=str(tmp_path), run_name="first")
    on_cpu(native)
    settled = settle_precision(new, frozenset({"run_name"}))
    assert settled == replace(new, precision=precision)
    create(run_name="first", precision=settled.precision)
    on_cpu(not native)
    for given in ({"run_name"}, {"run_name", "precision"}):
        resumed = replace(new, resume=True)
        assert settle_precision(resumed, frozenset(given)).precision == precision
        assert open_run(resumed, frozenset(given))[0].precision == precision
    with pytest.raises(InputError, match=f"precision {precision} -> 16-mixed"):
        open_run(replace(new, precision="16-mixed"), frozenset({"run_name", "precision"}))


def test_a_run_that_saved_auto_keeps_auto(create, tmp_path, on_cpu):
    """As versions did that resolved nothing; it means what it did then."""
    create(run_name="old")
    on_cpu(True)
    resumed = Config(model_path=str(tmp_path), run_name="old", resume=True)
    settled = settle_precision(resumed, frozenset({"run_name", "resume"}))
    assert (settled.precision, settled.memory_format) == ("auto", "auto")
    check_precision(settled, settled, tmp_path)


def test_a_run_is_launched_as_it_was_saved(create, tmp_path):
    saved = {"accelerator": "cpu", "devices": 2, "num_nodes": 3, "deterministic": True}
    create(run_name="first", precision="32-true", **saved)
    resumed = Config(model_path=str(tmp_path), run_name="first", resume=True)
    settled = settle_precision(resumed, frozenset({"run_name", "resume"}))
    assert {name: getattr(settled, name) for name in saved} == saved
    one = settle_precision(replace(resumed, devices=1), frozenset({"run_name", "devices"}))
    assert one.devices == 1


def test_a_copy_of_a_run_is_not_taken_for_the_run(create, tmp_path):
    """Its config.yaml has the name of the run that it was copied from."""
    _, folder = create(run_name="first")
    shutil.copytree(folder, folder.with_name("copy"))
    resumed = Config(model_path=str(tmp_path), run_name="copy", resume=True)
    settled = settle_precision(resumed, frozenset({"run_name", "resume"}))
    assert open_run(settled, frozenset({"run_name", "resume"}))[1] == folder.with_name("copy")


def test_a_run_that_another_device_created_meanwhile_is_not_trained_otherwise(tmp_path):
    mine, saved = Config(precision="bf16-mixed"), Config(precision="32-true")
    check_precision(mine, mine, tmp_path)
    with pytest.raises(InputError, match="precision 32-true, and this process with bf16-mixed"):
        check_precision(mine, saved, tmp_path)


def test_changed_settings_are_refused_by_name(create, call):
    create(run_name="first", seed=7)
    with pytest.raises(InputError) as refused:
        call(run_name="first", resume=True, lr=0.5, n_splits=3, folds="1", seed=8)
    message = str(refused.value)
    for change in ("lr 0.0002 -> 0.5", "n_splits 5 -> 3", "seed 7 -> 8"):
        assert change in message
    assert "folds" not in message
    assert "Omit these flags to continue it" in message


def test_the_csv_of_patients_may_lie_elsewhere(create, call, tmp_path):
    create(run_name="first", groups="patients.csv")
    moved = str(tmp_path / "patients.csv")
    assert call(run_name="first", resume=True, groups=moved)[0].groups == moved


def test_the_command_for_thresholds_with_another_tta_is_named(create, call):
    create(run_name="a")
    with pytest.raises(InputError, match="tta none -> hflip") as error:
        call(run_name="a", mode="choose_threshold", tta="hflip")
    *_, line = str(error.value).splitlines()
    assert line.split()[:4] == ["python", "-m", "utils.blend", "--run"]
    assert line.endswith("unet_resnet34/a --tta hflip")
    with pytest.raises(InputError) as error:
        call(run_name="a", resume=True, seed=4)
    assert "utils.blend" not in str(error.value)


def test_the_flags_of_a_call_are_checked_against_the_saved_settings(create, call):
    """Each call is valid on its own, but the run has one stage and two folds."""
    create(run_name="first", seed=7, two_stage=False, n_splits=2)
    with pytest.raises(InputError, match="--mode train_stage2: there is no stage 2"):
        call(run_name="first", mode="train_stage2")
    with pytest.raises(InputError, match="--folds 3: give all, or fold numbers from 0 to 1"):
        call(run_name="first", resume=True, folds="3")
    with pytest.raises(InputError, match="--folds 5: give all, or fold numbers from 0 to 4"):
        call(run_name="new", folds="5")


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
    changes = {"batch_size_stage2": 2, "num_workers": 3}
    config, _ = call(run_name="first", resume=True, **changes)
    create_run(config, frozenset(changes), folder)
    assert load_config(folder / "config.yaml") == replace(saved, batch_size_stage2=2)
    assert call(run_name="first", resume=True)[0].batch_size_stage2 == 2


def test_processes_that_create_a_run_together_use_the_settings_of_the_first(call):
    """Neither finds a run, and each draws a seed."""
    (one, folder), (two, _) = call(run_name="both", folds="0"), call(run_name="both", folds="1")
    assert one.seed != two.seed
    given = frozenset({"run_name", "folds"})
    folder = make_folder(folder, is_named=True)
    assert create_run(one, given, folder) == one
    assert create_run(two, given, folder) == replace(one, folds="1")
    assert load_config(folder / "config.yaml") == one
    for name, value in (("lr", 0.5), ("batch_size_stage1", 2)):
        with pytest.raises(InputError, match=rf"{name} .* -> {value}"):
            create_run(replace(two, **{name: value}), given | {name}, folder)
    assert load_config(folder / "config.yaml") == one


def test_without_locks_the_first_settings_still_count(call, monkeypatch):
    """On a file system without locks, both processes may find no config.yaml."""
    (one, folder), (two, _) = call(run_name="both"), call(run_name="both")
    folder = make_folder(folder, is_named=True)
    create_run(one, frozenset({"run_name"}), folder)
    real = Path.exists
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda path: path.name != "config.yaml" and real(path))
        assert create_run(two, frozenset({"run_name"}), folder) == one


def test_runs_without_a_name_never_share_a_folder(call, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda _: "2026-01-01_00-00-00")
    opened = [call() for _ in range(3)]
    runs = []
    for config, folder in opened:
        folder = make_folder(folder, is_named=False)
        runs.append((create_run(config, frozenset(), folder), folder))
    assert [folder.name[-3:] for _, folder in runs] == ["-00", "0_2", "0_3"]
    for (config, _), (run, folder) in zip(opened, runs, strict=True):
        assert (run.seed, run.run_name) == (config.seed, folder.name)
        assert call(run_name=folder.name, resume=True)[0] == replace(run, resume=True)


@pytest.mark.parametrize("is_named", [True, False])
def test_a_folder_that_cannot_be_created_is_reported(tmp_path, is_named):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/run cannot be created .* --model_path"):
        make_folder(tmp_path / "file" / "run", is_named)
    with pytest.raises(InputError, match=r"file cannot be created"):
        make_folder(tmp_path / "file", is_named=True)


def claim(folder, **settings):
    """Try to take the lock of a fold; return the lock, and who holds it."""
    lock = lock_fold(folder)
    return lock, claim_fold(lock, folder, Config(run_name="x", **settings))


def test_a_fold_is_claimed_by_one_process(tmp_path, monkeypatch):
    """The other learns which, and need not resume what is being trained."""
    monkeypatch.setattr(files, "_PATIENCE", 0.01)
    check_fold(tmp_path / "absent", Config())
    lock, owner = claim(tmp_path)
    assert owner is None
    (tmp_path / "stage1_last.pth").touch()
    _, owner = claim(tmp_path)
    start = rf"process {os.getpid()} on {re.escape(socket.gethostname())}, since 20\d\d-"
    assert re.match(start, owner)
    check_fold(tmp_path, Config())
    lock.release()
    with pytest.raises(InputError, match="already has checkpoints"):
        check_fold(tmp_path, Config(run_name="x"))
    with pytest.raises(InputError, match=r"resume with:\n.* --run_name x --resume true"):
        claim(tmp_path)
    resumed, owner = claim(tmp_path, resume=True)
    assert owner is None
    resumed.release()
    (tmp_path / "oof.npz").touch()  # another process finished it after the plan was made
    assert claim(tmp_path)[1] is None


def test_a_finished_fold_is_not_written_to(tmp_path):
    """It may be an archive, which is read-only."""
    (tmp_path / "oof.npz").touch()
    check_fold(tmp_path, Config(run_name="x", resume=True))
    lock, owner = claim(tmp_path, resume=True)
    assert owner is None
    lock.release()
    assert [path.name for path in tmp_path.iterdir()] == ["oof.npz"]


def test_a_fold_that_turned_read_only_can_be_released(tmp_path, monkeypatch):
    """The error that ended its training is then reported, not one of the lock."""

    def refuse(path, *_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    lock, _ = claim(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        lock.release()
    assert claim(tmp_path)[1] is None


def test_files_that_a_user_put_into_a_fold_do_not_stop_its_training(tmp_path):
    for name in ("stage1_best (copy).pth", "mine.pth"):
        (tmp_path / name).touch()
    settings = Config(run_name="made")
    check_fold(tmp_path, settings)
    (tmp_path / "stage1_best.pth").touch()
    check_fold(tmp_path, replace(settings, mode="train_stage2"))
    (tmp_path / "stage2_epoch1.pth").touch()
    for mode in ("train", "train_stage2"):
        with pytest.raises(InputError, match="already has checkpoints"):
            check_fold(tmp_path, replace(settings, mode=mode))


def test_a_killed_process_holds_no_fold(tmp_path, monkeypatch):
    """Its loader workers, which may live on for seconds, do not hold it either."""
    monkeypatch.setattr(files, "_PATIENCE", 0.01)
    script = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from utils.files import OwnedLock\n"
        "lock = OwnedLock(Path(sys.argv[1]), '')\n"
        "assert lock.acquire() is None\n"
        "worker = os.fork()\n"
        "if worker: print(worker, flush=True)\n"
        "time.sleep(20)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=REPOSITORY, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        assert claim(tmp_path)[1].startswith(f"process {process.pid} on ")
        process.kill()
        process.wait()
        try:
            assert claim(tmp_path)[1] is None
        finally:
            os.kill(worker, signal.SIGKILL)


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
