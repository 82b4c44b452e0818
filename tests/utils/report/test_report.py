"""The page: complete, on its own, honest about patients, and never a reason to fail."""

import json
import re
import shutil
from dataclasses import replace
from unittest.mock import Mock, patch

import numpy as np
import pytest

import solver
import train_sfold
from tests.helpers.reported import FULL_RULE, write_chosen, write_finished
from tests.helpers.tiny import SETTINGS, TinyNet, as_flags, build_tiny, write_dataset
from utils.distributed import launch
from utils.errors import InputError
from utils.evaluation import image_level
from utils.inference import ensemble
from utils.postprocessing import selection
from utils.postprocessing.histograms import load_histograms
from utils.postprocessing.rule import NO_MASKS
from utils.report import networks, writing
from utils.report.__main__ import main
from utils.report.evidence import read_evidence
from utils.report.facts import changed_settings, describe_run, summarise, tabulate_folds
from utils.report.networks import areas_of, draw_cases
from utils.report.writing import ReportOptions, try_report
from utils.training.start import plan

WITHOUT = ("--pictures", "false")
UNFILTERED = replace(FULL_RULE, min_component_area=0, min_component_mean=0.0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that was trained, and has written its report at the end."""
    root = tmp_path_factory.mktemp("trained")
    data = write_dataset(root / "data")
    settings = SETTINGS | {"dataset_root": data, "model_path": root / "checkpoints"}
    settings |= {"run_name": "run", "accelerator": "cpu", "presence_weight": 0.1, "cases": 2}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TinyNet, "size_step", 1, raising=False)
        for module in (plan, solver, ensemble):
            patched.setattr(module, "build_model", build_tiny)
        patched.setattr(selection, "draw_threshold", lambda *_: np.zeros((1, 1, 3), np.uint8))
        assert train_sfold.main(as_flags(settings)) == 0
        yield root / "checkpoints" / "unet_resnet34" / "run"


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    """Intervals are tested elsewhere."""
    monkeypatch.setattr(image_level, "DRAWS", 50)


def page_of(folder, *flags):
    out = folder / "page.html"
    assert main(["--run", str(folder), "--out", str(out), *flags]) == 0
    return out.read_text(encoding="utf-8")


def test_a_training_ends_with_its_report(trained):
    page = (trained / "report.html").read_text(encoding="utf-8")
    for title in ("Dice out of fold", "Folds", "Learning", "Thresholds", "Cases", "Versions"):
        assert title in page
    assert "These pictures are patient data" in page
    # Of every fold, the rule; of the run, the rate that was trained with.
    assert "Fold 0: masks above" in page
    assert "<dt>Learning rate</dt><dd>at most " in page
    assert "data:image/jpeg;base64," in page
    # Settings of the run, of which none is told that changes nothing.
    assert "<code>image_size_stage1</code>" in page
    assert "<code>dataset_root</code>" not in page


def test_pictures_show_the_masks_that_were_scored(trained, monkeypatch):
    measured: list[tuple] = []

    def measure(grey, truth, mask):
        measured.append((grey.shape, int(truth.sum()), int(mask.sum())))
        return measured[-1]

    monkeypatch.setattr(networks, "draw_picture", measure)
    evidence = read_evidence(trained)
    fabric = launch("cpu", 1, 1, "auto")
    pictures = draw_cases(
        fabric, evidence, range(len(evidence.fold_of)), evidence.config.dataset_root
    )
    areas = areas_of(evidence)
    assert sorted(pictures) == list(range(len(areas.ids)))
    for index, found in pictures.items():
        size = evidence.pooled.height[index], evidence.pooled.width[index]
        assert tuple(found) == (size, areas.truth[index], areas.predicted[index])


@pytest.mark.parametrize("best_by", ["dice", "last"])
def test_epochs_that_were_chosen_on_the_scored_images_are_named(tmp_path, best_by):
    folder = write_finished(tmp_path / "net" / "a")
    with (folder / "config.yaml").open("a") as file:
        file.write(f"best_by: {best_by}\n")
    facts = dict(describe_run(read_evidence(folder), {}))
    assert facts["Leakage"].endswith("at epochs that were chosen on it") == (best_by == "dice")


@pytest.mark.parametrize(
    ("trained_in", "expected"), [("32-true", "32-true"), ("16-mixed", "auto"), ("auto", "auto")]
)
def test_cases_are_drawn_in_the_precision_that_was_scored(
    tmp_path, monkeypatch, trained_in, expected
):
    folder, asked = write_finished(tmp_path / "net" / "a"), []
    with (folder / "config.yaml").open("a") as file:
        file.write(f"precision: {trained_in}\n")
    monkeypatch.setattr(writing, "launch", lambda *flags: asked.append(flags[-1]))
    monkeypatch.setattr(networks, "pick_samples", Mock(side_effect=InputError("no images")))
    assert "no images" in page_of(folder)
    assert asked == [expected]


def test_the_page_asks_for_nothing_and_lets_nothing_in(trained):
    page = (trained / "report.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'")
    assert set(re.findall(r"\w+://[\w./]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r'(?:src|href)="(?!#|data:)', page)


def test_without_pictures_nothing_tells_of_a_patient(trained):
    page, evidence = page_of(trained, *WITHOUT), read_evidence(trained)
    assert "image/jpeg" not in page
    assert "patient data" not in page
    assert not [name for name in evidence.pooled.ids.tolist() if name in page]


def test_what_a_user_wrote_is_shown_and_not_run(tmp_path):
    evil = "</script><script>alert(1)</script>"
    folder = write_finished(tmp_path / "net" / "a")
    with (folder / "config.yaml").open("a") as file:
        file.write(f"exclude: '{evil}'\nloss: 'bce:1'\ndataset_root: '{evil}'\n")
    page = page_of(folder, *WITHOUT)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_scores_are_those_of_the_rules_of_the_folds(tmp_path):
    evidence = read_evidence(write_finished(tmp_path / "net" / "a"))
    rows, rules = tabulate_folds(evidence), evidence.chosen.rules
    dice = [rules[n].dice(fold) for n, fold in evidence.folds.items()]
    assert [row.fold for row in rows] == ["0", "1", "all"]
    assert [row.rule for row in rows] == [*(rules[n].describe() for n in (0, 1)), ""]
    assert [row.dice.mean for row in rows[:2]] == [own.mean() for own in dice]
    headline = summarise(evidence)
    assert headline.dice.mean == rows[2].dice.mean == np.concatenate(dice).mean()
    assert headline.gain.mean == pytest.approx(headline.dice.mean - headline.baseline)
    assert [s.name for s in changed_settings(evidence.config)] == ["lr", "n_splits"]


def test_a_fold_that_is_left_empty_is_said_to_be(tmp_path):
    folder = write_finished(tmp_path / "net" / "a")
    write_chosen(folder, FULL_RULE, [NO_MASKS, FULL_RULE])
    assert tabulate_folds(read_evidence(folder))[0].rule == "no masks at all"


def test_one_fold_without_a_positive_has_a_report(tmp_path):
    folder = write_finished(tmp_path / "net" / "a")
    shutil.rmtree(folder / "fold1")
    path = folder / "fold0" / "oof.npz"
    histograms = load_histograms(path)
    empty = np.zeros_like(histograms.mask)
    table = histograms.components * np.array([1, 1, 1, 1, 0])
    replace(histograms, mask=empty, components=table).save(path)
    content = json.loads((folder / "threshold.json").read_text())
    content |= {"cross_fitted": None, "folds": content["folds"][:1]}
    (folder / "threshold.json").write_text(json.dumps(content))
    page = page_of(folder, *WITHOUT)
    assert "One fold alone" in page
    assert "Needs at least two positives" in page
    assert "nan" not in re.sub(r"<s(?:cript|tyle).*?</s", "", page, flags=re.DOTALL)


@pytest.mark.parametrize("kind", ["all positive", "no positives"])
def test_the_data_of_the_sliders_are_json_if_a_kind_of_image_is_missing(tmp_path, kind):
    folder = write_finished(tmp_path / "net" / "a")
    write_chosen(folder, UNFILTERED, [UNFILTERED, UNFILTERED])
    for path in folder.glob("fold*/oof.npz"):
        histograms = load_histograms(path)
        mask = histograms.all if kind == "all positive" else np.zeros_like(histograms.mask)
        replace(histograms, mask=mask, components=None).save(path)
    blocks = re.findall(r'<script type="application/json".*?>(.*?)</s', page_of(folder, *WITHOUT))
    # Python reads NaN, a browser does not.
    assert [json.loads(block, parse_constant=pytest.fail)["images"] for block in blocks] == [28]


def test_runs_side_by_side_and_subgroups(tmp_path):
    first = write_finished(tmp_path / "net" / "a")
    second = write_finished(tmp_path / "net" / "b", FULL_RULE)
    rows = [f"image{n}-{i},{'PA' if i < 9 else 'AP'}" for n in range(2) for i in range(14)]
    csv = tmp_path / "attributes.csv"
    csv.write_text("\n".join(["ImageId,view", *rows]) + "\n")
    page = page_of(first, "--run", str(second), "--attributes", str(csv), *WITHOUT)
    assert "Side by side" in page
    assert page.count('<option value="2">view: PA</option>') == 2
    assert page.count("<th>view: AP</th><td>10</td>") == 2


def test_a_submission_is_scored_and_shown(trained, tmp_path):
    data = trained.parents[2] / "data"
    names = sorted(path.stem for path in (data / "train_images").iterdir())[:6]
    csv = tmp_path / "submission.csv"
    csv.write_text("ImageId,EncodedPixels\n" + "".join(f"{n},0 50\n" for n in names))
    truth, images = data / "train_mask", data / "train_images"
    flags = ["--submission", csv, "--truth", truth, "--images", images, "--cases", "1"]
    page = page_of(trained, *map(str, flags))
    assert "Other images <small>submission.csv</small>" in page
    assert "6 predicted masks" in page


def test_a_report_that_fails_is_one_line_of_warning(tmp_path, capsys):
    folder = write_finished(tmp_path / "net" / "a")
    start, read = f"warning: {folder}/report.html was not written: ", "read_evidence"
    with patch.object(writing, read, side_effect=RuntimeError("several\nlines")):
        try_report(folder, ReportOptions(pictures=False))
    assert capsys.readouterr().out == f"{start}RuntimeError: several lines\n"
    (folder / "fold0" / "oof.npz").write_bytes(b"damaged")
    try_report(folder, ReportOptions(pictures=False))
    assert capsys.readouterr().out.startswith(start)
    assert not (folder / "report.html").exists()


def test_without_the_images_there_is_a_report_without_pictures(tmp_path, capsys):
    folder = write_finished(tmp_path / "net" / "a")
    with (folder / "config.yaml").open("a") as file:
        file.write(f"dataset_root: {tmp_path}/gone\n")
    try_report(folder, ReportOptions())
    reason, last = capsys.readouterr().out.splitlines()[-2:]
    assert last == f"report:  {folder}/report.html"
    assert reason.startswith("No pictures: ")
    assert reason in (folder / "report.html").read_text()


@pytest.fixture
def moved(trained, tmp_path):
    """A trained run, and its data set, which is not where its settings say."""
    run = shutil.copytree(trained, tmp_path / "checkpoints" / "unet_resnet34" / "run")
    root, config = trained.parents[2] / "data", run / "config.yaml"
    config.write_text(config.read_text().replace(str(root), str(tmp_path / "gone")))
    return run, root


def test_pictures_are_of_the_data_set_that_is_named(moved, capsys):
    run, root = moved
    assert "image/jpeg" not in page_of(run)
    assert "patient data" not in capsys.readouterr().out
    assert "image/jpeg" in page_of(run, "--dataset_root", str(root))
    assert capsys.readouterr().out.endswith("page.html, with X-rays: patient data\n")


def test_files_that_a_run_left_out_do_not_take_its_pictures(moved, tmp_path):
    """As by --exclude, which named two files of one id."""
    run, root = moved
    data = shutil.copytree(root, tmp_path / "data")
    for suffix in ("png", "jpg"):
        (data / "train_images" / f"twice.{suffix}").touch()
    assert "image/jpeg" in page_of(run, "--dataset_root", str(data))


def test_a_run_whose_data_set_was_moved_hands_its_place_to_the_report(moved):
    run, root = moved
    flags = ["--mode", "choose_threshold", "--run_name", "run", "--dataset_root", str(root)]
    with patch("experiment.try_report") as report:
        assert train_sfold.main([*flags, "--model_path", str(run.parents[1])]) == 0
    assert report.call_args.args[1].dataset_root == str(root)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--run", "{none}"], "has no config.yaml; --run takes the folder of a run"),
        (["--run", "{old}"], "looked for the thresholds in"),
        (["--run", "{partial}"], "lacks what this version writes"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_line(flags, message, tmp_path, capsys):
    run = write_finished(tmp_path / "net" / "run")
    (write_finished(tmp_path / "net" / "old") / "threshold.json").unlink()
    partial = write_finished(tmp_path / "net" / "partial") / "threshold.json"
    partial.write_text('{"threshold": 0.5, "min_area": 1, "top_threshold": 0.5}')
    places = {name: tmp_path / "net" / name for name in ("none", "old", "partial")} | {"run": run}
    assert main([word.format(**places) for word in flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_thresholds_of_other_folds_are_refused(tmp_path, capsys):
    run = write_finished(tmp_path / "net" / "run")
    (run / "fold1" / "oof.npz").rename(run / "oof.npz")
    assert main(["--run", str(run)]) == 2
    assert "is for other folds than are finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--submission", __file__], "go together; add --truth"),
        (["--run", "b"], "say where to write with --out"),
        (
            ["--run", "b", "--submission", __file__, "--truth", __file__, "--images", "."],
            "give one --run",
        ),
        (["--cases", "0"], "not a whole number from 1"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        main(["--run", "a", *flags])
    assert message in capsys.readouterr().err
