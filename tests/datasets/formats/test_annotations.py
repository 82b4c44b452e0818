import numpy as np
import pytest

from datasets.formats.annotations import RleRow, annotated_mask, check_extent, read_annotations
from utils.errors import InputError

FORMATS = {
    "stage 1": b"ImageId, EncodedPixels\na, -1\nb, 0 2\nb, 3 1\n",
    "stage 2": b"ImageId,EncodedPixels\na,-1\nb,0 2\nb,3 1\n",
    "sample": b"\xef\xbb\xbfa,-1\r\nb, 0 2\r\nb, 3 1",
    "more columns": b"id,EncodedPixels,ImageId\n0,-1,a\n1,0 2,b\n2,3 1,b\n",
    "suffixes": b"ImageId,EncodedPixels\na.dcm,-1\nb.png,0 2\nb.JPG,3 1\n",
    "SOPInstanceUID": b"SOPInstanceUID,StudyInstanceUID,EncodedPixels,Report\n"
    b'a,1,-1,"no, none"\nb,2,0 2,\nb,2,3 1,large\n',
    "image_id": b"patientId,image_id,EncodedPixels\n1,a,-1\n2,b,0 2\n2,b,3 1\n",
    "ImageID": b"ImageID,EncodedPixels\na,-1\nb,0 2\nb,3 1\n",
    "patientId": b"EncodedPixels,patientId\n-1,a\n0 2,b\n3 1,b\n",
    "lists": b'ImageId,EncodedPixels\na,[]\nb,"[0, 2]"\nb,"[3,1]"\n',
    "lists without commas": b"ImageId,EncodedPixels\na,[-1]\nb,[0 2]\nb,[3  1]\n",
    "lists without header": b'\na,[]\nb,"[0, 2]"\nb,"[3, 1]"\n',
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


def test_absolute_run_lengths_are_converted_to_relative_ones(tmp_path):
    text = b"ImageId,EncodedPixels\na,-1\nb,1 2 6 3\nb,9 1\n"
    assert read_annotations(write(tmp_path, text), "absolute") == {
        "a": [RleRow(2, "-1")],
        "b": [RleRow(3, "0 2 3 3"), RleRow(4, "8 1")],
    }


def test_a_csv_whose_runs_overlap_if_they_are_absolute_is_relative(tmp_path):
    path = write(tmp_path, b"ImageId,EncodedPixels\na,5 10\nb,100 9 50 9\n")
    with pytest.raises(InputError, match=r"rle\.csv row 3: .* not absolute; .* pixel 50, .*form"):
        read_annotations(path, "absolute")


@pytest.mark.parametrize("text", ["30 6 40 5", "3 5 60 1"])
def test_runs_beyond_an_image_that_fit_as_absolute_ones_name_the_form(text):
    rows, advice = [RleRow(2, text)], "--rle_form absolute says"
    with pytest.raises(InputError, match=advice):
        check_extent("a", rows, (8, 8), "x.csv")
    with pytest.raises(InputError) as caught:
        check_extent("a", [RleRow(2, "30 6 40 50")], (8, 8), "x.csv")
    assert advice not in str(caught.value)


def test_blank_lines_are_counted_but_skipped(tmp_path):
    rows = read_annotations(write(tmp_path, b"\nImageId,EncodedPixels\n\na,-1\n,\n"))
    assert rows == {"a": [RleRow(4, "-1")]}


@pytest.mark.parametrize("cell", [b"", b" ", b'""', b" -1"])
def test_an_empty_cell_means_no_mask(tmp_path, cell):
    rows = read_annotations(write(tmp_path, b"ImageId,EncodedPixels\na," + cell + b"\nb,0 2\n"))
    assert not annotated_mask(rows["a"], 3, 5, "x.csv").any()
    assert annotated_mask(rows["b"], 3, 5, "x.csv").sum() == 2


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
        (b"ImageId,EncodedPixels\na,1 2\nb", "row 3: has 1 of at least 2 values; it is cut off"),
        (b"\xff\xfeI\0m\0", "UTF-8"),
        (b"ImageId,EncodedPixels\na," + b"1 " * 2**22 + b"1", "not a csv"),
    ],
    ids=[
        "empty",
        "header only",
        "other columns",
        "semicolons",
        "no header",
        "id",
        "cut",
        "text",
        "long",
    ],
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
