"""Loaders: batches arrive as they were made, and whatever stops a worker is an error, no wait."""

import contextlib
import ctypes
import errno
import gc
import os
import pickle
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from multiprocessing import resource_sharer, synchronize
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets import workers
from datasets.workers import Loader
from tests.helpers.tiny import SETTINGS, as_flags, write_dataset
from utils.errors import InputError
from utils.signals import BatchLost, find_death

REPOSITORY = Path(__file__).parents[2]


class Made(NamedTuple):
    """A batch of everything that batches hold."""

    numbers: Tensor
    images: Tensor
    masks: list[Tensor]
    names: list[str]


def make_batch(items):
    return Made(
        torch.tensor(items),
        torch.stack([torch.full((1, 3, 5), i, dtype=torch.uint8) for i in items]),
        [torch.arange(i * 7, dtype=torch.uint8).reshape(7, i) for i in items],
        [f"image {i}" for i in items],
    )


class Numbers(Dataset):
    """`dataset[i]` -> i, after doing something in the worker."""

    def __init__(self, act=lambda i: None):
        self.act = act

    def __getitem__(self, i):
        """Act, then return the key."""
        self.act(i)
        return i


BATCHES = [[0, 1, 2], [3], [4, 5], [6, 7]]


@pytest.fixture(autouse=True)
def no_hang():
    """A loader that waits for ever fails within a minute."""

    def stop(*_):
        pytest.fail("the loader hangs")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


def load(act=lambda i: None, collate=make_batch, batches=BATCHES, num_workers=1):
    return list(Loader(Numbers(act), batches, collate, num_workers))


def assert_equal(batch, expected):
    for one, other in zip(
        (batch.numbers, batch.images, *batch.masks),
        (expected.numbers, expected.images, *expected.masks),
        strict=True,
    ):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert batch.names == expected.names


def send(batch, files=None):
    sent = workers._SentBatch(batch, files or workers._Files())
    return pickle.loads(ForkingPickler.dumps(sent))


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_batches_arrive_in_order_as_they_were_made(num_workers):
    for batch, items in zip(load(num_workers=num_workers), BATCHES, strict=True):
        assert_equal(batch, make_batch(items))


