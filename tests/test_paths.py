"""Every flag that names a file or folder refuses a wrong one in a line, before any work."""

import importlib
import re
import shlex
from dataclasses import fields, replace
from pathlib import Path

import pytest

from tests.helpers.reported import write_finished
from utils.commands.early import check_training
from utils.config.prediction import PredictOptions
from utils.config.settings import Config
from utils.errors import InputError

REPOSITORY = Path(__file__).parent.parent
READ_FILE = ("nowhere/a.csv", "folder.png")
READ_FOLDER = ("nowhere", "file.csv")
READ_ANY = ("nowhere", "file.csv/a")
WRITE_FILE = ("nowhere/a.png", "file.csv/a.png", "folder.png")
MAKE_FILE = ("file.csv/a.csv", "folder.png")
WRITE_FOLDER = ("file.csv", "file.csv/a")

TRUTH = "--submission file.csv --truth file.csv --images data"
PREDICT = "--run run --images data"
RECIPES = "best --data data --groups file.csv"
TABLE: dict[str, dict[str, dict[str, tuple[str, ...]]]] = {
    "main": {
        "": {
            "--config": READ_FILE,
            "--dataset_root": READ_FOLDER,
            "--exclude": READ_FILE,
            "--init_from": READ_FILE,
            "--model_path": WRITE_FOLDER,
            "--cache_dir": WRITE_FOLDER,
            "--encoder_weights": READ_FILE,
        },
        "--dataset_root data": {"--groups": READ_FILE},
    },
    "predict": {
        "--images data": {"--run": READ_FOLDER, "--model": READ_FILE},
        "--run run": {"--images": READ_ANY},
        PREDICT: {
            "--sample_submission": READ_FILE,
            "--out": MAKE_FILE,
            "--overlays": WRITE_FOLDER,
            "--probabilities": WRITE_FOLDER[1:],
            "--dicom_seg": WRITE_FOLDER[1:],
        },
    },
    "evaluate": {
        TRUTH: {
            "--submission": READ_FILE,
            "--truth": READ_ANY,
            "--images": READ_FOLDER,
            "--names": READ_FILE,
            "--scores": READ_FILE,
            "--patients": READ_FILE,
            "--out": WRITE_FILE,
            "--worst": WRITE_FILE,
        }
    },
    "datasets.prepare": {
        "--images data": {
            "--images": READ_FOLDER,
            "--rle": READ_FILE,
            "--masks": READ_FOLDER,
            "--names": READ_FILE,
            "--out": WRITE_FOLDER,
        }
    },
    "datasets.check": {
        "": {
            "--dataset_root": READ_FOLDER,
            "--out": WRITE_FOLDER,
            "--exclude": READ_FILE,
            "--cache_dir": READ_FOLDER,
            "--folds": READ_ANY,
        }
    },
    "datasets.sample": {"": {"--out": WRITE_FOLDER}},
    "datasets.preview": {"--out a.png": {"--dataset_root": READ_FOLDER, "--out": WRITE_FILE}},
    "models.export": {"--run run": {"--run": READ_FOLDER, "--out": WRITE_FILE}},
    "models.adopt": {
        "--folds 0 --checkpoint file.csv": {
            "--config": READ_FILE,
            "--checkpoint": READ_FILE,
            "--model_path": WRITE_FOLDER,
        }
    },
    "utils.report.__main__": {
        "": {"--run": READ_FOLDER},
        f"--run run {TRUTH}": {
            "--out": WRITE_FILE,
            "--dataset_root": READ_FOLDER,
            "--attributes": READ_FILE,
            "--submission": READ_FILE,
            "--truth": READ_ANY,
            "--images": READ_FOLDER,
        },
    },
    "utils.blend": {
        "--run run": {"--run": READ_FOLDER},
        "--run run --run run": {"--dataset_root": READ_FOLDER},
    },
    "benchmarks.recipes": {
        RECIPES: {
            "--data": READ_FOLDER,
            "--groups": READ_FILE,
            "--out": WRITE_FOLDER,
            "--peer": READ_FILE,
        }
    },
    "benchmarks.plain_smp": {
        "--data data --groups file.csv": {
            "--data": READ_FOLDER,
            "--groups": READ_FILE,
            "--out": WRITE_FILE,
        }
    },
    "benchmarks.gpu": {"--out a": {"--data": READ_FOLDER, "--out": WRITE_FOLDER}},
    "benchmarks.__main__": {
        "--dicoms data --rle file.csv": {
            "--dicoms": READ_FOLDER,
            "--rle": READ_FILE,
            "--json": WRITE_FILE,
        }
    },
}
"""For every command, with which other words to try its flags, and what each has to refuse."""
CASES = [
    pytest.param(command, words, flag, value, id=f"{command} {flag} {value}")
    for command, groups in TABLE.items()
    for words, flags in groups.items()
    for flag, values in flags.items()
    for value in values
]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    root = tmp_path_factory.mktemp("paths")
    for folder in ("folder.png", "data/train_images", "data/train_mask"):
        (root / folder).mkdir(parents=True)
    for name in ("file.csv", "scores.csv", "data/train_images/image.png"):
        (root / name).touch()
    (root / "link.csv").symlink_to("file.csv")
    write_finished(root / "run")
    return root


