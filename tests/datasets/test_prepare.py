import csv
import os
import re
import shutil

import cv2
import numpy as np
import pytest
from pydicom.uid import JPEGLosslessSV1

from datasets.formats.images import find_images, image_id, read_image
from datasets.formats.rle import decode
from datasets.prepare import main
from datasets.tools import convert
from tests.helpers.dicoms import jpeg, picture, write_dicom, write_jpeg_dicom


class Place:
    """A folder of originals, a csv and an output folder, and the command run on them."""

    def __init__(self, folder, capsys):
        self.originals, self.out, self.csv = folder / "in", folder / "out", folder / "rle.csv"
        self.originals.mkdir()
        self.capsys = capsys

    def annotate(self, *rows):
        self.csv.write_text("\n".join(["ImageId,EncodedPixels", *(f"{a},{b}" for a, b in rows)]))

    def dicom(self, uid, seed=0, name=None):
        return write_jpeg_dicom(self.originals / f"{name or uid}.dcm", picture(seed=seed), uid)

    def png(self, name, grey):
        (self.originals / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(self.originals / name), grey)

    def run(self, *extra, code=0):
        args = ["--images", self.originals, "--out", self.out, "--num_workers", 0]
        if "--split" not in extra:
            args += ["--rle", self.csv]
        result = main([str(arg) for arg in (*args, *extra)])
        text = "".join(self.capsys.readouterr())
        assert result == code, text
        return text

    def files(self):
        return sorted(str(p.relative_to(self.out)) for p in self.out.rglob("*") if p.is_file())

    def mask(self, name):
        return cv2.imread(str(self.out / "train_mask" / f"{name}.png"), cv2.IMREAD_UNCHANGED)

    def image(self, name):
        return read_image(self.out / "train_images" / name)


@pytest.fixture
def place(tmp_path, capsys):
    return Place(tmp_path, capsys)


@pytest.fixture
def two(place):
    """One positive and one negative DICOM."""
    place.dicom("1.1", seed=1)
    place.dicom("1.2", seed=2)
    place.annotate(("1.1", "5 10"), ("1.1", "10 20"), ("1.2", "-1"))
    return place


TWO = ["train_images/1.1.jpg", "train_images/1.2.jpg", "train_mask/1.1.png", "train_mask/1.2.png"]


def test_dicoms_become_their_jpegs_and_masks_at_the_size_of_the_image(two):
    text = two.run()
    assert two.files() == TWO
    assert (two.out / TWO[0]).read_bytes().rstrip(b"\0") == jpeg(picture(seed=1))
    expected = decode("5 10", 48, 64) | decode("10 20", 48, 64)
    assert np.array_equal(two.mask("1.1"), expected * 255)
    assert two.mask("1.2").shape == (48, 64)
    assert not two.mask("1.2").any()
    assert "2 images made, 0 already there, 1 positive; 0 unannotated, 0 refused" in text


