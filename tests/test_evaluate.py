"""A submission scored against the truth, with every figure recomputed by plain loops."""

import csv
import json
import re

import cv2
import numpy as np
import pytest

from datasets.formats.annotations import annotated_mask, read_annotations
from datasets.formats.rle import encode
from evaluate import main
from tests.helpers.dicoms import picture, write_jpeg_dicom
from tests.helpers.image_files import read_pixels
from tests.helpers.makers import predicted, slow_dice
from utils.drawing import PREDICTION, TILE, TRUTH
from utils.evaluation.bootstrap import bootstrap_interval
from utils.evaluation.scoring import PixelCounts

SHAPE = (9, 12)
HEADER = "ImageId,EncodedPixels"


class Workspace:
    """A folder with a submission and a truth, and the command run on them."""

    def __init__(self, folder, capsys):
        self.folder, self.capsys, self.size = folder, capsys, SHAPE
        self.images = folder / "images"
        self.images.mkdir()

    def csv(self, name, rows, header=HEADER):
        text = "\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n"
        (self.folder / name).write_text(text, encoding="utf-8")

    def pair(self, submission, truth):
        self.csv("submission.csv", submission)
        self.csv("truth.csv", truth)

    def masks(self, pairs):
        """Write pairs of predicted and true masks, for image0, image1 ..."""
        predictions, truths = zip(*pairs, strict=True)
        self.pair(numbered(predictions), numbered(truths))
        self.size = truths[0].shape

    def image(self, name, shape):
        cv2.imwrite(str(self.images / f"{name}.png"), picture(*shape) // 2)

    def run(self, *extra, code=0):
        submission = ("--submission", self.folder / "submission.csv")
        truth = () if "--truth" in extra else ("--truth", self.folder / "truth.csv")
        height, width = self.size
        size = ("--height", height, "--width", width) if height else ()
        args = (*submission, *truth, *size, *extra)
        result = main([str(arg) for arg in args])
        text = "".join(self.capsys.readouterr())
        assert result == code, text
        return text

    def results(self, *extra):
        """Run the command and read the figures it writes; NaN, not valid JSON, fails the test."""
        out = self.folder / "out.json"
        self.run("--out", out, *extra)
        return json.loads(out.read_text(), parse_constant=pytest.fail)


@pytest.fixture
def workspace(tmp_path, capsys):
    return Workspace(tmp_path, capsys)


def numbered(masks):
    return [(f"image{i}", encode(mask)) for i, mask in enumerate(masks)]


def drawn(seed, count=24):
    """Draw pairs of predicted and true masks of every kind: empty, full, equal, different."""
    pairs = [(levels > 128, mask) for levels, mask in predicted(seed, count, SHAPE)]
    blank = np.zeros(SHAPE, np.uint8)
    disjoint = (block(0, 0), block(5, 5))
    return [
        *((a.astype(np.uint8), b) for a, b in pairs),
        disjoint,
        (blank, blank),
        (blank, 1 - blank),
    ]


def block(top, left, side=4, shape=SHAPE):
    mask = np.zeros(shape, np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


def mean(values):
    values = list(values)
    return sum(values) / len(values)


@pytest.mark.parametrize("seed", range(3))
def test_every_figure_equals_that_of_plain_loops(workspace, seed):
    pairs = drawn(seed)
    workspace.masks(pairs)
    dice = [slow_dice(*pair) for pair in pairs]
    positive = [i for i, (_, truth) in enumerate(pairs) if truth.any()]
    empty = [i for i in range(len(pairs)) if i not in positive]
    has_mask = [bool(prediction.any()) for prediction, _ in pairs]
    found = workspace.results()
    assert found["dice"]["mean"] == pytest.approx(mean(dice), abs=1e-12)
    assert found["dice_positive"]["mean"] == pytest.approx(mean(dice[i] for i in positive))
    assert found["empty_kept"]["mean"] == pytest.approx(mean(not has_mask[i] for i in empty))
    assert found["positive_found"]["mean"] == pytest.approx(mean(has_mask[i] for i in positive))
    assert found["baseline"] == pytest.approx(len(empty) / len(pairs))
    assert found["predicted"] == sum(has_mask)
    counted = {name: found[name]["images"] for name in ("dice", "dice_positive", "empty_kept")}
    assert list(counted.values()) == [len(pairs), len(positive), len(empty)]
    assert 0 < found["empty_kept"]["mean"] < 1


def test_the_truth_scores_one(workspace):
    workspace.masks([(truth, truth) for _, truth in drawn(0)])
    found = workspace.results()
    for name in ("dice", "dice_positive", "empty_kept", "positive_found"):
        assert (found[name]["mean"], found[name]["low"], found[name]["high"]) == (1, 1, 1)


def test_an_empty_submission_scores_the_baseline(workspace):
    workspace.masks([(truth * 0, truth) for _, truth in drawn(0)])
    found = workspace.results()
    assert found["dice"]["mean"] == found["baseline"] > 0
    assert found["dice_positive"]["mean"] == found["predicted"] == 0


@pytest.mark.parametrize(("shift", "dice"), [(0, 1.0), (1, 0.75), (2, 0.5), (4, 0.0), (5, 0.0)])
def test_a_shifted_square_scores_its_overlap(workspace, shift, dice):
    workspace.masks([(block(2, 1 + shift), block(2, 1))])
    assert workspace.results()["dice"]["mean"] == dice


def test_the_truth_is_the_union_of_its_rows(workspace):
    workspace.pair([("a", "0 9")], [("a", "0 6"), ("b", "-1"), ("a", "3 6"), ("a", "3 3")])
    assert workspace.results()["dice"]["mean"] == 1


@pytest.mark.parametrize(
    "data",
    [
        "ImageId, EncodedPixels\na, 0 4\nb, -1\n",
        "ImageId,EncodedPixels\na,0 4\nb,-1\n",
        "\ufeffa, 0 4\r\nb,-1",
    ],
    ids=["stage 1", "stage 2", "sample"],
)
def test_all_three_csv_formats_are_read(workspace, data):
    workspace.csv("submission.csv", [("b", "-1"), ("a", "2 4")])
    (workspace.folder / "truth.csv").write_text(data, encoding="utf-8")
    assert workspace.results()["dice"]["mean"] == 0.75


def test_a_ragged_mask_fits_into_a_csv_field(workspace):
    ragged = np.indices((400, 400)).sum(axis=0) % 2
    workspace.masks([(ragged, ragged)])
    assert (workspace.folder / "submission.csv").stat().st_size > 131_072
    usual = csv.field_size_limit(1234)
    assert workspace.results()["dice"]["mean"] == 1
    assert csv.field_size_limit(usual) == 1234


def test_dice_is_reported_by_the_size_of_the_true_mask(workspace):
    areas = [1, 2048, 2049, 8192, 8193, 8194, 32768, 32769]
    ids = [f"area{area}" for area in areas]
    workspace.size = (256, 256)
    workspace.pair(
        [(name, f"0 {area // 2 or 1}") for name, area in zip(ids, areas, strict=True)],
        [("none", "-1"), *((name, f"0 {area}") for name, area in zip(ids, areas, strict=True))],
    )
    buckets = workspace.results()["by_size"]
    assert [bucket["dice"]["images"] for bucket in buckets] == [2, 2, 3, 1]
    assert [(b["first"], b["last"]) for b in buckets] == [
        (1, 2048),
        (2049, 8192),
        (8193, 32768),
        (32769, None),
    ]
    assert buckets[0]["dice"]["mean"] == pytest.approx((1 + 2 / 3) / 2)
    assert buckets[3]["dice"]["mean"] == pytest.approx(2 * 16384 / (16384 + 32769))


def test_images_missing_from_the_submission_are_counted_and_not_scored(workspace):
    workspace.pair([("a", "0 4")], [("a", "0 4"), ("b", "0 4"), ("c", "-1"), ("c", "-1")])
    assert "2 annotated images are not in the submission" in workspace.run()
    found = workspace.results()
    assert (found["dice"]["mean"], found["not_in_submission"]) == (1, 2)
    workspace.csv("truth.csv", [("a", "0 4")])
    assert "not in the submission" not in workspace.run()


def test_intervals_are_over_patients_if_given(workspace):
    pairs = drawn(1)
    workspace.masks(pairs)
    dice = np.array([slow_dice(*pair) for pair in pairs])
    positive = np.array([truth.any() for _, truth in pairs])
    patients = [f"p{i // 6}" for i in range(len(pairs) - 1)]
    rows = [(f"image{i}", patient) for i, patient in enumerate(patients)]
    workspace.csv("patients.csv", rows, "ImageId,PatientId")
    ungrouped, grouped = (
        workspace.results(),
        workspace.results("--patients", workspace.folder / "patients.csv"),
    )
    groups = np.array([*patients, f"image{len(patients)}"])
    for name, chosen in (("dice", positive | True), ("dice_positive", positive)):
        expected = bootstrap_interval(dice[chosen], groups[chosen])
        assert (grouped[name]["low"], grouped[name]["high"]) == pytest.approx(expected)
        assert grouped[name]["low"] != ungrouped[name]["low"]
        assert grouped[name]["mean"] == ungrouped[name]["mean"]
    assert [r["intervals_over"] for r in (ungrouped, grouped)] == ["images", "patients"]
    text = workspace.run("--patients", workspace.folder / "patients.csv")
    assert "the patient of 1 images is unknown" in text
    assert "over patients" in text


def test_a_patient_with_the_name_of_an_image_is_another_one(workspace):
    pairs = drawn(1)
    workspace.masks(pairs)

    def interval(patient):
        rows = [(f"image{i}", patient if i <= 6 else f"w{i}") for i in range(1, len(pairs))]
        workspace.csv("patients.csv", rows, "ImageId,PatientId")
        dice = workspace.results("--patients", workspace.folder / "patients.csv")["dice"]
        return dice["low"], dice["high"]

    assert interval("image0") == interval("image")


def test_the_table_shows_the_figures(workspace):
    workspace.masks([(block(2, 3), block(2, 1)), (block(0, 0), block(0, 0) * 0)])
    lines = [" ".join(line.split()) for line in workspace.run().splitlines()]
    assert "2 of 2 images have a predicted mask" in lines
    assert "Dice 2 0.2500 0.0000 to 0.5000" in lines
    assert "of predicting no mask anywhere 0.5000" in lines
    assert "Dice on positives 1 0.5000 0.5000 to 0.5000" in lines
    assert "true mask of 2,049 to 8,192 px 0 -" in lines
    assert "empty images left empty (specificity) 1 0.0000 0.0000 to 0.0000" in lines


@pytest.mark.parametrize(
    ("submission", "truth", "reason"),
    [
        ("a,-1\nb,-1\nc,-1\nb,0 1\n", "", r"submission\.csv rows 3 and 5: both are b"),
        (
            "a,-1\nx,-1\ny,-1\n",
            "",
            r"submission\.csv row 3: x is not in .*truth\.csv; 2 of the 3 images",
        ),
        ("a,-1\nb,0 1 2\n", "", r"submission\.csv row 3: .*3 numbers"),
        ("a,-1\nb\n", "", r"submission\.csv row 3: has 1 of at least 2 values; it is cut off"),
        ("a,-1\nb,7 102\n", "", r"submission\.csv row 3: .*past the last of 108"),
        ("a,-1\nb,one\n", "", r"submission\.csv row 3: .*not all integers"),
        ("a,-1\n", "a,0 1\na,5\n", r"truth\.csv row 3: .*1 numbers"),
        ("a,-1\n", "a,0 1\na,-1\n", r"truth\.csv row 3: is -1"),
        ("", "", r"submission\.csv: has no rows"),
        ("a,-1\n", "\n", r"truth\.csv: has no rows"),
    ],
)
def test_unusable_rows_are_reported(workspace, submission, truth, reason):
    truth = truth or "a,-1\nb,0 1\nc,-1\n"
    (workspace.folder / "submission.csv").write_text(f"{HEADER}\n{submission}")
    (workspace.folder / "truth.csv").write_text(f"{HEADER}\n{truth}")
    text = workspace.run(code=2)
    assert text.startswith("error: ")
    assert re.search(reason, text)


def test_results_are_written_through_links(workspace):
    workspace.masks(drawn(0)[:2])
    workspace.image("image0", SHAPE)
    targets = {name: workspace.folder / f"target.{name}" for name in ("json", "png")}
    for name, target in targets.items():
        (workspace.folder / f"link.{name}").symlink_to(target)
    links = [workspace.folder / f"link.{name}" for name in targets]
    workspace.run("--images", workspace.images, "--out", links[0], "--worst", links[1])
    assert all(link.is_symlink() for link in links)
    assert json.loads(targets["json"].read_text())["dice"]["images"] == 2
    assert read_pixels(targets["png"]).any()


def test_unusable_files_are_reported(workspace):
    workspace.csv("truth.csv", [("a", "-1")])
    workspace.csv("submission.csv", [("a", "-1")], "ImageId,Mask")
    assert "submission.csv: expected the columns ImageId (or ImageID, " in workspace.run(code=2)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--worst", "w.png"], "set their folder with --images"),
        (["--worst", "w.gif", "--images", "."], "does not end in"),
        (["--height", "0"], "'0' is not a whole number from 1 to 65,535"),
        (["--width", "1e30"], "'1e30' is not a whole number"),
        (["--height", "60000", "--width", "60000"], "the limit is 67,108,864 pixels"),
        (["--binarize"], "--binarize: without effect on this kind of --truth"),
    ],
)
def test_invalid_flags_are_refused(capsys, flags, reason):
    with pytest.raises(SystemExit):
        main(["--submission", __file__, "--truth", __file__, *flags])
    assert reason in capsys.readouterr().err


