"""The contact sheet of augmentations, drawn by its command."""

import cv2
import numpy as np
import pytest

from datasets.formats.images import read_image
from datasets.preprocessing import preprocess
from datasets.preview import main
from tests.helpers.image_files import read_pixels
from tests.helpers.tiny import write_dataset
from utils.commands.preview import SEEDS
from utils.drawing import TILE, TRUTH

SETS = 3


@pytest.fixture
def root(tmp_path):
    return write_dataset(tmp_path / "data", count=4)


@pytest.fixture
def run(root, tmp_path, capsys):
    """Run the command and return its exit code, its output and the sheet, RGB, or None."""

    def call(*extra, name="sheet.png"):
        path = tmp_path / name
        words = ["--out", path, "--dataset_root", root, "--size", "64", *extra]
        code = main(list(map(str, words)))
        output = capsys.readouterr()
        sheet = cv2.imread(str(path))
        return code, output.out + output.err, None if sheet is None else sheet[..., ::-1]

    return call


def tiles_of(sheet):
    """Cut the pictures out of a sheet: {(row, column): [TILE,TILE,3]}."""
    pitch_x = (sheet.shape[1] - 10) // (1 + SEEDS)
    pitch_y = (sheet.shape[0] - 64) // SETS
    corners = {
        (row, column): (64 + row * pitch_y + 32, 10 + column * pitch_x)
        for row in range(SETS)
        for column in range(1 + SEEDS)
    }
    return {k: sheet[top : top + TILE, left : left + TILE] for k, (top, left) in corners.items()}


def test_each_row_starts_with_the_image_as_prepared_for_training(run, root):
    code, output, sheet = run()
    assert code == 0
    tiles = tiles_of(sheet)
    name = output.split()[-1]
    grey = preprocess(read_image(root / "train_images" / f"{name}.png"), 64, clahe=True)
    enlarged = cv2.resize(grey, (TILE, TILE), interpolation=cv2.INTER_LINEAR)
    for row in range(SETS):
        plain = tiles[row, 0]
        assert np.array_equal(plain, tiles[0, 0])
        is_grey = (plain == plain[..., :1]).all(axis=2)
        assert 0.5 < is_grey.mean() < 1
        assert np.array_equal(plain[is_grey][:, 0], enlarged[is_grey])
        assert (plain == TRUTH).all(axis=2).any()


def test_the_rows_differ_and_so_do_the_seeds(run):
    tiles = tiles_of(run()[2])
    for row in range(SETS):
        assert len({tiles[row, column].tobytes() for column in range(1 + SEEDS)}) >= 4
    assert len({tiles[row, 3].tobytes() for row in range(SETS)}) == SETS


def test_the_same_seed_yields_the_same_sheet_and_the_next_shifts_it_by_a_tile(run):
    first, again, shifted = run()[2], run()[2], run("--seed", 1)[2]
    assert np.array_equal(first, again)
    one, other = tiles_of(first), tiles_of(shifted)
    for row in range(SETS):
        for column in range(1, SEEDS):
            assert np.array_equal(one[row, column + 1], other[row, column])


def test_the_first_positive_is_drawn_and_any_other_image_on_request(run, root):
    masks = sorted((root / "train_mask").iterdir())
    for path in masks[:2]:
        cv2.imwrite(str(path), np.zeros_like(cv2.imread(str(path), 0)))
    positive = next(p for p in masks if read_pixels(p, cv2.IMREAD_GRAYSCALE).any())
    assert positive.stem in run()[1]
    code, output, sheet = run("--image", masks[0].stem)
    assert (code, masks[0].stem in output) == (0, True)
    assert not (sheet == TRUTH).all(axis=2).any()


def test_a_data_set_without_positives_still_yields_a_sheet(run, root):
    for path in (root / "train_mask").iterdir():
        cv2.imwrite(str(path), np.zeros_like(cv2.imread(str(path), 0)))
    code, output, sheet = run()
    assert code == 0
    assert "image00" in output
    assert not (sheet == TRUTH).all(axis=2).any()


def test_clahe_can_be_disabled(run):
    assert not np.array_equal(tiles_of(run()[2])[0, 0], tiles_of(run("--clahe", "false")[2])[0, 0])


def test_an_unknown_image_is_refused_with_an_example(run):
    code, output, sheet = run("--image", "nobody")
    assert (code, sheet) == (2, None)
    assert "--image nobody: none of the 4 annotated images" in output
    assert "such as image00" in output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "sheet.gif"], "does not end in .png"),
        (["--out", "a.png", "--size", "0"], "'0' is not a whole number from 1 to 4,096"),
        (["--out", "a.png", "--size", "1" * 5000], "is not a whole number"),
        (["--out", "a.png", "--seed", "-1"], "'-1' is not a whole number from 0"),
        ([], "--out"),
    ],
)
def test_invalid_arguments_are_refused(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_link_stays_and_its_target_is_drawn(run, tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "target.png")
    assert run(name="link.png")[0] == 0
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "target.png").is_file()
