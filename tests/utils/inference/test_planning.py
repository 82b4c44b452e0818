"""Which rule and precision a prediction uses, and what it says about them."""

import json
from dataclasses import asdict

import pytest

from tests.helpers.tiny import write_dataset
from utils.commands import blend, export, predict
from utils.commands.predict import find_rule
from utils.config.prediction import parse_predict_options
from utils.errors import InputError
from utils.inference.planning import find_images_to_predict
from utils.inference.runs import prediction_precision, read_runs
from utils.postprocessing.rule import NO_MASKS, PostProcess

RULE = PostProcess(0.5, 3, 0.6)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run without images and networks, of five folds."""
    folder = tmp_path_factory.mktemp("checkpoints") / "u" / "A"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("run_name: A\nprecision: bf16-mixed\n")
    for number in range(5):
        (folder / f"fold{number}").mkdir()
        (folder / f"fold{number}" / "oof.npz").touch()
    return folder


@pytest.fixture
def said(made, capsys):
    """Choose the rule of a run with some thresholds, as predict.py does; return what it says."""

    def say(content, *flags):
        (made / "threshold.json").write_text(json.dumps(asdict(RULE) | content))
        words = ["--run", str(made), "--images", ".", *map(str, flags)]
        options = parse_predict_options(words, "")
        capsys.readouterr()
        find_rule(options, read_runs(options.run, None, "all"))
        return capsys.readouterr().out

    return say


def chosen_on(*folds):
    return {"folds": [{"fold": number, "pooled": asdict(RULE)} for number in folds]}


def test_folds_that_were_finished_after_the_thresholds_are_named(said, made, capsys):
    text = said(chosen_on(0, 1))
    assert "fold 2, 3, 4 had no part in the thresholds" in text
    assert "python main.py --mode choose_threshold --run_name A" in text
    flags = [word for name, value in asdict(RULE).items() for word in (f"--{name}", value)]
    assert said(chosen_on(0, 1), *flags) == ""
    for content in (chosen_on(*range(5)), {}, {"folds": None}, chosen_on(*range(6))):
        assert said(content) == ""


@pytest.mark.parametrize(
    ("stored", "flags", "top"),
    [
        (NO_MASKS, ["--threshold", 0.01, "--min_area", 10], 0.01),
        (NO_MASKS, ["--threshold", 0.01, "--top_threshold", 0.2], 0.2),
        (NO_MASKS, ["--min_area", 10], 1.0),
        (RULE, ["--threshold", 0.01, "--min_area", 10], RULE.top_threshold),
    ],
)
def test_the_top_threshold_of_no_masks_gives_way_to_the_threshold(made, stored, flags, top):
    (made / "threshold.json").write_text(json.dumps(asdict(stored)))
    words = ["--run", str(made), "--images", ".", *map(str, flags)]
    rule, _ = find_rule(parse_predict_options(words, ""), read_runs([str(made)], None, "all"))
    assert rule.top_threshold == top


@pytest.mark.parametrize("flag", ["--overlays", "--probabilities"])
def test_results_are_not_written_to_where_images_are_looked_for(tmp_path, flag):
    folder = write_dataset(tmp_path, count=2) / "train_images"
    paths = sorted(folder.iterdir())

    def find(*images):
        words = ["--run", ".", "--images", *images, flag, folder / "new" / "deeper"]
        return find_images_to_predict(parse_predict_options([*map(str, words)], ""))[0]

    with pytest.raises(InputError, match="lies in a folder of --images"):
        find(folder)
    assert [image.path for image in find(*paths)] == paths


def test_the_last_epochs_are_not_those_that_the_thresholds_were_chosen_on(said, made):
    content = chosen_on(*range(5))
    assert "but --checkpoint last predicts with the last ones" in said(
        content, "--checkpoint", "last"
    )
    config = made / "config.yaml"
    before = config.read_text()
    config.write_text(f"{before}best_by: last\n")
    assert said(content, "--checkpoint", "last") == ""
    config.write_text(before)


def test_an_export_names_the_folds_that_its_thresholds_lack_and_its_augmentation(made, capsys):
    for tta, expected in (
        ("none", ""),
        ("hflip", "predict.py --model averages over mirror images by itself"),
        ("hflip,scales", "predict.py --model refuses it without --tta none or hflip"),
    ):
        content = asdict(RULE) | chosen_on(0, 1) | {"tta": tta}
        (made / "threshold.json").write_text(json.dumps(content))
        export.note_thresholds(made, read_runs([made], None, "all")[0].config)
        text = capsys.readouterr().out
        assert "fold 2, 3, 4 had no part" in text
        assert expected in text
        assert ("predict.py" in text) == bool(expected)


@pytest.mark.parametrize(
    ("asked", "trained", "used"),
    [
        ("auto", ("bf16-mixed", "32-true"), "32-true"),
        ("auto", ("bf16-mixed", "16-mixed"), "auto"),
        ("auto", ("auto",), "auto"),
        ("bf16-mixed", ("32-true",), "bf16-mixed"),
    ],
)
def test_runs_trained_in_float32_are_predicted_in_it(tmp_path, monkeypatch, asked, trained, used):
    folders = [tmp_path / "u" / name for name in "AB"[: len(trained)]]
    for folder, precision in zip(folders, trained, strict=True):
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(f"precision: {precision}\n")
    assert prediction_precision(asked, read_runs(folders, None, "all")) == used


@pytest.mark.parametrize("command", [predict.predict, blend.blend])
def test_commands_are_launched_in_the_precision_of_their_runs(command, tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text("precision: 32-true\n")
    launched = []

    def launch(*settings):
        launched.append(settings)
        raise StopIteration

    for module in (predict, blend):
        monkeypatch.setattr(module, "launch", launch)
    words = ["--run", str(tmp_path), "--images", "."]
    with pytest.raises(StopIteration):
        command(parse_predict_options(words, ""))
    assert launched == [("auto", "auto", 1, "32-true")]
