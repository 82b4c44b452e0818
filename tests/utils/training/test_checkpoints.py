"""Checkpoints: best and last, complete or absent, loaded safely."""

import os
import random
import resource
import shutil
import signal
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.config.settings import Config
from utils.config.stages import build_stages
from utils.errors import InputError
from utils.safe_load import load_file, reason_of
from utils.training.checkpoints import FoldCheckpoints, find_resume_point, load_checkpoint


def content_of(epoch, stage=1, kept=()):
    """Return the content of a checkpoint; `kept` lists epochs, best first."""
    return {
        "state_dict": {"weight": torch.full((3, 50), float(epoch))},
        "stage": stage,
        "epoch": epoch,
        "best": {"dice": 0.5},
        "kept": [{"epoch": number} for number in kept],
    }


def save(checkpoints, content, is_best):
    """Save an epoch that is the best so far or is not."""
    kept = [{"epoch": content["epoch"] if is_best else -1}]
    checkpoints.save(content | {"kept": kept})


@pytest.fixture
def checkpoints(tmp_path):
    return FoldCheckpoints(tmp_path)


def epochs(checkpoints, stage=1):
    return tuple(checkpoints.load(stage, which)["epoch"] for which in ("last", "best"))


def names(checkpoints):
    return sorted(path.name for path in checkpoints.folder.iterdir())


def test_last_is_the_newest_epoch_and_best_the_best_so_far(checkpoints):
    for epoch, is_best in enumerate([True, True, False, True, False]):
        save(checkpoints, content_of(epoch), is_best)
        assert epochs(checkpoints) == (epoch, [0, 1, 1, 3, 3][epoch])
    assert checkpoints.load(1, "best")["state_dict"]["weight"].unique().tolist() == [3.0]
    assert names(checkpoints) == ["stage1_best.pth", "stage1_last.pth"]


def test_stages_have_separate_checkpoints(checkpoints):
    save(checkpoints, content_of(4, stage=1), is_best=True)
    save(checkpoints, content_of(0, stage=2), is_best=True)
    assert epochs(checkpoints, 1) == (4, 4)
    assert epochs(checkpoints, 2) == (0, 0)


def test_epochs_done_is_read_from_the_last_checkpoint(checkpoints):
    assert checkpoints.epochs_done(1) == 0
    save(checkpoints, content_of(0), is_best=False)
    assert checkpoints.epochs_done(1) == 1
    save(checkpoints, content_of(6), is_best=True)
    assert checkpoints.epochs_done(1) == 7
    assert checkpoints.epochs_done(2) == 0


@pytest.mark.parametrize(
    ("done", "skip_first", "expected"),
    [
        ({}, False, (0, 0)),
        ({}, True, (1, 0)),
        ({1: 4}, False, (0, 4)),
        ({1: 4}, True, (1, 0)),
        ({1: 6}, False, (1, 0)),
        ({1: 6, 2: 1}, False, (1, 1)),
        ({1: 4, 2: 1}, True, (1, 1)),
        # Began with --mode train_stage2, resumed without it: no epoch of stage 2 is lost.
        ({1: 4, 2: 1}, False, (1, 1)),
        ({2: 1}, False, (1, 1)),
        ({1: 4, 2: 3}, False, (2, 0)),
        ({1: 6, 2: 3, 3: 2}, False, (3, 0)),
    ],
)
def test_training_resumes_in_the_latest_stage_that_has_begun(
    checkpoints, done, skip_first, expected
):
    stages = build_stages(Config(epoch_stage1=6, epoch_stage2=3, epoch_stage3=2))
    for stage, epochs in done.items():
        save(checkpoints, content_of(epochs - 1, stage), is_best=True)
    assert find_resume_point(checkpoints, stages, skip_first) == expected


def test_a_stage_starts_from_its_last_epoch_or_the_best_of_the_stage_before(checkpoints):
    for stage in (1, 2):
        save(checkpoints, content_of(0, stage), is_best=True)
        save(checkpoints, content_of(1, stage), is_best=False)
    assert checkpoints.load_start(1, 0) == {}
    for number, first_epoch, start in ((1, 2, (1, 1)), (2, 0, (1, 0)), (2, 2, (2, 1))):
        content = checkpoints.load_start(number, first_epoch)
        assert (content["stage"], content["epoch"]) == start


def test_without_hard_links_a_checkpoint_is_copied(checkpoints, monkeypatch):
    def refuse(*_):
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", refuse)
    save(checkpoints, content_of(0), is_best=True)
    save(checkpoints, content_of(1), is_best=False)
    assert epochs(checkpoints) == (1, 0)


