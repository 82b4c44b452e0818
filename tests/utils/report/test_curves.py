"""Curves are those that training logged, whatever happened in between."""

from tensorboard.compat.proto.event_pb2 import Event
from torch.utils.tensorboard import SummaryWriter

from utils.config.settings import Config
from utils.report import curves as curves_module
from utils.report.curves import SCALAR_BYTES, draw_curves, read_curves

CONFIG = Config(epoch_stage1=3, epoch_stage2=2, epoch_stage1_freeze=0, epoch_stage2_accumulation=0)


def log(folder, first, dice, loss=0.5, name=".a"):
    """Write the events of a process that trains some epochs, from `first`."""
    events = SummaryWriter(str(folder), purge_step=first, filename_suffix=name)
    for step, value in enumerate(dice, start=first):
        for tag, number in (("dice/all", value), ("loss/val", loss), ("loss/train", loss / 2)):
            events.add_scalar(tag, number, step)
        events.add_scalar("lr", 0.1 / (step + 1), step)
        events.add_scalar("dice/positive", value / 2, step)
    events.add_text("note", "x" * 3 * SCALAR_BYTES)
    events.close()


def test_all_epochs_are_read_and_the_best_of_each_stage_is_found(tmp_path):
    dice = [0.25, 0.75, 0.5, 0.25, 0.125]
    log(tmp_path / "fold0", 0, dice)
    (tmp_path / "fold1").mkdir()
    curves = read_curves(tmp_path, CONFIG)
    assert [*curves] == [0]
    assert curves[0].values["dice/all"] == dict(enumerate(dice))
    assert curves[0].best == [1, 3]
    assert [title for title, _ in draw_curves(curves, CONFIG)] == ["Loss", "Dice", "Learning rate"]


def test_an_epoch_that_was_repeated_counts_once(tmp_path, monkeypatch):
    clock = iter(range(1000, 2000))
    monkeypatch.setattr("time.time", lambda: next(clock))
    log(tmp_path / "fold0", 0, [0.2, 0.75, 0.9], name=".z")
    log(tmp_path / "fold0", 2, [0.5, 0.25, 0.125], name=".a")
    curves = read_curves(tmp_path, CONFIG)[0]
    assert curves.values["dice/all"][2] == 0.5
    assert curves.best == [1, 3]
    assert 0 < curves.seconds < 1000


def test_events_that_were_cut_off_are_read_up_to_there(tmp_path):
    log(tmp_path / "fold0", 0, [0.25, 0.5])
    (path,) = (tmp_path / "fold0").iterdir()
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        curves = read_curves(tmp_path, CONFIG)
        assert curves == {} or set(curves[0].values["dice/all"].values()) <= {0.25, 0.5}


def test_a_run_without_events_has_no_curves(tmp_path):
    assert read_curves(tmp_path, CONFIG) == {}
    assert draw_curves({}, CONFIG) == []


def test_pictures_are_not_looked_at(tmp_path, monkeypatch):
    log(tmp_path / "fold0", 0, [0.25, 0.5])
    parse, lengths = Event.FromString, []

    class Counted:
        @staticmethod
        def FromString(data):
            lengths.append(len(data))
            return parse(data)

    monkeypatch.setattr(curves_module, "Event", Counted)
    assert read_curves(tmp_path, CONFIG)[0].values["dice/all"] == {0: 0.25, 1: 0.5}
    assert max(lengths) <= SCALAR_BYTES
