"""Folds, compared with scikit-learn on sorted ids and with counts."""

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from datasets.folds import (
    describe_leakage,
    get_fold,
    make_folds,
    read_folds,
    write_folds,
)
from datasets.formats.annotations import read_annotations
from datasets.patients import read_patients
from utils.errors import InputError

KINDS = [(stratified, grouped) for stratified in (False, True) for grouped in (False, True)]


def images(count=57, share=0.3, patients=20, seed=0):
    """Draw labels and patients for unordered images; some patients are unknown."""
    rng = np.random.default_rng(seed)
    ids = [f"{i:04d}" for i in rng.permutation(count)]
    positive = {image_id: bool(rng.random() < share) for image_id in ids}
    known = {image_id: f"p{rng.integers(patients)}" for image_id in ids if rng.random() < 0.9}
    return positive, known


@pytest.mark.parametrize(("stratified", "grouped"), KINDS)
def test_folds_equal_those_of_scikit_learn_on_sorted_ids(stratified, grouped):
    positive, patients = images()
    table = make_folds(positive, 5, stratified, patients, grouped)
    ids = sorted(positive)
    labels = [int(positive[i]) for i in ids]
    groups = [patients.get(i, f"alone {i}") for i in ids] if grouped else None
    kind = {
        (False, False): KFold,
        (True, False): StratifiedKFold,
        (False, True): GroupKFold,
        (True, True): StratifiedGroupKFold,
    }[stratified, grouped]
    splitter = kind(n_splits=5, shuffle=True, random_state=1)
    # Groups of single images have other names here, but sort the same: before the patients.
    assert table["ImageId"].tolist() == ids
    assert table["positive"].tolist() == labels
    assert table["PatientId"].tolist() == [patients.get(i, "") for i in ids]
    for number, (_, valid) in enumerate(splitter.split(ids, labels, groups)):
        assert table.index[table["fold"] == number].tolist() == valid.tolist()


@pytest.mark.parametrize(("stratified", "grouped"), KINDS)
def test_folds_do_not_depend_on_the_order_of_the_images(stratified, grouped):
    positive, patients = images()
    backwards = dict(reversed(positive.items()))
    table = make_folds(positive, 4, stratified, patients, grouped)
    again = make_folds(backwards, 4, stratified, dict(reversed(patients.items())), grouped)
    pd.testing.assert_frame_equal(table, again)


def test_ungrouped_folds_do_not_depend_on_known_patients():
    positive, patients = images()
    assert make_folds(positive, 5, True)["fold"].equals(
        make_folds(positive, 5, True, patients)["fold"]
    )


@pytest.mark.parametrize("seed", range(5))
def test_stratified_folds_spread_positives_evenly(seed):
    positive, _ = images(seed=seed)
    per_fold = (
        make_folds(positive, 5, stratified=True).groupby("fold")["positive"].agg(["sum", "size"])
    )
    assert per_fold["sum"].max() - per_fold["sum"].min() <= 1
    assert per_fold["size"].max() - per_fold["size"].min() <= 1


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_grouped_folds_never_split_a_patient_and_are_never_empty(stratified, seed):
    positive, patients = images(seed=seed)
    table = make_folds(positive, 5, stratified, patients, grouped=True)
    known = table[table["PatientId"] != ""]
    assert known.groupby("PatientId")["fold"].nunique().max() == 1
    assert set(table["fold"]) == set(range(5))
    assert table.loc[table["PatientId"] == "", "fold"].nunique() > 1  # they are not one patient


def test_a_patient_with_the_name_of_an_image_is_not_that_image():
    patients = {"b": "image a", "c": "image a"}
    table = make_folds(dict.fromkeys("abc", False), 2, False, patients, grouped=True)
    fold_of = dict(zip(table["ImageId"], table["fold"], strict=True))
    assert fold_of["b"] == fold_of["c"] != fold_of["a"]


def test_a_fold_validates_on_the_held_out_images_and_trains_on_the_rest():
    positive, patients = images()
    table = make_folds(positive, 5, True, patients)
    held_out = []
    for number in range(5):
        fold = get_fold(table, number)
        assert fold.number == number
        assert fold.train == sorted(positive.keys() - set(fold.valid))
        assert fold.valid == sorted(fold.valid)
        assert fold.positive == {i for i, p in positive.items() if p}
        held_out += fold.valid
    assert sorted(held_out) == sorted(positive)