def test_where_no_id_matches_one_of_each_side_is_shown(workspace):
    workspace.pair([("a", "-1"), ("b", "-1")], [("d", "-1"), ("c", "-1")])
    text = workspace.run(code=2)
    assert re.search(r"row 2: a is not in .*truth\.csv; 2 of .* missing there, which has c", text)


def as_files(pairs):
    """Leave out masks that are full, which a file of one value cannot say."""
    return [(predicted, true) for predicted, true in pairs if not true.all()]


def write_truth(folder, masks, ending=""):
    folder.mkdir(exist_ok=True)
    for i, mask in enumerate(masks):
        cv2.imwrite(str(folder / f"image{i}{ending}.png"), mask * 255)


def test_the_truth_may_be_mask_files(workspace):
    """They give the figures of the csv, at their own size, and joined if there are several."""
    pairs = as_files(drawn(seed=4))
    workspace.masks(pairs)
    expected = workspace.results()
    workspace.size = (None, None)
    predicted, true = zip(*pairs, strict=True)
    left, right = workspace.folder / "left", workspace.folder / "right"
    half = np.arange(SHAPE[1]) < 5
    write_truth(left, [mask * half for mask in true], "_mask")
    write_truth(right, [mask * ~half for mask in true])
    write_truth(workspace.folder / "whole", true)
    for truth in ([workspace.folder / "whole"], [left, right]):
        found = workspace.results("--truth", *truth)
        assert found.pop("truth") == " and ".join(map(str, truth))
        assert found == {name: value for name, value in expected.items() if name != "truth"}
    again = workspace.results("--truth", left, "--truth", right)
    assert again == workspace.results("--truth", left, right)
    (left / "deeper").mkdir()
    cv2.imwrite(str(left / "deeper/image2.png"), true[2])
    assert "image2_mask.png: both are masks of" in workspace.run("--truth", left, right, code=2)
    workspace.csv("submission.csv", numbered(predicted)[:3])
    text = workspace.run("--truth", workspace.folder / "whole")
    assert f"{len(pairs) - 3} mask files are not in the submission and not scored" in text
    workspace.csv("submission.csv", [("other", "-1")])
    text = workspace.run("--truth", left, code=2)
    assert "An image is other (id other), a mask image0_mask.png" in text
    # What the competition's page gives is the reason in a training only.
    workspace.csv("submission.csv", [("ID_004d6fbb6", "-1")])
    assert "An image is ID_004d6fbb6" in workspace.run("--truth", left, code=2)


