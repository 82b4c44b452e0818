"""Only exact names in a run's folder are the run's own."""

import pytest

from utils.config.layout import (
    finished_folds,
    fold_folders,
    fold_number,
    list_checkpoints,
    parse_checkpoint,
)

OWN = {
    "stage1_best.pth": (1, None),
    "stage2_last.pth": (2, None),
    "stage2_epoch2.pth": (2, 2),
    "stage3_epoch10.pth": (3, 10),
}
FOREIGN = [
    "stage2_epoch2_mybackup.pth",
    "stage2_epoch2 (copy).pth",
    "stage2_epoch2.pth.bak",
    "stage2_epoch02.pth",
    "stage2_epoch0.pth",
    "stage2_epoch\u0662.pth",
    "stage2_best.pth\n",
    "my_stage2_best.pth",
    "stage12_best.pth",
    "stage2_epoch.pth",
]


def test_checkpoints_are_known_by_their_exact_names(tmp_path):
    for name in (*OWN, *FOREIGN, ".stage1_best.12.pth", "log.txt"):
        (tmp_path / name).touch()
    found = list_checkpoints(tmp_path)
    assert {path.name: tuple(name) for name, path in found} == OWN
    assert [path.name for _, path in found] == sorted(OWN)
    assert list_checkpoints(tmp_path / "none") == []


@pytest.mark.parametrize("name", FOREIGN)
def test_other_names_are_not_checkpoints(name):
    assert parse_checkpoint(name) is None


def test_folds_are_known_by_their_exact_names_in_the_order_of_their_numbers(tmp_path):
    own = {0: "fold0", 2: "fold2", 10: "fold10"}
    foreign = ["fold0_old", "fold1 (copy)", "fold01", "fold\u0663", "my fold3", "fold", "fold-1"]
    for name in (*own.values(), *foreign):
        (tmp_path / name).mkdir()
        (tmp_path / name / "oof.npz").touch()
    (tmp_path / "fold2" / "oof.npz").unlink()
    assert list(fold_folders(tmp_path).items()) == [(n, tmp_path / own[n]) for n in own]
    assert list(finished_folds(tmp_path)) == [0, 10]
    assert [fold_number(tmp_path / name) for name in foreign] == [None] * len(foreign)
    assert fold_folders(tmp_path / "none") == {}
