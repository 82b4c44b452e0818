import csv
import os
import re
import shutil
from typing import Any

import cv2
import numpy as np
import pytest
from pydicom.uid import JPEGLosslessSV1

from datasets.formats.images import find_images, image_id, read_image
from datasets.formats.rle import decode, encode
from datasets.prepare import main
from datasets.tools import convert
from tests.helpers.dicoms import jpeg, picture, write_dicom, write_jpeg_dicom
from tests.helpers.image_files import read_pixels


class Workspace:
    """A folder of original images, a csv and an output folder, and the command run on them."""

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
        if not {"--split", "--rle"} & set(extra):
            args += ["--rle", self.csv]
        result = main([str(arg) for arg in (*args, *extra)])
        text = "".join(self.capsys.readouterr())
        assert result == code, text
        return text

    def files(self):
        return sorted(str(p.relative_to(self.out)) for p in self.out.rglob("*") if p.is_file())

    def mask(self, name):
        return read_pixels(self.out / "train_mask" / f"{name}.png")

    def image(self, name):
        return read_image(self.out / "train_images" / name)


@pytest.fixture
def workspace(tmp_path, capsys):
    return Workspace(tmp_path, capsys)


@pytest.fixture
def two(workspace):
    """One positive and one empty DICOM."""
    workspace.dicom("1.1", seed=1)
    workspace.dicom("1.2", seed=2)
    workspace.annotate(("1.1", "5 10"), ("1.1", "10 20"), ("1.2", "-1"))
    return workspace


TWO = ["train_images/1.1.jpg", "train_images/1.2.jpg", "train_mask/1.1.png", "train_mask/1.2.png"]


def test_dicoms_become_jpegs_and_masks_of_the_same_size(two):
    text = two.run()
    assert two.files() == TWO
    assert (two.out / TWO[0]).read_bytes().rstrip(b"\0") == jpeg(picture(seed=1))
    expected = decode("5 10", 48, 64) | decode("10 20", 48, 64)
    assert np.array_equal(two.mask("1.1"), expected * 255)
    assert two.mask("1.2").shape == (48, 64)
    assert not two.mask("1.2").any()
    assert "2 images written, 0 up to date, 1 positive; 0 unannotated, 0 refused" in text