def test_mask_files_of_ids_by_path_are_found_by_their_paths(workspace):
    """As PTX-498 has them: files that repeat over folders, among the X-rays."""
    pairs = as_files(drawn(seed=6))[:4]
    sites, rows = workspace.folder / "sites", []
    for i, (guess, true) in enumerate(pairs):
        (sites / f"Site{i}").mkdir(parents=True)
        cv2.imwrite(str(sites / f"Site{i}/1.1.img.png"), np.zeros(SHAPE, np.uint8))
        cv2.imwrite(str(sites / f"Site{i}/1.2.mask.png"), true * 255)
        rows.append((f"Site{i}__1.1.img", encode(guess)))
    workspace.masks(pairs)
    expected = workspace.results()["dice"]
    workspace.csv("submission.csv", rows)
    assert (
        workspace.results("--truth", sites, "--images", sites, "--ids", "path")["dice"] == expected
    )
    assert "no mask has the name" in workspace.run("--truth", sites, "--images", sites, code=2)


def test_mask_files_are_found_by_the_names_of_a_table(workspace):
    pairs = as_files(drawn(seed=5))[:6]
    workspace.masks(pairs)
    expected = workspace.results()["dice"]
    write_truth(workspace.folder / "png_masks", [mask for _, mask in pairs])
    predicted, _ = zip(*pairs, strict=True)
    workspace.csv("submission.csv", [(f"1.{i}", encode(mask)) for i, mask in enumerate(predicted)])
    workspace.csv("names.csv", [(f"image{i}.png", f"1.{i}") for i in range(9)], "filename,ImageId")
    flags = ("--truth", workspace.folder / "png_masks", "--names", workspace.folder / "names.csv")
    assert workspace.results(*flags)["dice"] == expected
    text = workspace.run(*flags[:2], code=2)
    assert "An image is 1.0 (id 1.0), a mask image0.png" in text
    assert "--names" in text


