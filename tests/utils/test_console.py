import pytest

from utils.console import is_main_process, print0

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