@pytest.mark.parametrize("has_memory_files", [True, False])
def test_tensors_of_every_kind_arrive_and_can_be_written_to(monkeypatch, has_memory_files):
    if not has_memory_files:  # as on macOS
        monkeypatch.delattr(os, "memfd_create")
    made = [
        torch.arange(24, dtype=torch.float32).reshape(2, 3, 4).transpose(0, 2),
        torch.tensor(True),
        torch.zeros(0, 4, dtype=torch.int64),
        torch.arange(5, dtype=torch.uint8)[::2],
        torch.arange(3, dtype=torch.float64),
    ]
    sent = send(made)
    for one, other in zip(sent, made, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
        assert one.data_ptr() % one.element_size() == 0
    sent[-1] += 1
    assert sent[-1].tolist() == [1, 2, 3]
    assert send(["no tensor"]) == ["no tensor"]


def test_batches_take_no_shared_memory(monkeypatch):
    """torch's own way of sharing fails, as where /dev/shm is full."""

    def fail(*_):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")

    for name in ("_share_fd_cpu_", "_new_shared", "_new_using_fd_cpu"):
        monkeypatch.setattr(torch.UntypedStorage, name, fail)
    assert_equal(load()[0], make_batch(BATCHES[0]))


def open_batches():
    """Count the open files in memory that hold batches, once no unreachable one is left."""
    gc.collect()
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += "memfd:batch" in os.readlink(f"/proc/self/fd/{name}")
    return found


def test_a_batch_takes_one_open_file_however_many_tensors_it_has():
    before = open_batches()
    held = [send([torch.ones(3) for _ in range(64)]) for _ in range(4)]
    assert open_batches() == before + len(held)
    del held
    assert open_batches() == before


def test_a_file_is_written_again_once_its_batch_is_gone_and_not_before():
    before, files = open_batches(), workers._Files()
    first = send([torch.full((9,), 1), torch.full((5000,), 1)], files)
    part = first[1][1:3]
    del first
    second = send([torch.full((9,), 2)], files)
    assert len(files._files) == 2
    assert part.tolist() == [1, 1]
    del part
    for number in range(3, 9):  # smaller, and larger than what the file has held
        third = send([torch.full((number**4,), number)], files)
        assert (third[0] == number).all()
        del third
    assert second[0].tolist() == [2] * 9
    assert len(files._files) == 2
    assert open_batches() - before == len(files._files) + 1
    del second
    assert open_batches() - before == len(files._files)


def test_batches_that_are_all_kept_do_not_fill_a_worker_with_files():
    files = workers._Files()
    held = [send([torch.full((3,), number)], files) for number in range(9)]
    assert [batch[0].tolist() for batch in held] == [[number] * 3 for number in range(9)]
    assert len(files._files) == workers._LASTING_FILES


def take_files(spare):
    """Open files until this process may open only `spare` more; return them."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 64, limit[1]))
    taken = []
    with contextlib.suppress(OSError):
        while True:
            taken.append(os.dup(0))
    for _ in range(spare):
        os.close(taken.pop())
    return taken


@pytest.mark.parametrize("spare", [4, 8])
def test_a_worker_without_open_files_is_an_error_and_no_wait(spare):
    with pytest.raises(InputError, match=r"too many open files.*ulimit -n .*--num_workers"):
        load(lambda i: take_files(spare) if i == 3 else None, batches=[[i] for i in range(40)])


@pytest.mark.parametrize("spare", [0, 1, 3])
def test_the_main_process_without_open_files_is_an_error_and_no_wait(spare):
    batches = iter(Loader(Numbers(), [[i] for i in range(9)], make_batch, 1))
    next(batches)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[Made] = []
    taken = take_files(spare)
    try:
        with pytest.raises(InputError, match=r"too many open files.*ulimit -n .*--num_workers"):
            held.extend(batches)
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, r"No space left on device.*/dev/shm.*MB free.*--shm-size.*--num_workers 0"),
        (errno.ENOENT, r"/dev/shm.*--shm-size.*--num_workers 0"),
        (errno.EMFILE, r"ulimit -n"),
    ],
)
def test_workers_that_cannot_start_are_an_error(monkeypatch, number, hint):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(synchronize.SemLock, "__init__", fail)
    with pytest.raises(InputError, match=hint) as error:
        load()
    assert "\n" not in str(error.value)


def test_memory_that_cannot_be_written_is_an_error(monkeypatch):
    monkeypatch.setattr(workers, "_open_memory", partial(open, "/dev/full", "wb"))
    with pytest.raises(InputError, match=r"No space left on device.*--num_workers 0"):
        load()


@pytest.mark.parametrize(
    ("end", "cause", "bus_error"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was killed, as the kernel does", False),
        (lambda: os.kill(os.getpid(), signal.SIGBUS), "by a signal: Bus error", True),
        (lambda: ctypes.string_at(0), "by a signal: Segmentation fault", False),
        (lambda: os._exit(3), "ended unexpectedly", False),
    ],
)
def test_the_death_of_a_worker_is_told(capfd, end, cause, bus_error):
    def act(i):
        if i == 5:
            time.sleep(0.1)  # earlier batches arrive
            end()

    with pytest.raises(RuntimeError) as error:
        load(act)
    death = find_death(error.value)
    assert death is not None
    assert cause in death.cause
    assert death.bus_error == bus_error


def test_a_batch_of_a_worker_that_is_gone_is_its_death(monkeypatch):
    sent = ForkingPickler.dumps(workers._SentBatch([torch.ones(2)], workers._Files()))
    monkeypatch.setattr(resource_sharer.DupFd, "detach", lambda _: os.open("/no/socket", 0))
    monkeypatch.setattr(workers, "_SECONDS_TO_DIE", 0)
    lost = pickle.loads(sent)
    with pytest.raises(BatchLost) as error:
        workers._raise(lost)
    death = find_death(error.value)
    assert death is not None
    assert "lost a batch" in death.cause


def test_the_death_that_led_to_another_error_is_found():
    error = OSError("half written")
    error.__context__ = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    death = find_death(error)
    assert death is not None
    assert death.cause.startswith("was killed")
    assert find_death(OSError(28, "full")) is None
    assert find_death(RuntimeError("shapes differ")) is None


def test_temporary_files_are_not_left(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    send(make_batch([1, 2]))
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def run_in_small_memory(size, script, flags):
    """Run a script with `size` of shared memory; return its exit code and what it said."""
    mount = f"mount -t tmpfs -o size={size} tmpfs /dev/shm && exec timeout -k 5 120"
    command = [sys.executable, "-m", "tests.helpers.run_tiny", script, *map(str, flags)]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"{mount} {shlex.join(command)}"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stderr.replace("\r", "\n")


@pytest.fixture
def mount_namespaces():
    """Skip where a process may not mount a small /dev/shm of its own."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    if shutil.which("unshare") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs Linux and the right to mount a small /dev/shm: run it as root")


@pytest.mark.slow
@pytest.mark.usefixtures("mount_namespaces")
def test_a_small_dev_shm_is_enough_and_a_full_one_is_one_line(tmp_path):
    """Every batch is larger than the 4 MB of shared memory."""
    signal.alarm(0)
    root = write_dataset(tmp_path / "data", height=1500, width=1400)
    loading = {"num_workers": 2, "accelerator": "cpu", "devices": 1}
    changes = {"dataset_root": root, "model_path": tmp_path, "run_name": "run", "folds": 0}
    flags = as_flags(SETTINGS | changes | loading | {"epoch_stage1_freeze": 0})
    code, said = run_in_small_memory("4m", "main", flags)
    assert code == 0, said[-2000:]
    flags = as_flags(loading | {"batch_size": 4, "out": tmp_path / "out.csv", "folds": 0})
    run, images = tmp_path / "unet_resnet34" / "run", root / "train_images"
    flags += ["--run", str(run), "--images", str(images), "--overlays", str(tmp_path / "overlays")]
    code, said = run_in_small_memory("4m", "predict", flags)
    assert code == 0, said[-2000:]
    assert (tmp_path / "out.csv").exists()
    code, said = run_in_small_memory("4k,nr_inodes=1", "predict", flags)
    assert code == 2
    errors = [line for line in said.splitlines() if "rror" in line or "Traceback" in line]
    assert len(errors) == 1
    assert re.match(r"error: .*/dev/shm, has .* MB free.*--shm-size .*--num_workers 0", errors[0])