def test_several_best_epochs_are_kept_by_number(checkpoints):
    """Against a list that is sorted again after every epoch."""
    scores = [0.3, 0.1, 0.5, 0.5, 0.2, 0.9]
    for epoch in range(len(scores)):
        kept = sorted(range(epoch + 1), key=lambda e: -scores[e])[:3]
        checkpoints.save(content_of(epoch, kept=kept), several=True)
        assert checkpoints.best(1) == [
            checkpoints.folder / f"stage1_epoch{e + 1}.pth" for e in sorted(kept)
        ]
        held = [load_file(path)["epoch"] for path in checkpoints.best(1)]
        assert held == sorted(kept)
        assert epochs(checkpoints) == (epoch, kept[0])
    assert checkpoints.best(2) == [checkpoints.folder / "stage2_best.pth"]


@pytest.mark.parametrize("is_best", [True, False])
def test_an_interrupted_save_leaves_the_old_checkpoints_and_nothing_else(
    checkpoints, monkeypatch, is_best
):
    save(checkpoints, content_of(0), is_best=True)

    def write_half_and_die(content, path):
        path.write_bytes(b"half a checkpoint")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", write_half_and_die)
    with pytest.raises(KeyboardInterrupt):
        save(checkpoints, content_of(1), is_best)
    assert epochs(checkpoints) == (0, 0)
    assert names(checkpoints) == ["stage1_best.pth", "stage1_last.pth"]


def test_an_interruption_between_best_and_last_leaves_an_epoch_to_repeat(checkpoints, monkeypatch):
    """Not an epoch that counts as done without its best weights."""
    save(checkpoints, content_of(0), is_best=True)
    real = os.replace

    def replace_best_then_die(source, target):
        if target.name == "stage1_last.pth":
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace_best_then_die)
    with pytest.raises(KeyboardInterrupt):
        save(checkpoints, content_of(1), is_best=True)
    assert epochs(checkpoints) == (0, 1)
    assert names(checkpoints) == ["stage1_best.pth", "stage1_last.pth"]


def test_a_checkpoint_can_be_loaded_with_torchs_safe_loader(checkpoints):
    save(checkpoints, content_of(2), is_best=False)
    plain = torch.load(checkpoints.path(1, "last"), weights_only=True)
    assert plain["epoch"] == 2
    assert torch.equal(plain["state_dict"]["weight"], torch.full((3, 50), 2.0))


def refusal(path):
    with pytest.raises(InputError) as refused:
        load_file(path)
    message = str(refused.value)
    assert str(path) in message
    assert "\n" not in message
    assert "weights_only" not in message  # torch suggests turning off its safe loader
    return message


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.6, 0.99])
def test_a_truncated_checkpoint_is_refused(checkpoints, share):
    save(checkpoints, content_of(0), is_best=False)
    path = checkpoints.path(1, "last")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert "cannot be read as a checkpoint" in refusal(path)
    with pytest.raises(InputError):
        checkpoints.epochs_done(1)


def test_random_bytes_are_refused_with_the_file_name(tmp_path):
    path = tmp_path / "a.pth"
    for seed in range(300):
        rng = random.Random(seed)
        start = (b"", b"\x80\x02", b"PK\x03\x04", b"\x80\x02}q\x00")[seed % 4]
        path.write_bytes(start + rng.randbytes(rng.randrange(40)))
        refusal(path)


@pytest.mark.parametrize("unsafe", [np.int64(3), np.ones(2), np.float64, random.Random()])
def test_objects_other_than_tensors_and_plain_types_are_refused(tmp_path, unsafe):
    torch.save({"best": unsafe}, tmp_path / "a.pth")
    assert "holds more than tensors and plain types" in refusal(tmp_path / "a.pth")


def test_a_file_without_a_dict_is_refused(tmp_path):
    torch.save([torch.ones(2)], tmp_path / "a.pth")
    assert "holds a list, not a dict of weights" in refusal(tmp_path / "a.pth")


def test_only_a_file_is_read_as_a_checkpoint(tmp_path):
    missing = tmp_path / "none.pth"
    assert refusal(missing) == f"no checkpoint at {missing}"
    for path in (tmp_path, Path("/dev/zero")):
        assert refusal(path) == f"no checkpoint at {path}, which is not a file"


def test_the_reason_is_the_first_line_of_a_readable_error():
    assert reason_of(OSError("disk\nfailed")) == "disk"
    assert "damaged" in reason_of(KeyError("206"))
    assert "damaged" in reason_of(RuntimeError())


