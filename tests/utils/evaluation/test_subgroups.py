"""Subgroups from csv files as they come."""

import numpy as np
import pytest

from utils.errors import InputError
from utils.evaluation.subgroups import MOST_VALUES, read_subgroups


def write(path, *rows):
    path.write_text("\n".join(rows) + "\n")
    return path


def members(groups):
    return {(g.attribute, g.value): np.flatnonzero(g.members).tolist() for g in groups}


def test_every_value_of_every_attribute_is_a_group(tmp_path):
    path = write(
        tmp_path / "a.csv",
        "ImageId,view,PatientId,sex,site",
        "a,PA,p1,F,one",
        "b.png,AP,p1,,one",
        "c,PA,p2,M,one",
    )
    groups = members(read_subgroups(path, ["a", "b", "c", "d"]))
    assert groups == {
        ("view", "AP"): [1],
        ("view", "PA"): [0, 2],
        ("view", "unknown"): [3],
        ("sex", "F"): [0],
        ("sex", "M"): [2],
        ("sex", "unknown"): [1, 3],
        ("site", "one"): [0, 1, 2],
        ("site", "unknown"): [3],
    }


def test_numbers_are_cut_into_quarters(tmp_path):
    ages = [f"{20 + 2 * i:03d}Y" for i in range(12)]
    rows = [f"{i},{age}" for i, age in enumerate(ages)]
    path = write(tmp_path / "a.csv", "Image Index,age", *rows)
    groups = members(read_subgroups(path, [str(i) for i in range(13)]))
    assert groups == {
        ("age", "20 to 24"): [0, 1, 2],
        ("age", "26 to 30"): [3, 4, 5],
        ("age", "32 to 36"): [6, 7, 8],
        ("age", "38 to 42"): [9, 10, 11],
        ("age", "unknown"): [12],
    }


def test_a_number_between_two_quarters_is_in_the_lower_one(tmp_path):
    path = write(tmp_path / "a.csv", "ImageId,age", *(f"{i},{i}" for i in range(9)))
    groups = members(read_subgroups(path, [str(i) for i in range(9)]))
    assert [value for _, value in groups] == ["0 to 2", "3 to 4", "5 to 6", "7 to 8"]


def test_rare_values_share_a_group(tmp_path):
    hospitals = [f"h{i}" for i in range(MOST_VALUES) for _ in range(2)] + ["x", "y"]
    rows = [f"{i},{name}" for i, name in enumerate(hospitals)]
    path = write(tmp_path / "a.csv", "ImageId,hospital", *rows)
    groups = members(read_subgroups(path, [str(i) for i in range(len(hospitals))]))
    assert len(groups) == MOST_VALUES + 1
    assert groups["hospital", "others"] == [2 * MOST_VALUES, 2 * MOST_VALUES + 1]


def test_an_attribute_of_one_value_makes_no_groups(tmp_path):
    path = write(tmp_path / "a.csv", "ImageId,view", "a,PA", "b,PA")
    assert read_subgroups(path, ["a", "b"]) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("ImageId,PatientId", "a,1"), "has no column of an attribute"),
        (("name,view", "a,PA"), r"dicom_id\), found \['name', 'view'\]"),
        (("ImageId,view", "a,PA", "a.png,AP"), "row 3: a.png is repeated"),
        (("ImageId,view", "x,PA"), "none of its 1 images is among the 2 of the run, such as a"),
        ((), "looked for the columns|has no column"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        read_subgroups(write(tmp_path / "a.csv", *rows), ["a", "b"])


def test_a_missing_csv_is_said(tmp_path):
    with pytest.raises(InputError, match=r"none.csv cannot be read as a csv of attributes"):
        read_subgroups(tmp_path / "none.csv", ["a"])