@pytest.fixture
def refusal(workspace, monkeypatch, capsys):
    """A function that runs a command line, and returns the one line with which it is refused."""
    monkeypatch.chdir(workspace)

    def run(command: str, words: str) -> str:
        before = sorted(workspace.rglob("*"))
        assert importlib.import_module(command).main(shlex.split(words)) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert re.fullmatch("error: .*\n", printed.err)
        assert sorted(workspace.rglob("*")) == before
        return printed.err

    return run


@pytest.mark.parametrize(("command", "words", "flag", "value"), CASES)
def test_a_wrong_path_is_refused_in_a_line_before_any_work(refusal, command, words, flag, value):
    # The last of two values counts, but for flags that take several.
    line = refusal(command, f"{words} {flag} {value}")
    assert value in line
    assert re.search("; (give|choose|make) |--run takes|--images takes|Prepare it|give one", line)
    assert "Errno" not in line


@pytest.mark.parametrize(
    ("command", "words", "overwritten"),
    [
        ("predict", "--images file.csv --out link.csv", "link.csv"),
        ("predict", "--images data --out data/train_images/image.png", ".csv"),
        ("predict", "--images data --out run/config.yaml", ".csv"),
        ("predict", "--images data --out run/folds.csv", "run/folds.csv"),
        ("predict", "--images data --sample_submission file.csv --out file.csv", "file.csv"),
        ("predict", "--images data --sample_submission scores.csv --out new.csv", "scores.csv"),
        ("evaluate", f"{TRUTH} --out file.csv", "file.csv"),
        ("evaluate", f"{TRUTH} --scores scores.csv --out data/../scores.csv", "scores.csv"),
        ("evaluate", f"{TRUTH} --worst data/train_images/image.png", "image.png"),
        ("datasets.preview", "--dataset_root data --out data/train_images/image.png", "image.png"),
        ("datasets.preview", "--dataset_root data --out data/train_mask/new.png", "new.png"),
        ("models.export", "--run run --out run/config.yaml", "config.yaml"),
        ("utils.report.__main__", "--run run --out run/config.yaml", "config.yaml"),
    ],
)
def test_a_file_that_is_read_is_not_overwritten(refusal, command, words, overwritten):
    line = refusal(command, f"--run run {words}" if command == "predict" else words)
    assert overwritten in line
    assert re.search(r"is read by this command|are read by|does not end in \.", line)


def test_every_flag_with_the_type_of_a_path_is_in_the_table():
    typed = r'"(--\w+)",\s*type=(?:Path|_picture|folder\b|\w+_to_(?:read|write))'
    for command, groups in TABLE.items():
        text = (REPOSITORY / f"{command.replace('.', '/')}.py").read_text(encoding="utf-8")
        found = set(re.findall(typed, text))
        if command == "predict":
            found = {
                f"--{each.name}" for each in fields(PredictOptions) if "Path" in str(each.type)
            }
        assert found <= {flag for flags in groups.values() for flag in flags}, command


def test_a_file_of_settings_without_any_is_refused(refusal):
    assert "file.csv: has no settings; give " in refusal("main", "--config file.csv")


def test_a_run_is_resumed_with_its_own_data_but_for_what_is_given(workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(workspace)
    run = tmp_path / "U_Net" / "a"
    run.mkdir(parents=True)
    Config(dataset_root="gone", groups="gone.csv").save(run / "config.yaml")
    (tmp_path / "patients.csv").write_text("ImageId,PatientId\n")
    own = Config(model_path=str(tmp_path), run_name="a", resume=True)
    data = replace(own, dataset_root="data")
    moved = replace(data, groups=str(tmp_path / "patients.csv"))
    with pytest.raises(InputError, match="looked for images in gone"):
        check_training(own, frozenset())
    with pytest.raises(InputError, match=r"--groups gone\.csv"):
        check_training(data, frozenset({"dataset_root"}))
    check_training(moved, frozenset({"dataset_root", "groups"}))
    Config(dataset_root="data", groups="gone.csv").save(run / "config.yaml")
    check_training(replace(moved, dataset_root="gone"), frozenset({"groups"}))


def test_what_is_read_after_a_training_is_read_before_it_too(refusal, workspace):
    message = "cannot be read as a csv of"
    assert f"file.csv {message} patients: " in refusal("benchmarks.recipes", RECIPES)
    (workspace / "patients.csv").write_text("ImageId,PatientId\n")
    words = "best --data data --groups patients.csv --peer file.csv"
    assert f"file.csv {message} scored images: " in refusal("benchmarks.recipes", words)
    (workspace / "patients.csv").unlink()


def test_dicoms_and_their_masks_go_together(capsys):
    from benchmarks.__main__ import main

    with pytest.raises(SystemExit):
        main(["--dicoms", str(REPOSITORY)])
    assert "--dicoms and --rle go together" in capsys.readouterr().err