def test_a_flipped_bit_in_the_weights_is_detected(checkpoints):
    """torch itself would load the changed weight."""
    save(checkpoints, content_of(0), is_best=False)
    path = checkpoints.path(1, "last")
    data = path.read_bytes()
    weights = np.full(150, 0.0, np.float32).tobytes()
    start = data.index(weights)
    for position in range(start, start + len(weights), 97):
        changed = bytearray(data)
        changed[position] ^= 1 << (position % 8)
        path.write_bytes(changed)
        assert torch.load(path)["state_dict"]["weight"].count_nonzero() == 1
        assert "cannot be read as a checkpoint" in refusal(path)


def test_the_error_for_a_damaged_checkpoint_names_the_intact_one(checkpoints):
    save(checkpoints, content_of(0), is_best=True)
    save(checkpoints, content_of(1), is_best=False)
    last, best = checkpoints.path(1, "last"), checkpoints.path(1, "best")
    intact = last.read_bytes()
    last.write_bytes(intact[:100])
    with pytest.raises(InputError) as refused:
        checkpoints.epochs_done(1)
    assert f"stage1_best.pth is intact (epoch 1): copy it to {last}" in str(refused.value)
    shutil.copy(best, last)
    assert epochs(checkpoints) == (0, 0)
    last.write_bytes(intact)
    best.write_bytes(intact[:100])
    with pytest.raises(InputError, match=rf"stage1_last\.pth is intact \(epoch 2\): .* {best}"):
        checkpoints.load(1, "best")
    last.write_bytes(b"")
    with pytest.raises(InputError, match=r"Remove stage1_best\.pth, stage1_last\.pth from"):
        checkpoints.load(1, "last")


def test_the_error_for_a_missing_checkpoint_names_the_intact_one(checkpoints):
    save(checkpoints, content_of(0), is_best=True)
    last, best = checkpoints.path(1, "last"), checkpoints.path(1, "best")
    best.unlink()
    with pytest.raises(InputError) as refused:
        checkpoints.load(1, "best")
    expected = f"no checkpoint at {best}. stage1_last.pth is intact (epoch 1): copy it to {best}"
    assert str(refused.value).startswith(expected)
    save(checkpoints, content_of(0, stage=2), is_best=True)
    last.unlink()
    with pytest.raises(InputError, match=r"Remove stage2_best\.pth, stage2_last\.pth .* stage 1"):
        checkpoints.load(1, "best")


def test_on_a_full_disk_the_old_checkpoint_stays_intact(checkpoints):
    save(checkpoints, content_of(0), is_best=True)
    too_large = content_of(1) | {"more": torch.zeros(100_000)}
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(
            InputError, match=r"stage1_last\.pth cannot be written .*free some space"
        ):
            save(checkpoints, too_large, is_best=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert epochs(checkpoints) == (0, 0)
    assert names(checkpoints) == ["stage1_best.pth", "stage1_last.pth"]


def test_a_checkpoint_in_a_read_only_folder_is_reported(checkpoints, monkeypatch):
    save(checkpoints, content_of(0), is_best=True)

    def refuse(*_):
        raise RuntimeError("[enforce fail at inline_container.cc:820] . File cannot be opened.")

    monkeypatch.setattr(torch, "save", refuse)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match=r"intact: make .* writable, then resume with --resume t"):
        save(checkpoints, content_of(1), is_best=True)
    assert epochs(checkpoints) == (0, 0)


def test_a_fold_that_is_removed_under_way_is_reported(checkpoints):
    save(checkpoints, content_of(0), is_best=True)
    shutil.rmtree(checkpoints.folder)
    with pytest.raises(
        InputError, match=rf"written .*\. The folder {checkpoints.folder} was removed or renamed: "
    ):
        save(checkpoints, content_of(1), is_best=True)


def test_leftovers_are_removed_and_nothing_else(checkpoints):
    checkpoints.save(content_of(0, kept=[0]), several=True)
    own = ["stage1_best.pth", "stage1_epoch1.pth", "stage1_last.pth"]
    for name in (".stage1_last.4711.pth", ".oof.12.npz", "stage1_epoch7.pth"):
        (checkpoints.folder / name).write_bytes(b"half")
    users = [".my.old.notes", ".stage1_last.mine.pth", "log.txt", "stage1_epoch1 (copy).pth"]
    users += ["stage1_epoch7_mybackup.pth", "stage2_epoch1.pth"]
    for name in users:
        (checkpoints.folder / name).touch()
    checkpoints.remove_leftovers()
    assert names(checkpoints) == sorted(own + users)
    assert checkpoints.best(1) == [checkpoints.folder / "stage1_epoch1.pth"]
    checkpoints.save(content_of(1, kept=[1]), several=True)
    own[1] = "stage1_epoch2.pth"
    assert names(checkpoints) == sorted(own + users)


