"""Work in threads and processes: results in order, and errors that say what to do."""

import errno
import os
import signal
import threading
import time
from multiprocessing import get_context, synchronize

import pytest

from utils import parallel
from utils.errors import InputError
from utils.parallel import describe_lack, map_in_order, open_processes, start_worker


def test_results_come_in_the_order_of_the_items():
    def work(i):
        time.sleep(0.001 * (i % 3))
        return i * i

    assert list(map_in_order(work, range(50))) == [i * i for i in range(50)]


def test_work_runs_in_several_threads(monkeypatch):
    monkeypatch.setattr(parallel, "usable_cores", lambda: 3)
    meeting = threading.Barrier(3, timeout=20)
    assert list(map_in_order(lambda i: meeting.wait() >= 0, range(3))) == [True] * 3


def test_only_a_few_results_are_pending(monkeypatch):
    monkeypatch.setattr(parallel, "usable_cores", lambda: 2)
    started: list[int] = []
    results = map_in_order(started.append, range(1000))
    next(results)
    time.sleep(0.05)
    assert 1 <= len(started) <= 12


def test_the_first_error_is_raised_and_cancels_the_rest(monkeypatch):
    monkeypatch.setattr(parallel, "usable_cores", lambda: 1)
    started: list[int] = []

    def work(i):
        started.append(i)
        if i == 5:
            raise ValueError("five")
        return i

    results = map_in_order(work, range(1000))
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="five"):
        next(results)
    assert len(started) < 20


def kill_this_process(i):
    if i == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return i


def test_without_processes_the_work_is_done_here():
    with open_processes(0) as run:
        assert list(run(lambda i: (i, os.getpid()), [1, 2])) == [(1, os.getpid()), (2, os.getpid())]


@pytest.mark.slow
def test_a_killed_process_is_an_error_and_no_wait():
    message = r"one of 1 worker processes ended unexpectedly.*again, with fewer --num_workers"
    with pytest.raises(InputError, match=message), open_processes(1) as run:
        list(run(kill_this_process, range(5)))


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, r"No space left on device.*/dev/shm.*--shm-size.*--num_workers 0"),
        (errno.EMFILE, r"too many open files.*ulimit -n"),
    ],
)
def test_processes_that_cannot_start_are_an_error(monkeypatch, number, hint):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(synchronize.SemLock, "__init__", fail)
    with pytest.raises(InputError, match=hint), open_processes(2):
        pytest.fail("they have started")


def test_missing_shared_memory_is_named(monkeypatch):
    monkeypatch.setattr(parallel, "_SHARED_MEMORY", "/no/such/folder")
    lack = describe_lack(FileNotFoundError(errno.ENOENT, "No such file or directory"))
    assert "shared memory, /no/such/folder, is missing" in lack
    assert "--num_workers 0" in lack


def test_errors_of_the_work_are_its_own():
    with pytest.raises(FileNotFoundError), open_processes(0) as run:
        list(run(open, ["/no/such/file"]))


def test_a_worker_ends_if_its_main_process_was_killed_before_it_started():
    reading, writing = os.pipe()
    main = os.fork()
    if main == 0:
        parent = os.getpid()

        def work():
            while os.getppid() == parent:
                time.sleep(0.001)
            start_worker()
            os.write(writing, b"alive")

        get_context("fork").Process(target=work).start()
        os.kill(parent, signal.SIGKILL)
    os.close(writing)
    os.waitpid(main, 0)
    assert os.read(reading, 9) == b""
    os.close(reading)