def test_every_kind_of_image_is_accepted_with_its_pixels_unchanged(workspace):
    grey = picture()
    (workspace.originals / "copied.jpeg").write_bytes(jpeg(grey))
    workspace.png("deep/er/copied_too.PNG", grey)
    workspace.png("deep/sixteen.png", grey.astype(np.uint16) * 250)
    workspace.png("colour.png", np.dstack([grey, grey // 2, grey]))
    write_dicom(
        workspace.originals / "uncompressed.dcm", grey.astype(np.uint16), "un.compressed", 12
    )
    names = {image_id(path): path for path in find_images(workspace.originals)}
    workspace.annotate(*((name, "0 3") for name in names))
    workspace.run()
    images = find_images(workspace.out / "train_images")
    assert {path.stem for path in images} == set(names)
    for path in images:
        assert np.array_equal(read_image(path), read_image(names[path.stem]))
        kind = read_pixels(path)
        assert kind.dtype == np.uint8
        assert kind.ndim == 2
    for name, source in (
        ("copied.jpg", "copied.jpeg"),
        ("copied_too.png", "deep/er/copied_too.PNG"),
    ):
        copy = workspace.out / "train_images" / name
        assert copy.read_bytes() == (workspace.originals / source).read_bytes()


def test_an_image_without_a_row_is_left_out_and_reported(two):
    two.dicom("1.3")
    two.annotate(("1.1", "5 10"), ("1.2", "-1"), ("7.7", "-1"), ("8.8", "0 1"))
    text = two.run()
    assert "unannotated, left out: 1.3" in text
    assert "2 ids in the csv have no image" in text
    assert two.files() == TWO


def test_many_unannotated_images_are_listed_in_a_file(two):
    names = [f"extra{number:02}" for number in range(30)]
    for name in names:
        two.png(f"{name}.png", picture())
    assert "30 unannotated, left out: listed in" in two.run()
    assert (two.out / "train_unannotated.txt").read_text().split() == names


def test_images_that_lost_their_annotation_are_removed(two):
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


def test_existing_images_are_kept_and_masks_rewritten(two):
    two.png("16.png", picture().astype(np.uint16) * 250)
    two.annotate(("1.1", "5 10"), ("1.2", "-1"), ("16", "-1"))
    two.run()
    images = sorted((two.out / "train_images").iterdir())
    before = [path.stat().st_ino for path in images]
    two.annotate(("1.1", "-1"), ("1.2", "7 7"), ("16", "-1"))
    assert "0 images written, 3 up to date, 1 positive" in two.run()
    assert [path.stat().st_ino for path in images] == before
    assert not two.mask("1.1").any()
    assert np.array_equal(two.mask("1.2"), decode("7 7", 48, 64) * 255)


@pytest.mark.parametrize("shape", [(48, 64), (30, 50)], ids=["same size", "another size"])
def test_an_image_with_other_pixels_replaces_an_earlier_one_of_its_id(workspace, shape):
    names = ("grey.png", "colour.png", "sixteen.png", "12_bits.dcm", "jpeg.dcm")

    def draw(seed, height, width):
        grey = picture(height, width, seed)
        workspace.png("grey.png", grey)
        workspace.png("colour.png", np.dstack([grey, grey // 2, grey]))
        workspace.png("sixteen.png", grey.astype(np.uint16) * 250)
        write_dicom(workspace.originals / "12_bits.dcm", grey.astype(np.uint16) * 16, "12_bits", 12)
        write_jpeg_dicom(workspace.originals / "jpeg.dcm", grey, "jpeg")

    draw(1, 48, 64)
    workspace.annotate(*((name.split(".")[0], "5 10") for name in names))
    workspace.run("--bits", 16)
    draw(2, *shape)
    assert "5 images written, 0 up to date, 5 positive" in workspace.run("--bits", 16)
    for path in find_images(workspace.out / "train_images"):
        original = next(name for name in names if name.startswith(f"{path.stem}."))
        assert np.array_equal(read_image(path), read_image(workspace.originals / original))
        assert np.array_equal(workspace.mask(path.stem), decode("5 10", *shape) * 255)


@pytest.mark.parametrize("share", [0, 0.3, 0.97])
def test_a_truncated_image_is_rewritten(two, share):
    two.png("sixteen.png", picture().astype(np.uint16) * 250)
    two.annotate(("1.1", "-1"), ("1.2", "-1"), ("sixteen", "-1"))
    two.run()
    truncated = [two.out / "train_images" / name for name in ("1.1.jpg", "sixteen.png")]
    complete = [path.read_bytes() for path in truncated]
    for path, data in zip(truncated, complete, strict=True):
        path.write_bytes(data[: int(len(data) * share)])
    assert "2 images written, 1 up to date" in two.run()
    assert [path.read_bytes() for path in truncated] == complete


def test_an_image_that_changes_its_format_leaves_no_second_file(two):
    two.run()
    (two.originals / "1.1.dcm").unlink()
    two.png("1.1.png", picture(seed=9))
    two.run()
    assert two.files() == sorted([*TWO[1:], "train_images/1.1.png"])
    assert np.array_equal(two.image("1.1.png"), picture(seed=9))


def broken_dicom(workspace):
    path = workspace.dicom("1.3")
    path.write_bytes(path.read_bytes()[:-300])
    return "1.3.dcm"


def no_dicom(workspace):
    (workspace.originals / "notes.dcm").write_text("no dicom")
    return "notes.dcm: is not a DICOM"


def other_syntax(workspace):
    write_jpeg_dicom(workspace.originals / "x.dcm", picture(), "1.3", syntax=JPEGLosslessSV1)
    return "x.dcm.*JPEG Lossless"


def bad_id(workspace):
    workspace.dicom("../1.3", name="evil")
    return "evil.dcm.*plain file name"


def truncated_png(workspace):
    workspace.png("1.3.png", picture())
    path = workspace.originals / "1.3.png"
    path.write_bytes(path.read_bytes()[:-20])
    return "1.3.png"


def same_id(workspace):
    workspace.dicom("1.3", name="one")
    workspace.png("1.3.png", picture(seed=5))
    return r"1\.3\.png and .*one\.dcm have the same id but different pixels"


@pytest.mark.parametrize(
    "damage", [broken_dicom, no_dicom, other_syntax, bad_id, truncated_png, same_id]
)
def test_unusable_files_are_reported_and_the_others_converted(two, damage):
    expected = damage(two)
    two.annotate(("1.1", "5 10"), ("1.2", "-1"), ("1.3", "-1"))
    text = two.run(code=1)
    assert re.search(rf"refused: .*{expected}", text)
    assert "2 images written, 0 up to date, 1 positive; 0 unannotated, 1 refused" in text
    assert two.files() == TWO


@pytest.mark.parametrize(
    ("rows", "number"),
    [(["1 2 3"], 4), (["-5 1"], 4), (["0 1", "nonsense"], 5), (["-1", "0 1"], 4)],
    ids=["odd", "negative", "second row", "contradiction"],
)
def test_a_bad_row_is_reported_and_earlier_files_of_its_image_removed(two, rows, number):
    two.dicom("1.3", seed=3)
    known = [("1.1", "5 10"), ("1.2", "-1")]
    two.annotate(*known, ("1.3", "0 1"))
    two.run()
    two.annotate(*known, *(("1.3", row) for row in rows))
    text = two.run(code=1)
    assert f"rle.csv row {number}: " in text
    assert "(image 1.3)" in text
    assert two.files() == TWO


@pytest.mark.parametrize("rows", [["3071 2"], ["5 10", "3072 1"], ["3000 1 70 2"]])
def test_a_run_past_its_image_refuses_the_csv_before_anything_is_written(two, rows):
    two.dicom("1.3", seed=3)
    two.annotate(("1.1", "5 10"), ("1.2", "-1"), *(("1.3", row) for row in rows))
    text = two.run(code=2)
    assert re.search(rf"rle\.csv row {3 + len(rows)}: its runs reach pixel 3,07\d, but", text)
    assert "image 1.3 has 64x48 = 3,072" in text
    assert "--rle_size 1024x1024" in text
    assert two.files() == []


def test_run_lengths_of_another_size_are_resized_to_the_images(workspace):
    # A 2x2 block of the csv's pixels for each pixel of the image: resizing must give it exactly.
    small = np.random.default_rng(3).integers(0, 2, (48, 64), np.uint8)
    large = small.repeat(2, axis=0).repeat(2, axis=1)
    workspace.dicom("half")
    workspace.png("full.png", picture(96, 128))
    workspace.annotate(("half", encode(large)), ("full", encode(large)))
    workspace.run("--rle_size", "96x128")
    assert np.array_equal(workspace.mask("half"), small * 255)
    assert np.array_equal(workspace.mask("full"), large * 255)


def test_absolute_run_lengths_are_read_on_request(two):
    two.annotate(("1.1.dcm", "6 10"), ("1.1", '"[11, 20]"'), ("1.2", "-1"))
    two.run("--rle_form", "absolute")
    assert np.array_equal(two.mask("1.1"), (decode("5 10", 48, 64) | decode("10 20", 48, 64)) * 255)
    two.annotate(("1.1", "1500 10 1700 20"), ("1.2", "-1"))
    assert "; or it counts every run from the first pixel, which --rle_f" in two.run(code=2)
    two.annotate(("1.1", "1500 10 1509 20"), ("1.2", "-1"))
    assert "row 2: its run lengths are not absolute" in two.run("--rle_form", "absolute", code=2)


def test_a_run_past_the_given_size_refuses_the_csv_before_anything_is_written(two):
    two.annotate(("1.1", "1500 10 1700 20"), ("1.2", "-1"))
    text = two.run("--rle_size", "48x64", code=2)
    assert "its runs reach pixel 3,230, but --rle_size 48x64 = 3,072" in text
    assert "; or it counts every run from the first pixel, which --rle_form absolute says" in text
    assert two.files() == []


@pytest.mark.parametrize("size", ["1024", "0x5", "axb", "1024x-1", "9000x9000"])
def test_a_size_that_is_none_is_refused(two, capsys, size):
    with pytest.raises(SystemExit):
        two.run("--rle_size", size)
    assert "argument --rle_size: " in capsys.readouterr().err


def test_names_that_are_no_text_are_refused_and_listed(two):
    """Latin-1 bytes in a file name are no UTF-8, and Python keeps them as surrogates."""
    for number in range(30):
        name = os.fsencode(two.originals) + b"/Th\xf6rax%02d.png" % number
        with open(name, "wb"):
            pass
    assert "30 refused: listed in" in two.run(code=1)
    lines = (two.out / "train_refused.txt").read_text().splitlines()
    assert lines[0].startswith(f"{two.originals}/Th\\udcf6rax00.png: its image id ")
    assert len(lines) == 30


def test_many_refused_files_are_listed_in_a_file_until_they_are_fixed(two):
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
    assert "2 files skipped: same id and pixels as another file" in text
    assert "2 images written" in text
    assert [name.rsplit(".", 1)[0] for name in two.files()] == [n.rsplit(".", 1)[0] for n in TWO]


def below_the_output(workspace):
    workspace.out.mkdir()
    os.symlink(workspace.originals.parent, workspace.out / "train_images")


@pytest.mark.parametrize(
    ("arrange", "message"),
    [
        (lambda workspace: shutil.rmtree(workspace.originals), "in: does not exist"),
        (lambda workspace: [p.unlink() for p in workspace.originals.iterdir()], "in: has no .dcm"),
        (lambda workspace: workspace.csv.unlink(), "rle.csv: does not exist"),
        (
            lambda workspace: workspace.csv.write_text("a,b,c\n"),
            r"rle.csv: expected the columns ImageId \(or ImageID, .*\) and EncodedPixels",
        ),
        (lambda workspace: workspace.csv.write_text(""), "rle.csv: has no rows"),
        (
            lambda workspace: workspace.annotate(("9", "-1")),
            "rle.csv: has no row for any of the 2 images",
        ),
        (
            lambda workspace: os.symlink(workspace.originals, workspace.out),
            "in: overlaps .*train_images",
        ),
        (below_the_output, "in: overlaps .*train_images"),
    ],
    ids=["missing", "no images", "no csv", "columns", "empty csv", "no match", "overlap", "below"],
)
def test_unusable_arguments_are_reported_and_nothing_is_written(two, arrange, message):
    arrange(two)
    assert re.search(f"error: .*{message}", two.run(code=2))
    assert not list(two.out.glob("**/*.jpg"))


def test_the_csv_is_found_next_to_the_folders(two):
    two.out.mkdir()
    shutil.move(two.csv, two.out / "train-rle.csv")
    two.run("--split", "train")
    assert two.files() == ["train-rle.csv", *TWO]


def test_the_other_splits_have_separate_folders(two):
    two.run("--split", "test")
    assert two.files() == ["test_images/1.1.jpg", "test_images/1.2.jpg"]
    (two.out / "train-rle-sample.csv").write_bytes(b"\xef\xbb\xbf1.1, 0 3\r\n1.2,-1")
    two.run("--split", "sample")
    sample = [name.replace("train", "sample") for name in TWO]
    assert [name for name in two.files() if "sample_" in name] == sample


def test_the_test_split_accepts_no_masks(two):
    with pytest.raises(SystemExit) as stop:
        main(["--images", str(two.originals), "--split", "test", "--rle", str(two.csv)])
    assert stop.value.code == 2


def test_an_interrupted_run_leaves_no_partial_file_and_can_be_continued(two, monkeypatch):
    written: list[int] = []

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
    assert "1 images written, 1 up to date" in two.run()
    assert two.files() == TWO


def test_several_processes_write_the_same_files(workspace):
    for number in range(130):
        workspace.png(f"{number:03}.png", picture(16, 16, seed=number))
    (workspace.originals / "broken.png").write_bytes(b"")
    rows = [(f"{number:03}", "3 4" if number % 3 else "-1") for number in range(130)]
    workspace.annotate(*rows, ("broken", "-1"))
    workspace.run(code=1)
    by_one = {name: (workspace.out / name).read_bytes() for name in workspace.files()}
    shutil.rmtree(workspace.out)
    assert "130 images written, 0 up to date, 86 positive" in workspace.run(
        "--num_workers", 2, code=1
    )
    assert {name: (workspace.out / name).read_bytes() for name in workspace.files()} == by_one


def test_real_images_and_masks_are_unchanged(siim_data, workspace):
    folder, rles = siim_data / "siim" / "dicom", siim_data / "siim" / "stage_2_train.csv"
    chosen = [*find_images(folder)[:20], folder / "positive_sample.dcm", folder / "test_image1.dcm"]
    for path in chosen:
        shutil.copy(path, workspace.originals)
    text = workspace.run("--rle", rles)
    assert "unannotated, left out: ID_4d6269d79" in text
    assert not (workspace.out / "patients.csv").exists()  # each image has a PatientID of its own
    truth: dict[str, Any] = dict.fromkeys((image_id(path) for path in chosen), 0)
    with open(rles, newline="") as file:
        for row in csv.DictReader(file):
            if row["ImageId"] in truth:
                truth[row["ImageId"]] = truth[row["ImageId"]] | decode(row["EncodedPixels"])
    for path in chosen[:-1]:
        name = image_id(path)
        assert np.array_equal(workspace.image(f"{name}.jpg"), read_image(path))
        assert np.array_equal(workspace.mask(name), truth[name] * 255)


def test_patients_that_files_name_are_written_for_training_only(two):
    for name in ("1.1", "1.2", "1.3"):
        write_jpeg_dicom(
            two.originals / f"{name}.dcm", picture(), name, PatientID=f"p{name > '1.1'}"
        )
    two.png("nih/00000012_003.png", picture())
    two.run("--split", "test")
    assert not (two.out / "patients.csv").exists()
    text = two.run()
    rows = "00000012_003,00000012\n1.1,pFalse\n1.2,pTrue\n1.3,pTrue\n"
    assert (two.out / "patients.csv").read_text() == f"ImageId,PatientId\n{rows}"
    assert "patients.csv: the patients of 4 images; train with --groups" in text


@pytest.mark.parametrize("masks", ["csv", "folder"])
def test_what_the_page_of_the_competition_gives_is_refused_with_the_reason(masks, workspace):
    """Its test images, and masks of other images; masks of these images are accepted."""
    for name in ("ID_0011fe81e", "ID_9ca06e9b9"):
        workspace.dicom(name)
    workspace.annotate(("1.1", "5 10"))
    (workspace.out.parent / "masks").mkdir()
    cv2.imwrite(str(workspace.out.parent / "masks" / "1.1.png"), picture())
    args = ["--images", workspace.originals, "--out", workspace.out, "--num_workers", 0]
    args += ["--rle", workspace.csv] if masks == "csv" else ["--masks", args[3].parent / "masks"]
    assert main([str(arg) for arg in args]) == 2
    text = workspace.capsys.readouterr().err
    assert "these 2 images, such as ID_0011fe81e, are the test images of the competition's" in text
    assert len(text.splitlines()) == 1
    assert not workspace.out.exists()
    workspace.annotate(("1.1", "5 10"), ("ID_0011fe81e", "-1"))
    workspace.run()
    assert "train_mask/ID_0011fe81e.png" in workspace.files()


def test_real_test_images_are_refused_with_the_reason(siim_data, workspace):
    for path in (siim_data / "siim" / "dicom").glob("test_image*.dcm"):
        shutil.copy(path, workspace.originals)
    text = workspace.run("--rle", siim_data / "siim" / "stage_2_train.csv", code=2)
    assert "these 10 images, such as ID_004d6fbb6, are the test images" in text
    workspace.run("--split", "test")
