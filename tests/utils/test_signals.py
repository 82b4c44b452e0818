"""Signals to stop: the step is finished, the epoch dropped, the run goes on to the same bits."""

import os
import signal

import numpy as np
import pytest

import solver as solver_module
from tests.helpers.tiny import TinyNet, write_dataset
from tests.test_solver import assert_same, checkpoints, make, scalars, wait_for_next_second
from utils.errors import command
from utils.inference import ensemble
from utils.postprocessing.histograms import load_histograms
from utils.signals import Stopped, deferred_signals


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setattr(solver_module, "build_model", lambda *_, **__: TinyNet())
    monkeypatch.setattr(ensemble, "build_model", lambda *a, **k: solver_module.build_model(*a, **k))


@pytest.fixture(scope="module")
def whole(root, tmp_path_factory):
    """A fold that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solver_module, "build_model", lambda *_, **__: TinyNet())
        patch.setattr(ensemble, "build_model", lambda *_, **__: TinyNet())
        make(root, folder).fit()
    return folder


def tell(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_and_the_second_does_what_it_does(number):
    seen = []
    previous = signal.signal(number, lambda *_: seen.append("own handler"))
    try:
        with deferred_signals() as stop_requested:
            assert not stop_requested()
            tell(number)
            assert stop_requested()
            assert seen == []
            tell(number)
            assert seen == ["own handler"]
        tell(number)
        assert len(seen) == 2
    finally:
        signal.signal(number, previous)


def interrupt(solver, monkeypatch, where, count):
    """Send a signal to this process when `where` is reached for the `count`th time."""
    reached = []

    def passing(*_, **__):
        reached.append(None)
        if len(reached) == count:
            tell()

    def telling(real):
        def patched(*args, **kwargs):
            passing()
            return real(*args, **kwargs)

        return patched

    if where == "loss":
        build = solver_module.build_loss
        monkeypatch.setattr(solver_module, "build_loss", lambda *a: telling(build(*a)))
        return
    owner, name = {
        "step": (solver, "train"),
        "validation": (solver, "validate"),
        "checkpoint": (solver.checkpoints, "save"),
        "stage": (solver, "begin_stage"),
    }[where]
    monkeypatch.setattr(owner, name, telling(getattr(owner, name)))


@pytest.mark.parametrize(
    ("where", "count", "place"),
    [
        ("step", 2, "stage 1, epoch 2"),
        ("loss", 6, "stage 1, epoch 2"),  # of 2 training and 2 validation batches an epoch
        ("loss", 14, "stage 2, epoch 2"),
        ("validation", 1, "stage 1, epoch 1"),
        ("validation", 4, "stage 2, epoch 2"),
        ("checkpoint", 1, "stage 1, epoch 2"),
        ("checkpoint", 2, "stage 2, epoch 1"),
        ("stage", 2, "stage 2, epoch 1"),
        ("checkpoint", 4, "after the last epoch of fold 0"),
    ],
)
def test_wherever_it_comes_the_run_goes_on_to_the_same_bits(
    root, whole, tmp_path, monkeypatch, where, count, place
):
    with monkeypatch.context() as patch:
        solver = make(root, tmp_path, run_name="mine")
        interrupt(solver, patch, where, count)
        with pytest.raises(Stopped) as stopped:
            solver.fit()
    message = str(stopped.value)
    assert place in message
    assert "--run_name mine --resume true" in message
    assert not (tmp_path / "oof.npz").exists()
    wait_for_next_second()
    make(root, tmp_path).fit()
    ours, expected = checkpoints(tmp_path), checkpoints(whole)
    for content in (*ours.values(), *expected.values()):
        content["config"].pop("run_name")
    assert_same(ours, expected)
    one, other = (load_histograms(folder / "oof.npz") for folder in (tmp_path, whole))
    np.testing.assert_array_equal(one.all, other.all)
    for tag in ("loss/train", "loss/val", "lr", "dice/all"):
        assert scalars(tmp_path, tag) == scalars(whole, tag)


def test_a_worker_that_the_scheduler_ended_too_is_no_error(root, tmp_path, monkeypatch):
    solver = make(root, tmp_path, run_name="mine")

    def end_worker(*_, **__):
        tell()
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated.")

    monkeypatch.setattr(solver, "train", end_worker)
    with pytest.raises(Stopped, match="stage 1, epoch 1"):
        solver.fit()


def test_a_worker_that_dies_by_itself_is_one(root, tmp_path, monkeypatch):
    solver = make(root, tmp_path)

    def die(*_, **__):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr(solver, "train", die)
    with pytest.raises(RuntimeError, match="pid 7"):
        solver.fit()


def test_a_stopped_command_says_how_to_go_on_and_exits_with_75(capsys):
    @command
    def main():
        raise Stopped("stopped in x; go on with y")

    assert main() == 75
    said = capsys.readouterr()
    assert said.out == "stopped in x; go on with y\n"
    assert said.err == ""


def test_half_written_files_of_a_killed_process_are_removed(root, whole, tmp_path):
    leftover = tmp_path / ".stage1_last.4711.pth"
    leftover.write_bytes(b"half")
    make(root, tmp_path).fit()
    assert not leftover.exists()
    assert {path.name[:14] for path in tmp_path.iterdir()} == {
        path.name[:14] for path in whole.iterdir()
    }
