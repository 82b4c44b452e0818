"""Training on several processes equals training on one."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from tests.helpers.tiny import write_dataset
from utils import distributed
from utils.distributed import decide_on_rank_zero, launch
from utils.errors import InputError, ReportedByRankZero
from utils.postprocessing.histograms import load_histograms

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    """The same fold, trained by one process and by two."""
    root = write_dataset(tmp_path_factory.mktemp("data"), count=21)
    folders = {}
    for processes in (1, 2):
        folders[processes] = tmp_path_factory.mktemp(f"by{processes}")
        words = [str(root), str(folders[processes]), str(processes)]
        done = subprocess.run(
            [sys.executable, "-m", "tests.helpers.train_tiny", *words],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    return folders


@pytest.mark.slow
def test_two_processes_train_like_one(folds):
    """Across thawing in stage 1 and accumulation in stage 2, with batches of 6 and of 4."""
    one_log, log = ((folds[n] / "log.txt").read_text() for n in (1, 2))
    assert "encoder thawed" in log
    trained = [[float(x) for x in re.findall(r": loss ([\d.]+),", text)] for text in (one_log, log)]
    assert len(trained[0]) == 6
    np.testing.assert_allclose(trained[1], trained[0], atol=2e-4)
    for name in ("stage1_last", "stage2_last"):
        contents = [torch.load(folds[n] / f"{name}.pth") for n in (1, 2)]
        one, two = (content["state_dict"] for content in contents)
        start = torch.load(folds[1] / "stage1_last.pth")["state_dict"]
        losses = [[result["loss"] for result in content["kept"]] for content in contents]
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-5, msg=key)
        if name == "stage2_last":
            assert not torch.equal(one["head.weight"], start["head.weight"])


@pytest.mark.slow
def test_two_processes_count_every_pixel_once(folds):
    one, two = (load_histograms(folds[n] / "oof.npz") for n in (1, 2))
    assert two.ids.tolist() == one.ids.tolist()
    assert len(two.ids) % 2 == 1  # one process has one more image to validate
    np.testing.assert_array_equal(two.all.sum(axis=1), two.height * two.width)
    np.testing.assert_array_equal(two.mask.sum(axis=1), one.mask.sum(axis=1))
    # A difference in the last bits of a weight may move a pixel to the next level.
    assert np.abs(two.all - one.all).sum() <= 8


@pytest.mark.slow
def test_processes_on_cpus_leave_their_group_before_the_interpreter_ends(tmp_path):
    """A thread of gloo that outlives it aborts the process now and then."""
    script = tmp_path / "leave.py"
    script.write_text(
        """
import atexit
import os

from torch import distributed

from utils.distributed import gather, launch


def write(moment):
    rank = os.environ["LOCAL_RANK"]
    open(f"{moment}{rank}", "w").write(str(distributed.is_initialized()))


if __name__ == "__main__":
    atexit.register(write, "after")
    fabric = launch("cpu", 2, 1, "32-true")
    assert gather(fabric, [fabric.global_rank]) == [0, 1]
    write("before")
"""
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, script.name], cwd=tmp_path, env=environment, check=True)
    for rank in (0, 1):
        assert (tmp_path / f"before{rank}").read_text() == "True"
        assert (tmp_path / f"after{rank}").read_text() == "False"


@pytest.mark.parametrize("devices", [99_999, "1000", "9" * 5000])
def test_more_processes_than_a_machine_can_run_are_refused_before_one_starts(monkeypatch, devices):
    def never(*_, **__):
        raise AssertionError("it was started")

    monkeypatch.setattr(distributed, "Fabric", never)
    with pytest.raises(InputError, match=r"--devices \d+: at most \d+ devices or CPU processes"):
        launch("cpu", devices, 1, "32-true")


def test_an_accelerator_without_its_package_is_refused():
    with pytest.raises(InputError, match=r"cannot run with --accelerator tpu .*torch_xla"):
        launch("tpu", 1, 1, "32-true")


class TwoRanks:
    """Stands in for Fabric on one of two ranks: `broadcast` returns what rank 0 sends."""

    sent: object = ["nothing"]

    def __init__(self, rank):
        self.is_global_zero = rank == 0

    def broadcast(self, decision):
        if self.is_global_zero:
            TwoRanks.sent = decision
        return TwoRanks.sent


@pytest.fixture
def nothing_sent(monkeypatch):
    """Forget what another test has sent; a rank that takes it goes on."""
    monkeypatch.setattr(TwoRanks, "sent", ["nothing"])


@pytest.mark.usefixtures("nothing_sent")
def test_an_error_of_the_file_system_on_rank_0_reaches_the_other_ranks():
    """Else they would wait for its decision for ever."""

    def decide():
        raise PermissionError(errno.EACCES, "Permission denied", "run/folds.csv")

    with pytest.raises(InputError, match=r"run/folds\.csv: Permission denied"):
        decide_on_rank_zero(cast(Fabric, TwoRanks(0)), decide)
    with pytest.raises(ReportedByRankZero):
        decide_on_rank_zero(cast(Fabric, TwoRanks(1)), decide)


@pytest.mark.usefixtures("nothing_sent")
def test_any_error_on_rank_0_reaches_the_other_ranks():
    """Also one that no user can act on, whose traceback rank 0 shows."""
    with pytest.raises(ZeroDivisionError):
        decide_on_rank_zero(cast(Fabric, TwoRanks(0)), lambda: 1 / 0)
    with pytest.raises(ReportedByRankZero):
        decide_on_rank_zero(cast(Fabric, TwoRanks(1)), lambda: 1 / 0)


@pytest.mark.parametrize(
    ("capabilities", "accelerator", "precision"),
    [
        ({"avx512_bf16": True}, "auto", "bf16-mixed"),
        ({"amx_bf16": True}, "cpu", "bf16-mixed"),
        ({"avx512_bf16": False}, "auto", "32-true"),
        ({}, "cpu", "32-true"),
    ],
)
def test_a_cpu_uses_bfloat16_only_if_it_is_native(
    monkeypatch, capabilities, accelerator, precision
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    fabric = launch(accelerator, 1, 1, "auto")
    assert fabric._precision.precision == precision


def test_deterministic_algorithms_are_used_on_request(monkeypatch):
    asked: list[bool] = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", asked.append)
    launch("cpu", 1, 1, "32-true")
    assert asked == []
    launch("cpu", 1, 1, "32-true", deterministic=True)
    assert asked == [True]
