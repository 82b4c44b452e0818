"""The log of a fold."""

import pytest

from utils.config.settings import Config
from utils.config.stages import build_stages
from utils.training import logger
from utils.training.logger import EpochTimes, FoldLog


def test_a_missing_folder_is_reported_before_tensorboard_starts_a_thread(tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("TensorBoard was started")

    monkeypatch.setattr(logger, "SummaryWriter", never)
    with pytest.raises(FileNotFoundError, match=r"fold0/log\.txt"):
        FoldLog(tmp_path / "fold0", build_stages(Config())).open(0)


def test_text_that_is_no_unicode_is_logged_as_escapes(tmp_path, monkeypatch):
    monkeypatch.setattr(logger, "print0", lambda _: None)
    log = FoldLog(tmp_path, build_stages(Config()))
    log.open(0)
    log.line("caf\udce9")
    log.close()
    assert (tmp_path / "log.txt").read_text().endswith(" caf\\udce9\n")


def test_the_time_of_an_epoch_is_divided_among_its_activities(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(logger.time, "perf_counter", lambda: now[0])

    def take(seconds, value=None):
        now[0] += seconds
        return value

    times = EpochTimes()
    with times.spent("training"):
        batches = times.loading(take(1.0, batch) for batch in "abc")
        assert [take(4.0, batch) for batch in batches] == ["a", "b", "c"]
    for activity, seconds in (("validating", 4.0), ("writing", 0.5), ("writing", 0.5)):
        with times.spent(activity):
            take(seconds)
    assert times.seconds == {"loading": 3, "training": 12, "validating": 4, "writing": 1}
    take(5.0)
    shares = "loading 12 %, training 48 %, validating 16 %, writing 4 %, other 20 %"
    assert times.describe() == f"25.0 s: {shares}"
    assert times.total == 25


@pytest.mark.parametrize(
    ("every", "validated"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3, 4]), (5, [4]), (9, [4])]
)
def test_every_nth_and_the_last_epoch_are_validated(every, validated):
    for stage in build_stages(
        Config(epoch_stage1=5, epoch_stage2=5, epoch_stage3=5, validate_every=every)
    ):
        assert [epoch for epoch in range(5) if stage.is_validated(epoch)] == validated