@pytest.fixture
def fold(tmp_path):
    """The checkpoints of fold 3: two epochs of stage 1, both kept."""
    (tmp_path / "fold3").mkdir()
    checkpoints = FoldCheckpoints(tmp_path / "fold3")
    for epoch in range(2):
        kept = list(range(epoch + 1))
        checkpoints.save(content_of(epoch, kept=kept) | {"fold": 3}, several=True)
    return checkpoints


@pytest.mark.parametrize(
    ("source", "target", "held", "expected"),
    [
        ("stage1_last", "fold4/stage1_last", "fold 3, stage 1", "fold 4, stage 1"),
        ("stage1_best", "fold3/stage2_best", "fold 3, stage 1", "fold 3, stage 2"),
        ("stage1_epoch1", "fold3/stage1_epoch2", "stage 1, epoch 1", "stage 1, epoch 2"),
    ],
)
def test_a_checkpoint_in_the_wrong_place_is_refused(fold, source, target, held, expected):
    path = fold.folder.parent / f"{target}.pth"
    path.parent.mkdir(exist_ok=True)
    shutil.copy(fold.folder / f"{source}.pth", path)
    with pytest.raises(InputError) as refused:
        load_checkpoint(path)
    assert str(refused.value).startswith(f"{path} holds")
    assert f"{held}, but lies where" in str(refused.value)
    assert f"{expected} belongs" in str(refused.value)
    if "epoch" not in path.stem:
        stage, which = int(path.stem[5]), path.stem[7:]
        with pytest.raises(InputError, match="belongs"):
            FoldCheckpoints(path.parent).load(stage, which)


def test_checkpoints_in_their_places_are_loaded(fold):
    assert [load_checkpoint(path)["epoch"] for path in fold.best(1)] == [0, 1]
    assert epochs(fold) == (1, 0)


def test_a_misplaced_checkpoint_is_not_advised_as_the_intact_one(fold):
    fold.path(1, "last").write_bytes(b"")
    torch.save(content_of(4, stage=2) | {"fold": 3}, fold.path(1, "best"))
    with pytest.raises(InputError, match=r"Remove stage1_best\.pth, .*stage1_last\.pth"):
        fold.load(1, "last")


def test_outdated_epochs_of_a_killed_process_are_removed(checkpoints, monkeypatch):
    """They would be averaged in prediction."""
    for epoch in range(2):
        checkpoints.save(content_of(epoch, kept=range(epoch + 1)), several=True)
    with monkeypatch.context() as killed:
        killed.setattr(FoldCheckpoints, "_keep_only", lambda *_: sys.exit(9))
        with pytest.raises(SystemExit):
            checkpoints.save(content_of(2, kept=[2, 1]), several=True)
    assert len(checkpoints.best(1)) == 3
    checkpoints.remove_leftovers()
    assert [path.name for path in checkpoints.best(1)] == ["stage1_epoch2.pth", "stage1_epoch3.pth"]
    assert epochs(checkpoints) == (2, 2)


@pytest.mark.parametrize("home", [b"cnumpy._core.multi", b"cnumpy.core.multi"])
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_numpy_floats_are_loaded_from_before_and_after_numpy_2(kind, home, tmp_path):
    torch.save({"max_dice": kind(0.75), "lr": 1e-4}, tmp_path / "new.pth")
    with (
        zipfile.ZipFile(tmp_path / "new.pth") as new,
        zipfile.ZipFile(tmp_path / "a.pth", "w") as old,
    ):
        for name in new.namelist():
            old.writestr(name, new.read(name).replace(b"cnumpy._core.multi", home))
    assert home in (tmp_path / "a.pth").read_bytes()
    assert load_file(tmp_path / "a.pth") == {"max_dice": 0.75, "lr": 1e-4}


def save_tar(path):
    """Write the outline of a file of torch 0.1."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.addfile(tarfile.TarInfo(name))


UNSAFE = {
    "module": lambda path: torch.save(torch.nn.Linear(2, 2), path),
    "old module": lambda path: torch.save(
        torch.nn.Linear(2, 2), path, _use_new_zipfile_serialization=False
    ),
    "path": lambda path: torch.save({"config": Path("x")}, path),
    "script": lambda path: torch.jit.script(torch.nn.Linear(2, 2)).save(path),
    "tar": save_tar,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", UNSAFE)
def test_no_message_advises_to_load_a_file_unsafely(tmp_path, kind):
    UNSAFE[kind](tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"holds more than tensors and plain types$") as refused:
        load_file(tmp_path / "a.pth")
    assert "weights_only" not in str(refused.value)
