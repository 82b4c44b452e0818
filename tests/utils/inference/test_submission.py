"""The csv files of a prediction."""

import os

import pytest

from utils.inference.submission import Prediction, scores_path, write_submission

PREDICTIONS = [Prediction("a", "1 2", 0.75, 2), Prediction("b", "-1", 0.125, 0)]
ROWS = "ImageId,EncodedPixels\na,1 2\nb,-1\n"
SCORES = "ImageId,probability,area\na,0.750000,2\nb,0.125000,0\n"


@pytest.mark.parametrize("linked", [False, True])
def test_both_files_are_written_even_through_a_link(tmp_path, linked):
    out = tmp_path / "new" / "out.csv"
    if linked:
        out.parent.mkdir()
        out.symlink_to(tmp_path / "target.csv")
    write_submission(out, PREDICTIONS)
    assert out.is_symlink() == linked
    assert out.read_text() == ROWS
    assert scores_path(out) == out.with_name("scores.csv")
    assert out.with_name("scores.csv").read_text() == SCORES
    assert {path.name for path in out.parent.iterdir()} == {"out.csv", "scores.csv"}


def test_a_pipe_gets_the_submission_and_no_scores_beside_it(tmp_path):
    pipe = tmp_path / "out.csv"
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    write_submission(pipe, PREDICTIONS)
    assert os.read(descriptor, 1000).decode() == ROWS
    os.close(descriptor)
    assert scores_path(pipe) is None
    assert list(tmp_path.iterdir()) == [pipe]
