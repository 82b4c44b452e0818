"""Work in threads: results in order, few of them pending, and a stop at the first error."""

import threading
import time

import pytest

from utils import parallel
from utils.parallel import map_in_order


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