def test_smoothed_true_masks_of_another_size_are_cut_and_resized(workspace):
    small = np.random.default_rng(5).integers(0, 2, SHAPE, np.uint8)
    large = small.repeat(2, axis=0).repeat(2, axis=1)
    workspace.csv("submission.csv", [("image0", encode(small))])
    workspace.image("image0", SHAPE)
    write_truth(workspace.folder / "truth", [large])
    grey = np.where(large, 200, 30).astype(np.uint8)
    grey[0, 0] += 1
    cv2.imwrite(str(workspace.folder / "truth/image0.png"), grey)
    flags = ("--truth", workspace.folder / "truth", "--images", workspace.images)
    assert "image0.png: is no mask; it has 3 grey levels" in workspace.run(*flags, code=2)
    assert workspace.results(*flags, "--binarize")["dice"]["mean"] == 1
    text = workspace.run(*flags, "--binarize")
    assert "1 mask files were resized to their images" in text
    assert "1 smoothed mask files were cut at half of their range; 0.000%" in text


def test_image_sizes_are_read_from_the_images(workspace):
    workspace.pair([("a", "20 20"), ("b", "20 20")], [("a", "20 20"), ("b", "20 20")])
    workspace.image("a", (5, 8))
    write_jpeg_dicom(workspace.images / "renamed.dcm", picture(5, 8), "b")
    workspace.size = (1, 1)
    assert workspace.results("--images", workspace.images)["dice"]["mean"] == 1
    write_jpeg_dicom(workspace.images / "renamed.dcm", picture(5, 7), "b")
    assert "truth.csv row 3: " in workspace.run("--images", workspace.images, code=2)
    workspace.image("a", (3, 13))
    assert "13x3 = 39. The csv is for" in workspace.run("--images", workspace.images, code=2)


