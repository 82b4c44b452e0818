"""Stop requests: the step is finished, the epoch discarded, and the resumed run bit-identical."""

import os
import signal

import numpy as np
import pytest
import torch

import solver as solver_module
from solver import Solver
from tests.helpers.tiny import TinyNet, write_dataset
from tests.test_solver import assert_same, checkpoints, make, scalars, wait_for_next_second
from utils.errors import InputError, command
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
def undisturbed(root, tmp_path_factory):
    """A fold trained without a stop."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solver_module, "build_model", lambda *_, **__: TinyNet())
        patch.setattr(ensemble, "build_model", lambda *_, **__: TinyNet())
        make(root, folder).fit()
    return folder


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_deferred_and_the_second_has_its_usual_effect(number):
    seen = []
    previous = signal.signal(number, lambda *_: seen.append("own handler"))
    try:
        with deferred_signals() as stop_requested:
            assert not stop_requested()
            send(number)
            assert stop_requested()
            assert seen == []
            send(number)
            assert seen == ["own handler"]
        send(number)
        assert len(seen) == 2
    finally:
        signal.signal(number, previous)


def interrupt(solver, monkeypatch, where, count):
    """Patch a solver to send SIGTERM to this process in the `count`th call of `where`."""
    calls: list[None] = []

    def patch(real):
        def patched(*args, **kwargs):
            calls.append(None)
            if len(calls) == count:
                send()
            return real(*args, **kwargs)

        return patched

    if where == "loss":
        build = solver_module.build_loss
        monkeypatch.setattr(solver_module, "build_loss", lambda *a: patch(build(*a)))
        return
    owner, name = {
        "step": (solver, "train"),
        "validation": (solver, "validate"),
        "checkpoint": (solver.checkpoints, "save"),
        "stage": (solver, "begin_stage"),
    }[where]
    monkeypatch.setattr(owner, name, patch(getattr(owner, name)))


@pytest.mark.parametrize(
    ("where", "count", "position"),
    [
        ("step", 2, "stage 1, epoch 2"),
        ("loss", 6, "stage 1, epoch 2"),  # an epoch has 2 training and 2 validation batches
        ("loss", 14, "stage 2, epoch 2"),
        ("validation", 1, "stage 1, epoch 1"),
        ("validation", 4, "stage 2, epoch 2"),
        ("checkpoint", 1, "stage 1, epoch 2"),
        ("checkpoint", 2, "stage 2, epoch 1"),
        ("stage", 2, "stage 2, epoch 1"),
        ("checkpoint", 4, "after the last epoch of fold 0"),
    ],
)
def test_a_stopped_and_resumed_run_is_bit_identical(
    root, undisturbed, tmp_path, monkeypatch, where, count, position
):
    with monkeypatch.context() as patch:
        solver = make(root, tmp_path, run_name="mine")
        interrupt(solver, patch, where, count)
        with pytest.raises(Stopped) as stopped:
            solver.fit()
    message = str(stopped.value)
    assert position in message
    assert "--run_name mine --resume true" in message
    assert not (tmp_path / "oof.npz").exists()
    wait_for_next_second()
    make(root, tmp_path).fit()
    ours, expected = checkpoints(tmp_path), checkpoints(undisturbed)
    for content in (*ours.values(), *expected.values()):
        content["config"].pop("run_name")
    assert_same(ours, expected)
    one, other = (load_histograms(folder / "oof.npz") for folder in (tmp_path, undisturbed))
    np.testing.assert_array_equal(one.all, other.all)
    for tag in ("loss/train", "loss/val", "lr", "dice/all"):
        assert scalars(tmp_path, tag) == scalars(undisturbed, tag)


def test_a_worker_killed_by_the_same_stop_request_is_no_error(root, tmp_path, monkeypatch):
    solver = make(root, tmp_path, run_name="mine")

    def end_worker(*_, **__):
        send()
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated.")

    monkeypatch.setattr(solver, "train", end_worker)
    with pytest.raises(Stopped, match="stage 1, epoch 1"):
        solver.fit()


def dies(signal_name):
    def die(*_, **__):
        raise RuntimeError(f"DataLoader worker (pid 7) is killed by signal: {signal_name}. ")

    return die


@pytest.mark.parametrize(
    ("owner", "name", "where"),
    [
        (Solver, "train", "fold 0, stage 1, epoch 1: "),
        (Solver, "validate", "fold 0, stage 1, epoch 1: "),
        (torch, "save", "fold 0, stage 1, epoch 1: "),
        (solver_module, "write_out_of_fold", "fold 0, prediction of its validation images: "),
    ],
)
def test_a_worker_that_dies_on_its_own_is_told_with_how_to_resume(
    root, tmp_path, monkeypatch, owner, name, where
):
    monkeypatch.setattr(owner, name, dies("Killed"))
    with pytest.raises(InputError) as error:
        make(root, tmp_path, run_name="mine").fit()
    assert str(error.value).startswith(f"{where}a worker process was killed, as the kernel does")
    assert "fewer --num_workers" in str(error.value)
    _, command = str(error.value).split("; resume with:\n")
    assert "--run_name mine --resume true" in command


def test_a_stopped_command_says_how_to_resume_and_exits_with_75(capsys):
    @command
    def main():
        raise Stopped("stopped in x; resume with y")

    assert main() == 75
    printed = capsys.readouterr()
    assert printed.out == "stopped in x; resume with y\n"
    assert printed.err == ""


def test_partially_written_files_of_a_killed_process_are_removed(root, undisturbed, tmp_path):
    leftover = tmp_path / ".stage1_last.4711.pth"
    leftover.write_bytes(b"half")
    make(root, tmp_path).fit()
    assert not leftover.exists()
    assert {path.name[:14] for path in tmp_path.iterdir()} == {
        path.name[:14] for path in undisturbed.iterdir()
    }