@pytest.mark.parametrize(
    ("positive", "settings", "reason"),
    [
        ([1, 0, 1], {}, "3 images are too few for --n_splits 4"),
        ([1] * 3 + [0] * 9, {"stratified": True}, "3 positive images .* main.py"),
        ([0] * 3 + [1] * 9, {"stratified": True}, "3 empty images .* main.py"),
        ([1, 0] * 9, {"grouped": True}, "3 patients are too few for --n_splits 4"),
    ],
)
def test_too_few_images_or_patients_are_refused(positive, settings, reason):
    images = {f"i{n}": bool(p) for n, p in enumerate(positive)}
    patients = {name: f"p{n % 3}" for n, name in enumerate(images)}
    with pytest.raises(InputError, match=reason):
        make_folds(images, 4, **({"stratified": False, "patients": patients} | settings))


def test_images_of_a_single_class_can_be_stratified():
    assert make_folds({f"i{n}": True for n in range(8)}, 4, True)["fold"].value_counts().eq(2).all()


def slow_leakage(table):
    rows = [row for row in table.itertuples() if row.PatientId]
    shared = [a for a in rows if any(a.PatientId == b.PatientId and a.fold != b.fold for b in rows)]
    return (
        f"{len(shared)} of {len(rows)} images, and {sum(r.positive for r in shared)} of "
        f"{sum(r.positive for r in rows)} positives, share"
    )


@pytest.mark.parametrize(("stratified", "grouped"), KINDS)
def test_leakage_is_counted_image_by_image(stratified, grouped):
    positive, patients = images()
    table = make_folds(positive, 5, stratified, patients, grouped)
    text = describe_leakage(table)
    assert text.startswith(slow_leakage(table))
    assert text.startswith("0 of") is grouped
    assert text.endswith(f"the patient of {len(positive) - len(patients)} images is unknown")


def test_leakage_is_unknown_without_patients():
    positive, patients = images()
    assert "patients unknown" in describe_leakage(make_folds(positive, 5, False))
    everyone = dict.fromkeys(positive, "p1") | patients
    assert "unknown" not in describe_leakage(make_folds(positive, 5, False, everyone))


def test_real_patients_leak_through_ungrouped_folds_only(siim_data):
    rows = read_annotations(siim_data / "siim" / "stage_2_train.csv")
    positive = {name: found[0].rle != "-1" for name, found in rows.items()}
    patients = read_patients(siim_data / "siim" / "patients.csv")
    plain = describe_leakage(make_folds(positive, 5, True, patients))
    assert plain.startswith("7440 of 12047 images, and 2512 of 2669 positives")
    table = make_folds(positive, 5, True, patients, grouped=True)
    assert describe_leakage(table).startswith("0 of 12047 images, and 0 of 2669 positives")
    positives = table.groupby("fold")["positive"].sum()
    assert positives.max() - positives.min() <= 2


@pytest.mark.parametrize("known", [True, False])
def test_folds_csv_survives_writing_and_reading(tmp_path, known):
    names = ["0123", "1e5", "NA", "nan", "1.2.840", "ID_0f", "a,b", "true", "007", "None"]
    patients = {"0123": "00000042", "NA": "NA", "a,b": "1e5"} if known else None
    table = make_folds({name: i % 2 == 0 for i, name in enumerate(names)}, 2, True, patients)
    write_folds(table, tmp_path / "folds.csv")
    again = read_folds(tmp_path / "folds.csv")
    assert again.equals(table)
    assert again["ImageId"].tolist() == sorted(names)
    assert again["PatientId"].tolist() == [(patients or {}).get(name, "") for name in sorted(names)]


@pytest.mark.parametrize(
    "text",
    [None, "", "ImageId,fold\na,0\n", "ImageId,fold,positive,PatientId\na,zero,1,\n", "\0\1"],
    ids=["missing", "empty", "columns", "words", "bytes"],
)
def test_an_unusable_folds_csv_is_reported(tmp_path, text):
    if text is not None:
        (tmp_path / "folds.csv").write_text(text)
    with pytest.raises(InputError, match=r"folds\.csv cannot be read as a table of folds"):
        read_folds(tmp_path / "folds.csv")