def test_the_truth_of_another_size_is_resized_to_the_images(workspace):
    """A perfect submission for halved images scores 1 against the csv of the originals."""
    small = np.random.default_rng(5).integers(0, 2, SHAPE, np.uint8)
    large = small.repeat(2, axis=0).repeat(2, axis=1)
    workspace.pair([("a", encode(small))], [("a", encode(large))])
    workspace.image("a", SHAPE)
    size = f"{2 * SHAPE[0]}x{2 * SHAPE[1]}"
    flags = ("--images", workspace.images)
    assert "give that size, such as --rle_size" in workspace.run(*flags, code=2)
    assert workspace.results(*flags, "--rle_size", size)["dice"]["mean"] == 1


def test_patients_of_other_images_are_refused(workspace):
    workspace.pair([("a", "-1"), ("b", "-1")], [("a", "-1"), ("b", "-1")])
    workspace.csv("patients.csv", [("scan-a", "p0"), ("scan-b", "p1")], "ImageId,PatientId")
    text = workspace.run("--patients", workspace.folder / "patients.csv", code=2)
    assert "names the patient of 0 of the 2 images" in text
    assert "the image a has no row in it, and its id scan-a is none of these images" in text


def test_a_submission_for_smaller_images_is_warned_of(workspace):
    masks = np.zeros((6, *SHAPE), np.uint8)
    masks[np.arange(6), :, np.arange(6) * 2] = 1
    small = [(f"i{i}", encode(mask)) for i, mask in enumerate(masks)]
    large = [(f"i{i}", encode(np.kron(mask, np.ones((2, 2))))) for i, mask in enumerate(masks)]
    workspace.size = (2 * SHAPE[0], 2 * SHAPE[1])
    workspace.pair(small, large)
    warning = "warning: all 6 predicted masks end within the first quarter of 24x18 pixels"
    assert warning in workspace.run()
    for i in range(6):
        workspace.image(f"i{i}", workspace.size)
    assert "warning" not in workspace.run("--images", workspace.images)
    workspace.pair(large, large)
    assert "warning" not in workspace.run()
    workspace.pair(small[:4], large)
    assert "warning" not in workspace.run()
    workspace.size = SHAPE
    workspace.pair(small, large)
    size = f"{2 * SHAPE[0]}x{2 * SHAPE[1]}"
    assert workspace.results("--rle_size", size)["dice"]["mean"] == 1