def test_every_kind_of_image_is_taken_and_reads_as_before(place):
    grey = picture()
    (place.originals / "copied.jpeg").write_bytes(jpeg(grey))
    place.png("deep/er/copied_too.PNG", grey)
    place.png("deep/sixteen.png", grey.astype(np.uint16) * 250)
    place.png("colour.png", np.dstack([grey, grey // 2, grey]))
    write_dicom(place.originals / "uncompressed.dcm", grey.astype(np.uint16), "un.compressed", 12)
    names = {image_id(path): path for path in find_images(place.originals)}
    place.annotate(*((name, "0 3") for name in names))
    place.run()
    images = find_images(place.out / "train_images")
    assert {path.stem for path in images} == set(names)
    for path in images:
        assert np.array_equal(read_image(path), read_image(names[path.stem]))
        kind = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert (kind.dtype, kind.ndim) == (np.uint8, 2)
    for name, source in (
        ("copied.jpg", "copied.jpeg"),
        ("copied_too.png", "deep/er/copied_too.PNG"),
    ):
        copy = place.out / "train_images" / name
        assert copy.read_bytes() == (place.originals / source).read_bytes()


def test_an_image_without_a_row_is_left_out_and_named(two):
    two.dicom("1.3")
    two.annotate(("1.1", "5 10"), ("1.2", "-1"), ("7.7", "-1"), ("8.8", "0 1"))
    text = two.run()
    assert "unannotated, left out: 1.3" in text
    assert "2 ids of the csv have no image here" in text
    assert two.files() == TWO


def test_many_unannotated_images_are_listed_in_a_file(two):
    names = [f"extra{number:02}" for number in range(30)]
    for name in names:
        two.png(f"{name}.png", picture())
    assert "30 unannotated, left out: listed in" in two.run()
    assert (two.out / "train_unannotated.txt").read_text().split() == names


def test_what_is_no_longer_annotated_does_not_stay(two):
    two.run()
    two.annotate(("1.2", "-1"))
    two.run()
    assert two.files() == ["train_images/1.2.jpg", "train_mask/1.2.png"]


def test_a_second_folder_is_added_to_the_first(two, tmp_path):
    two.run()
    other = tmp_path / "more"
    write_jpeg_dicom(other / "a.dcm", picture(seed=3), "1.3")
    two.annotate(("1.1", "-1"), ("1.3", "-1"))
    two.run("--images", other)
    assert two.files() == sorted([*TWO, "train_images/1.3.jpg", "train_mask/1.3.png"])


def test_what_is_there_is_not_made_again_but_masks_are(two):
    two.png("16.png", picture().astype(np.uint16) * 250)
    two.annotate(("1.1", "5 10"), ("1.2", "-1"), ("16", "-1"))
    two.run()
    images = sorted((two.out / "train_images").iterdir())
    before = [path.stat().st_ino for path in images]
    two.annotate(("1.1", "-1"), ("1.2", "7 7"), ("16", "-1"))
    assert "0 images made, 3 already there, 1 positive" in two.run()
    assert [path.stat().st_ino for path in images] == before
    assert not two.mask("1.1").any()
    assert np.array_equal(two.mask("1.2"), decode("7 7", 48, 64) * 255)


@pytest.mark.parametrize("share", [0, 0.3, 0.97])
def test_a_truncated_image_is_made_again(two, share):
    two.png("sixteen.png", picture().astype(np.uint16) * 250)
    two.annotate(("1.1", "-1"), ("1.2", "-1"), ("sixteen", "-1"))
    two.run()
    cut = [two.out / "train_images" / name for name in ("1.1.jpg", "sixteen.png")]
    whole = [path.read_bytes() for path in cut]
    for path, data in zip(cut, whole, strict=True):
        path.write_bytes(data[: int(len(data) * share)])
    assert "2 images made, 1 already there" in two.run()
    assert [path.read_bytes() for path in cut] == whole


def test_an_image_that_changes_its_form_leaves_no_second_file(two):
    two.run()
    (two.originals / "1.1.dcm").unlink()
    two.png("1.1.png", picture(seed=9))
    two.run()
    assert two.files() == sorted([*TWO[1:], "train_images/1.1.png"])
    assert np.array_equal(two.image("1.1.png"), picture(seed=9))


def broken_dicom(place):
    path = place.dicom("1.3")
    path.write_bytes(path.read_bytes()[:-300])
    return "1.3.dcm"


def no_dicom(place):
    (place.originals / "notes.dcm").write_text("no dicom")
    return "notes.dcm: is not a DICOM"


def other_syntax(place):
    write_jpeg_dicom(place.originals / "x.dcm", picture(), "1.3", syntax=JPEGLosslessSV1)
    return "x.dcm.*JPEG Lossless"


def bad_id(place):
    place.dicom("../1.3", name="evil")
    return "evil.dcm.*plain file name"


def truncated_png(place):
    place.png("1.3.png", picture())
    path = place.originals / "1.3.png"
    path.write_bytes(path.read_bytes()[:-20])
    return "1.3.png"


def same_id(place):
    place.dicom("1.3", name="one")
    place.png("1.3.png", picture(seed=5))
    return r"1\.3\.png and .*one\.dcm have the same id and different pixels"


@pytest.mark.filterwarnings("ignore:End of file reached")
@pytest.mark.parametrize(
    "spoil", [broken_dicom, no_dicom, other_syntax, bad_id, truncated_png, same_id]
)
def test_what_cannot_be_used_is_named_and_the_rest_is_made(two, spoil):
    expected = spoil(two)
    two.annotate(("1.1", "5 10"), ("1.2", "-1"), ("1.3", "-1"))
    text = two.run(code=1)
    assert re.search(rf"refused: .*{expected}", text)
    assert "2 images made, 0 already there, 1 positive; 0 unannotated, 1 refused" in text
    assert two.files() == TWO


@pytest.mark.parametrize(
    ("rows", "number"),
    [(["1 2 3"], 4), (["-5 1"], 4), (["3072 1"], 4), (["0 1", "nonsense"], 5), (["-1", "0 1"], 4)],
    ids=["odd", "negative", "past the end", "second row", "contradiction"],
)
def test_a_bad_row_is_named_and_what_was_made_of_it_before_is_removed(two, rows, number):
    two.dicom("1.3", seed=3)
    known = [("1.1", "5 10"), ("1.2", "-1")]
    two.annotate(*known, ("1.3", "0 1"))
    two.run()
    two.annotate(*known, *(("1.3", row) for row in rows))
    text = two.run(code=1)
    assert f"rle.csv row {number}: " in text
    assert "(image 1.3)" in text
    assert two.files() == TWO


def test_many_refused_files_are_listed_in_a_file_until_they_are_mended(two):
    for number in range(30):
        (two.originals / f"{number:02}.dcm").write_text("no dicom")
    assert "30 refused: listed in" in two.run(code=1)
    assert len((two.out / "train_refused.txt").read_text().splitlines()) == 30
    for number in range(30):
        (two.originals / f"{number:02}.dcm").unlink()
    two.run()
    assert two.files() == TWO


def test_copies_with_the_same_pixels_count_once(two):
    two.dicom("1.1", seed=1, name="again/copy")
    two.png("1.2.png", read_image(two.originals / "1.2.dcm"))
    text = two.run()
    assert "2 files have the id and the pixels of another and were passed over" in text
    assert "2 images made" in text
    assert [name.rsplit(".", 1)[0] for name in two.files()] == [n.rsplit(".", 1)[0] for n in TWO]


def below_the_output(place):
    place.out.mkdir()
    os.symlink(place.originals.parent, place.out / "train_images")


@pytest.mark.parametrize(
    ("arrange", "message"),
    [
        (lambda place: shutil.rmtree(place.originals), "in: is not a folder"),
        (lambda place: [p.unlink() for p in place.originals.iterdir()], "in: has no .dcm"),
        (lambda place: place.csv.unlink(), "rle.csv: the csv of masks cannot be read"),
        (lambda place: place.csv.write_text("a,b,c\n"), "rle.csv: columns ImageId and Encoded"),
        (lambda place: place.csv.write_text(""), "rle.csv: has no rows"),
        (lambda place: place.annotate(("9", "-1")), "rle.csv: has no row for any of the 2 images"),
        (lambda place: os.symlink(place.originals, place.out), "in: overlaps .*train_images"),
        (below_the_output, "in: overlaps .*train_images"),
    ],
    ids=["missing", "no images", "no csv", "columns", "empty csv", "no match", "overlap", "below"],
)
def test_unusable_arguments_are_named_and_nothing_is_made(two, arrange, message):
    arrange(two)
    assert re.search(f"error: .*{message}", two.run(code=2))
    assert not list(two.out.glob("**/*.jpg"))


def test_what_cannot_be_written_is_named(two):
    two.out.write_text("a file where the folder should be")
    assert "out: cannot be written to" in two.run(code=2)


def test_the_csv_is_looked_for_beside_the_folders(two):
    two.out.mkdir()
    shutil.move(two.csv, two.out / "train-rle.csv")
    two.run("--split", "train")
    assert two.files() == ["train-rle.csv", *TWO]


def test_the_other_splits_have_their_own_folders(two):
    two.run("--split", "test")
    assert two.files() == ["test_images/1.1.jpg", "test_images/1.2.jpg"]
    (two.out / "train-rle-sample.csv").write_bytes(b"\xef\xbb\xbf1.1, 0 3\r\n1.2,-1")
    two.run("--split", "sample")
    sample = [name.replace("train", "sample") for name in TWO]
    assert [name for name in two.files() if "sample_" in name] == sample


def test_masks_make_no_sense_for_the_test_split(two):
    with pytest.raises(SystemExit) as stop:
        main(["--images", str(two.originals), "--split", "test", "--rle", str(two.csv)])
    assert stop.value.code == 2


def test_an_interruption_leaves_no_half_file_and_the_next_run_goes_on(two, monkeypatch):
    written = []

    def interrupt(self, data):
        if len(written) == 3:
            with open(self, "wb") as file:
                file.write(data[: len(data) // 2])
            raise KeyboardInterrupt
        with open(self, "wb") as file:
            written.append(file.write(data))

    monkeypatch.setattr(convert.Path, "write_bytes", interrupt)
    assert "interrupted" in two.run(code=130)
    assert two.files() == ["train_images/1.1.jpg", "train_mask/1.1.png", "train_mask/1.2.png"]
    monkeypatch.undo()
    assert "1 images made, 1 already there" in two.run()
    assert two.files() == TWO


def test_several_processes_make_the_same_files(place):
    for number in range(130):
        place.png(f"{number:03}.png", picture(16, 16, seed=number))
    (place.originals / "broken.png").write_bytes(b"")
    rows = [(f"{number:03}", "3 4" if number % 3 else "-1") for number in range(130)]
    place.annotate(*rows, ("broken", "-1"))
    place.run(code=1)
    alone = {name: (place.out / name).read_bytes() for name in place.files()}
    shutil.rmtree(place.out)
    assert "130 images made, 0 already there, 86 positive" in place.run("--num_workers", 2, code=1)
    assert {name: (place.out / name).read_bytes() for name in place.files()} == alone


def test_real_images_and_masks_are_the_originals(siim_data, place):
    folder, rles = siim_data / "siim" / "dicom", siim_data / "siim" / "stage_2_train.csv"
    chosen = [*find_images(folder)[:20], folder / "positive_sample.dcm", folder / "test_image1.dcm"]
    for path in chosen:
        shutil.copy(path, place.originals)
    text = place.run("--rle", rles)
    assert "unannotated, left out: ID_4d6269d79" in text
    truth = dict.fromkeys((image_id(path) for path in chosen), 0)
    with open(rles, newline="") as file:
        for row in csv.DictReader(file):
            if row["ImageId"] in truth:
                truth[row["ImageId"]] = truth[row["ImageId"]] | decode(row["EncodedPixels"])
    for path in chosen[:-1]:
        name = image_id(path)
        assert np.array_equal(place.image(f"{name}.jpg"), read_image(path))
        assert np.array_equal(place.mask(name), truth[name] * 255)
