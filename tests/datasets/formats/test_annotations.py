import numpy as np
import pytest

from datasets.formats.annotations import RleRow, annotated_mask, read_annotations
from utils.errors import InputError

FORMATS = {
    "stage 1": b"ImageId, EncodedPixels\na, -1\nb, 0 2\nb, 3 1\n",
    "stage 2": b"ImageId,EncodedPixels\na,-1\nb,0 2\nb,3 1\n",
    "sample": b"\xef\xbb\xbfa,-1\r\nb, 0 2\r\nb, 3 1",
    "more columns": b"id,EncodedPixels,ImageId\n0,-1,a\n1,0 2,b\n2,3 1,b\n",
    "quoted": b'"ImageId","EncodedPixels"\n"a","-1"\n"b","0 2"\n"b","3 1"\n',
}


def write(tmp_path, data):
    path = tmp_path / "rle.csv"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("csv_format", FORMATS)
def test_every_format_yields_the_same_rows_and_line_numbers(tmp_path, csv_format):
    first = 1 if csv_format == "sample" else 2
    assert read_annotations(write(tmp_path, FORMATS[csv_format])) == {
        "a": [RleRow(first, "-1")],
        "b": [RleRow(first + 1, "0 2"), RleRow(first + 2, "3 1")],
    }


def test_blank_lines_are_counted_but_skipped(tmp_path):
    rows = read_annotations(write(tmp_path, b"\nImageId,EncodedPixels\n\na,-1\n,\n"))
    assert rows == {"a": [RleRow(4, "-1")]}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no rows"),
        (b"ImageId,EncodedPixels\n", "no rows"),
        (b"ImageId,PatientId\na,7\n", "EncodedPixels.*PatientId"),
        (
            b"ImageId;EncodedPixels\na;-1\n",
            r"expected the columns ImageId \(or ImageID, .*\) and EncodedPixels",
        ),
        (b"a,b,c\n", r"expected the columns ImageId \(or .*\) and EncodedPixels"),
        (b"ImageId,EncodedPixels\n,1 2\n", "row 2: has no id"),
        (b"\xff\xfeI\0m\0", "UTF-8"),
        (b"ImageId,EncodedPixels\na," + b"1 " * 2**22 + b"1", "not a csv"),
    ],
    ids=["empty", "header only", "other columns", "semicolons", "no header", "id", "text", "long"],
)
def test_an_unusable_csv_is_reported_with_what_was_expected(tmp_path, data, reason):
    with pytest.raises(InputError, match=rf"rle\.csv.*{reason}"):
        read_annotations(write(tmp_path, data))


def test_a_missing_csv_is_reported(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.csv.*No such file"):
        read_annotations(tmp_path / "nowhere.csv")


def test_the_mask_is_the_union_of_the_rows():
    mask = annotated_mask([RleRow(2, "0 4"), RleRow(3, "2 4"), RleRow(4, "8 1")], 3, 3, "x.csv")
    assert mask.dtype == np.uint8
    assert np.array_equal(mask.T.ravel(), [1, 1, 1, 1, 1, 1, 0, 0, 1])


def test_empty_rows_yield_an_empty_mask_of_the_size_of_the_image():
    mask = annotated_mask([RleRow(2, "-1"), RleRow(3, "-1")], 3, 5, "x.csv")
    assert mask.shape == (3, 5)
    assert not mask.any()


@pytest.mark.parametrize("order", [("-1", "0 1"), ("0 1", "-1")])
def test_an_empty_row_contradicts_run_lengths(order):
    rows = [RleRow(number, text) for number, text in enumerate(order, start=2)]
    empty, full = (2, 3) if order[0] == "-1" else (3, 2)
    with pytest.raises(InputError, match=rf"x\.csv row {empty}: .* row {full} "):
        annotated_mask(rows, 3, 3, "x.csv")


@pytest.mark.parametrize("text", ["0 1 2", "8 2", "-3 1", "", "a b"])
def test_an_undecodable_row_is_reported(text):
    with pytest.raises(InputError, match=r"x\.csv row 7: "):
        annotated_mask([RleRow(2, "0 1"), RleRow(7, text)], 3, 3, "x.csv")


@pytest.mark.parametrize(
    ("name", "rows", "images", "positive"),
    [
        ("train-rle.csv", 11582, 10675, 2379),
        ("stage_2_train.csv", 12954, 12047, 2669),
        ("train-rle-sample.csv", 10, 10, 5),
    ],
)
def test_the_official_files_have_the_known_counts(siim_data, name, rows, images, positive):
    found = read_annotations(siim_data / "siim" / name)
    assert sum(map(len, found.values())) == rows
    assert len(found) == images
    assert sum(row[0].rle != "-1" for row in found.values()) == positive
    several = sum(len(row) > 1 for row in found.values())
    assert max(map(len, found.values())) == (1 if images == 10 else 10)
    assert several == 624 or name != "stage_2_train.csv"