def test_a_folder_without_the_images_or_with_one_twice_is_refused(workspace):
    workspace.pair([("a", "-1")], [("a", "-1")])
    workspace.image("b", SHAPE)
    assert "has none of the 1 images" in workspace.run("--images", workspace.images, code=2)
    workspace.image("a", SHAPE)
    (workspace.images / "mask").mkdir()
    workspace.image("mask/a", SHAPE)
    assert re.search(
        r"a\.png and .*a\.png are both image a;",
        workspace.run("--images", workspace.images, code=2),
    )


def test_worst_cases_are_sorted_by_dice_then_mask_size_then_id():
    truth = np.array([4, 9, 9, 0, 100, 8])
    both = np.array([0, 0, 0, 0, 50, 8])
    counts = PixelCounts(np.array(list("fedcba")), truth, truth, both)
    assert counts.ids[counts.worst(9)].tolist() == ["d", "e", "f", "b", "a", "c"]
    assert counts.ids[counts.worst(2)].tolist() == ["d", "e"]


def tiles_of(sheet):
    """Cut a sheet, [H,W,3] uint8 RGB, into its tiles: plain image and image with masks."""
    for top in range(64, len(sheet), TILE + 42 + 10):
        for left in range(10, sheet.shape[1] - 10, 2 * TILE + 10):
            tile = sheet[top : top + TILE, left : left + 2 * TILE]
            yield tile[:, :TILE], tile[:, TILE:]


def has(picture, colour):
    return bool((picture == colour).all(axis=2).any())


