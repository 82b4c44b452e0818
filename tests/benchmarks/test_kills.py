"""When a run is killed, on a clock that only sleeping moves."""

import random
import signal

import pytest

from benchmarks import kills

RUN = 4.0
"""Seconds that the run lasts."""


class Clock(kills.Phase):
    """A run that is in a step for the first `step` seconds of every tenth of a second."""

    def __init__(self, step):
        super().__init__()
        self.now, self.step = 0.0, step
        self.killed: list[tuple[int, int, str]] = []

    def sleep(self, seconds):
        self.now += seconds

    def __str__(self) -> str:
        return "step" if self.now % 0.1 < self.step else "other"

    def kill(self, process, number):
        self.killed.append((process, number, str(self)))

    def wait(self, process, options):
        return (0, 0) if self.now < RUN or options != kills.os.WNOHANG else (process, 0)


@pytest.mark.parametrize("step", [0.09, 0.02, 0.002])
def test_a_run_of_short_phases_is_killed_in_one_of_them(monkeypatch, step):
    for seed in range(10):
        clock = Clock(step)
        monkeypatch.setattr(kills.time, "sleep", clock.sleep)
        monkeypatch.setattr(kills.os, "kill", clock.kill)
        monkeypatch.setattr(kills.os, "waitpid", lambda *args, of=clock: of.wait(*(*args, 0)[:2]))
        assert kills.kill_in(7, "step", clock, random.Random(seed))
        assert clock.killed == [(7, signal.SIGKILL, "step")]


def test_a_run_that_ends_before_the_phase_is_not_killed(monkeypatch):
    clock = Clock(0)
    monkeypatch.setattr(kills.time, "sleep", clock.sleep)
    monkeypatch.setattr(kills.os, "waitpid", clock.wait)
    assert not kills.kill_in(7, "step", clock, random.Random(0))
