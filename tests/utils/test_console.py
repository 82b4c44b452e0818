from argparse import ArgumentTypeError

import pytest

from utils.console import is_main_process, print0, whole_number

LAUNCHERS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in LAUNCHERS:
        monkeypatch.delenv(name, raising=False)


def test_a_single_process_is_rank_0():
    assert is_main_process()


@pytest.mark.parametrize("name", LAUNCHERS)
def test_rank_0_is_recognised_with_every_launcher(name, monkeypatch, capsys):
    monkeypatch.setenv(name, "0")
    print0("first")
    monkeypatch.setenv(name, "1")
    print0("second")
    assert not is_main_process()
    assert capsys.readouterr().out == "first\n"


def test_local_rank_0_of_a_second_machine_is_not_rank_0(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("NODE_RANK", "1")
    assert not is_main_process()


@pytest.mark.parametrize("text", ["0", "11", "-1", "1.5", "1e1", "", " ", "x", "9" * 5000])
def test_other_than_whole_numbers_in_range_are_refused(text):
    with pytest.raises(ArgumentTypeError, match=r"is not a whole number from 1 to 10$"):
        whole_number(1, 10)(text)


@pytest.mark.parametrize("text", ["1", "10", "007"])
def test_whole_numbers_in_range_are_accepted(text):
    assert whole_number(1, 10)(text) == int(text)