def test_the_sheet_shows_the_worst_images_with_both_masks(workspace):
    shape = (32, 48)
    right = block(20, 20, 8, shape)
    blank = right * 0
    workspace.masks([(right, right)] * 17 + [(blank, right), (right, blank), (blank, blank)])
    for i in range(20):
        workspace.image(f"image{i}", shape)
    sheet = workspace.folder / "worst.png"
    text = workspace.run("--images", workspace.images, "--worst", sheet)
    assert "worst.png: the images with the lowest Dice" in text
    assert "on a black image" not in text
    tiles = list(tiles_of(read_pixels(sheet)[..., ::-1]))
    colours = [(has(drawn, TRUTH), has(drawn, PREDICTION)) for _, drawn in tiles]
    assert len(tiles) == 16
    # If both masks are equal, the outline of the prediction covers that of the truth.
    assert colours[:3] == [(True, False), (False, True), (False, True)]
    assert not any(has(plain, TRUTH) or has(plain, PREDICTION) for plain, _ in tiles)
    fitted = cv2.resize(picture(*shape) // 2, (TILE, 149), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(tiles[0][0][37 : 37 + 149], np.dstack([fitted] * 3))
    mask_position = np.argwhere((tiles[0][1] == TRUTH).all(axis=2))
    scale = TILE / 48
    np.testing.assert_allclose(mask_position.min(axis=0), (37 + 20 * scale, 20 * scale), atol=2)
    np.testing.assert_allclose(mask_position.max(axis=0), (37 + 28 * scale, 28 * scale), atol=2)
    assert sorted(p.name for p in workspace.folder.iterdir() if p.suffix == ".png") == ["worst.png"]


def test_a_tiny_mask_is_visible_on_the_sheet(workspace):
    truth = np.zeros((1024, 1024), np.uint8)
    truth[500, 300] = 1
    workspace.masks([(truth * 0, truth)])
    workspace.image("image0", truth.shape)
    workspace.run("--images", workspace.images, "--worst", workspace.folder / "worst.jpg")
    workspace.run("--images", workspace.images, "--worst", workspace.folder / "worst.png")
    ((_, drawn),) = tiles_of(read_pixels(workspace.folder / "worst.png")[..., ::-1])
    assert has(drawn, TRUTH)


def test_images_without_a_file_are_reported_and_drawn_on_black(workspace):
    workspace.masks([(block(0, 0), block(4, 4)), (block(2, 2), block(3, 3))])
    workspace.image("image1", SHAPE)
    sheet = workspace.folder / "worst.png"
    text = workspace.run("--images", workspace.images, "--worst", sheet)
    assert "image0 is not in" in text
    assert "image1 is not in" not in text
    blank, shown = (plain for plain, _ in tiles_of(read_pixels(sheet)))
    assert not blank.any()
    assert shown.any()


def test_scores_are_matched_by_id(workspace):
    workspace.masks([(block(0, 0), block(0, 0)), (block(0, 0) * 0, block(0, 0) * 0)])
    rows = [("image1", 0.25, 0), ("image0", 0.75, 16)]
    workspace.csv("scores.csv", rows, "ImageId,probability,area")
    scores = ("--scores", workspace.folder / "scores.csv")
    assert workspace.results(*scores)["detection"]["auc"]["mean"] == 1
    text = workspace.run(*scores)
    assert re.search(r"sensitivity at 0\.750, chosen here +1 +1\.0000", text)
    assert "check that it belongs to the submission" not in text
    assert workspace.results()["detection"] is None
    workspace.csv(
        "scores.csv", [("image0", 0.7, 0), ("image1", 0.1, 0)], "ImageId,probability,area"
    )
    assert (
        "another mask area for 1 images; check that it belongs to the submission"
        in workspace.run(*scores)
    )


@pytest.fixture(scope="module")
def stage_1_test(siim_data):
    """Return the rows of each annotated test image of stage 1."""
    both = read_annotations(siim_data / "siim" / "stage_2_train.csv")
    train = read_annotations(siim_data / "siim" / "train-rle.csv")
    return {name: rows for name, rows in both.items() if name not in train}


def run_on_real(workspace, siim_data, rows):
    workspace.csv("submission.csv", rows)
    (workspace.folder / "truth.csv").symlink_to(
        (siim_data / "siim" / "stage_2_train.csv").resolve()
    )
    workspace.size = (1024, 1024)
    return workspace.results()


def test_an_empty_submission_scores_as_on_kaggle_in_stage_1(workspace, siim_data, stage_1_test):
    found = run_on_real(workspace, siim_data, [(name, "-1") for name in stage_1_test])
    empty = sum(rows[0].rle == "-1" for rows in stage_1_test.values())
    assert found["dice"]["images"] == len(stage_1_test) == 1372
    assert found["dice"]["mean"] == found["baseline"] == empty / 1372
    assert found["dice"]["mean"] == pytest.approx(0.7886, abs=5e-5)
    assert found["not_in_submission"] == 10675


def test_the_real_truth_scores_one(workspace, siim_data, stage_1_test):
    masks = (annotated_mask(rows, 1024, 1024, "") for rows in stage_1_test.values())
    rows = zip(stage_1_test, map(encode, masks), strict=True)
    found = run_on_real(workspace, siim_data, rows)
    assert (found["dice"]["mean"], found["dice_positive"]["mean"]) == (1, 1)
    assert sum(bucket["dice"]["images"] for bucket in found["by_size"]) == found["predicted"] == 290
