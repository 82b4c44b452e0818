"""The images to predict with their ids, and the csv files of the results."""

import errno
import os
from pathlib import Path

import pytest

from tests.helpers.dicoms import picture, write_dicom
from utils.inference.submission import (
    Prediction,
    find_input_images,
    read_sample,
    scores_path,
    write_submission,
)

PREDICTIONS = [Prediction("a", "1 2", 0.75, 2), Prediction("b", "-1", 0.125, 0)]
ROWS = "ImageId,EncodedPixels\na,1 2\nb,-1\n"
SCORES = "ImageId,probability,area\na,0.75,2\nb,0.125,0\n"


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


@pytest.mark.parametrize("failing", ["scores.csv", "out.csv"])
def test_a_new_submission_never_lies_beside_old_scores(tmp_path, monkeypatch, failing):
    """Whichever of the two cannot be replaced at the end."""
    out, scores, replace = tmp_path / "out.csv", tmp_path / "scores.csv", os.replace
    for path in (out, scores):
        path.write_text("old")

    def fail(source, target):
        if Path(target).name == failing:
            raise OSError(errno.EIO, "Input/output error", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match=failing):
        write_submission(out, PREDICTIONS)
    assert out.read_text() == "old"
    assert scores.read_text() == ("old" if failing == "scores.csv" else SCORES)


def test_a_pipe_gets_the_submission_and_no_scores_beside_it(tmp_path):
    pipe = tmp_path / "out.csv"
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    write_submission(pipe, PREDICTIONS)
    assert os.read(descriptor, 1000).decode() == ROWS
    os.close(descriptor)
    assert scores_path(pipe) is None
    assert list(tmp_path.iterdir()) == [pipe]


def test_ids_that_a_sample_submission_repeats_are_dropped_with_a_word(tmp_path, capsys):
    sample = tmp_path / "sample.csv"
    sample.write_text("ImageId,EncodedPixels\nb,-1\na,-1\nb,-1\nb,-1\n")
    assert read_sample(sample) == ["b", "a"]
    assert "sample.csv: 2 rows repeat an id and are dropped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("uid", ["1.2.3", "1.2.4"]),
        ("file", ["view1", "view2"]),
        ("path", ["patient1__study1__view1", "patient2__view2"]),
    ],
)
def test_ids_are_uids_file_names_or_paths(tmp_path, kind, expected):
    write_dicom(tmp_path / "in/patient1/study1/view1.dicom", picture(), "1.2.3")
    write_dicom(tmp_path / "in/patient2/view2.dcm", picture(), "1.2.4")
    images, problems = find_input_images([tmp_path / "in"], kind)
    assert [image.id for image in images] == expected
    assert not problems
    (image,), _ = find_input_images([tmp_path / "in/patient2/view2.dcm"], kind)
    assert image.id == {"uid": "1.2.4"}.get(kind, "view2")


def test_a_dicom_without_a_suffix_is_an_image_like_any_other(tmp_path):
    for name in ("plain", "1.2.276.0.7230010.1517875165.878027"):
        write_dicom(tmp_path / name, picture(), uid="")
        (image,), _ = find_input_images([tmp_path / name])
        assert image.id == name
    assert len(find_input_images([tmp_path])[0]) == 2
