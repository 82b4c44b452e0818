"""The log of a fold."""

import pytest

from utils.config.settings import Config
from utils.config.stages import build_stages
from utils.training import logger
from utils.training.logger import FoldLog


def test_a_missing_folder_is_reported_before_tensorboard_starts_a_thread(tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("TensorBoard was started")

    monkeypatch.setattr(logger, "SummaryWriter", never)
    with pytest.raises(FileNotFoundError, match=r"fold0/log\.txt"):
        FoldLog(tmp_path / "fold0", build_stages(Config()), 0)


def test_text_that_is_no_unicode_is_logged_as_escapes(tmp_path, monkeypatch):
    monkeypatch.setattr(logger, "print0", lambda _: None)
    log = FoldLog(tmp_path, build_stages(Config()), 0)
    log.line("caf\udce9")
    log.close()
    assert (tmp_path / "log.txt").read_text().endswith(" caf\\udce9\n")
