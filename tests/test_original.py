"""docs/original.md: its commands mean the rows of the original's published results."""

import csv
import re
import shlex
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import pytest

import main
import predict
import solver
from tests.helpers.pages import PAGES, REPOSITORY, commands_of
from tests.helpers.tiny import TinyNet, as_flags, build_tiny, write_dataset
from utils.config.checks import describe_unused
from utils.config.command_line import load_config, parse_config
from utils.config.prediction import parse_predict_options
from utils.config.stages import build_stages
from utils.inference import ensemble
from utils.postprocessing import selection
from utils.training.start import plan

PAGE = "docs/original.md"


class Row(NamedTuple):
    """A row of the table, in its words; empty where it has none."""

    network: str
    batch: str
    size: str
    pretrained: str
    augmentation: str
    resized: str
    min_area: str
    searched: str
    rate: str
    threshold: str
    masks: str
    score: str


PUBLISHED = """
U-Net           | 32   | 224      | no  | no         | no   | no     | no  | random |      |     | 0.7019
ResNet34        | 32   | 224      | yes | no         | no   | no     | no  | random |      |     | 0.7172
ResNet34        | 32   | 224      | no  | no         | no   | no     | no  | random |      |     | 0.7295
ResNet34        | 20   | 512      | yes | no         | no   | no     | no  | random |      |     | 0.7508
ResNet34        | 20   | 512      | yes | yes        | no   | no     | no  | random |      |     | 0.7603
ResNet34        | 20   | 512      | yes | yes        | yes  | no     | yes | random |      |     | 0.7974
ResNet34        | 20   | 512      | yes | yes        | yes  | 1024*2 | no  | random |      |     | 0.7834
ResNet34        | 20   | 512      | yes | yes        | yes  | 2048*2 | yes | random |      | 115 | 0.8112
ResNet34 frozen | 20   | 512      | yes | yes        | yes  | 2048*2 | yes | random |      | 107 | 0.8118
ResNet34 frozen | 20   | 512      | yes | yes        | yes  | 2048*2 | yes | cosine | 0.45 | 164 | 0.8259
ResNet34 frozen | 20   | 512      | yes | yes, CLAHE | yes  | 2048*2 | yes | cosine | 0.47 | 208 | 0.8401
ResNet34 frozen | 20   | 512      | yes | yes, CLAHE | yes  | 2048*2 | yes | cosine | 0.40 | 225 | 0.8412
ResNet34 frozen | 20   | 512      | yes | yes, CLAHE | yes  | 2048*2 | yes | cosine | 0.36 |     | 0.8446
ResNet34 frozen | 20/8 | 512/1024 | yes | yes, CLAHE | 512  | 2048*2 | yes | cosine | 0.48 | 210 | 0.8419
ResNet34 frozen | 20/8 | 512/1024 | yes | yes, CLAHE | 1024 | 1024*2 | yes | cosine | 0.48 | 118 | 0.7969
ResNet34 frozen | 20/8 | 512/1024 | yes | yes, CLAHE | 1024 | 1024*2 | yes | cosine | 0.30 | 172 | 0.7958
ResNet34 frozen | 8    | 1024     | yes | yes, CLAHE | 1024 | 2048*2 | yes | cosine | 0.35 | 209 | 0.8399
"""  # noqa: E501
ROWS = {
    number: Row(*(cell.strip() for cell in line.split("|")))
    for number, line in enumerate(PUBLISHED.strip().splitlines(), start=1)
}
AREAS = {"no": 0, "1024*2": 2048, "2048*2": 4096}
BEFORE_FREEZING = range(1, 9)
"""Rows of the versions with other epochs and another bound of the rate."""


def commands(script: str, flag: str) -> dict[str, list[str]]:
    """Return the words of the page's commands of a script, by the value of one flag."""
    found = {}
    for command in commands_of(PAGE):
        _, name, *words = shlex.split(command)
        if name == script:
            value = words[words.index(flag) + 1]
            assert value not in found
            found[value] = words
    return found


TRAININGS = commands("main.py", "--run_name")
PREDICTIONS = commands("predict.py", "--out")


def training_of(number: int) -> list[str]:
    """Return the words of the training whose run a row predicts with."""
    words = PREDICTIONS[f"row{number}.csv"]
    return TRAININGS[words[words.index("--run") + 1].split("/")[-1]]


def test_there_are_commands_for_every_row_and_no_others():
    assert len(ROWS) == 17
    assert PREDICTIONS.keys() == {f"row{number}.csv" for number in ROWS}
    used = [training_of(number) for number in ROWS]
    assert all(words in used for words in TRAININGS.values())
    assert len(commands_of(PAGE)) == len(TRAININGS) + len(PREDICTIONS)


def test_the_table_is_the_published_one():
    lines = re.findall(r"^\| (\d.*) \|$", PAGES[PAGE], re.MULTILINE)
    as_printed = {
        str(n): row._replace(
            network=row.network.replace(" frozen", ", frozen first"),
            augmentation=row.augmentation.replace(", CLAHE", ", and CLAHE"),
            resized=row.resized.replace("yes", "1024"),
            min_area=str(AREAS[row.min_area] or "no"),
        )
        for n, row in ROWS.items()
    }
    cells = [[cell.strip("\N{EN DASH}") for cell in line.split(" | ")] for line in lines]
    assert {n: Row(*rest) for n, *rest in cells} == as_printed


@pytest.mark.parametrize("number", ROWS)
def test_a_training_means_its_row(number, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    row, (config, given) = ROWS[number], parse_config(training_of(number), "A training.")
    assert config.model_type == {"U-Net": "U_Net"}.get(row.network, "unet_resnet34")
    assert config.pretrained == (row.pretrained == "yes")
    assert config.augmentation_flag == row.augmentation.startswith("yes")
    assert config.clahe == row.augmentation.endswith("CLAHE")
    stages = build_stages(config)
    assert "/".join(str(stage.image_size) for stage in stages) == row.size
    assert "/".join(str(stage.batch_size) for stage in stages) == row.batch
    early = number in BEFORE_FREEZING
    assert [stage.epochs for stage in stages] == ([200] if early else [60, 20][: len(stages)])
    assert stages[0].freeze_epochs == (3 if row.network.endswith("frozen") else 0)
    assert {s.batches_per_step(epoch) for s in stages for epoch in range(s.epochs)} == {1}
    assert {s.schedule for s in stages} == {"linear" if row.rate == "random" else "cosine"}
    mean_draw = 2 * config.epoch_stage1 // 5
    assert config.decay_epochs == (mean_draw if row.rate == "random" else None)
    assert (config.lr, config.loss, config.optimizer) == (5e-4 if early else 2e-4, "bce", "adam")
    assert (config.fold_numbers(), config.n_splits, config.best_by) == ([0], 5, "last")
    assert describe_unused(config, given) is None


@pytest.mark.parametrize("number", ROWS)
def test_a_prediction_means_its_row(number):
    row, options = ROWS[number], parse_predict_options(PREDICTIONS[f"row{number}.csv"], "A test.")
    model_type = {"U-Net": "U_Net"}.get(row.network, "unet_resnet34")
    assert [folder.rpartition("/")[0] for folder in options.run] == [f"checkpoints/{model_type}"]
    assert options.min_area == AREAS[row.min_area]
    searched_here = row.searched == "yes" and not row.threshold
    threshold = None if searched_here else float(row.threshold or 0.5)
    assert (options.threshold, options.top_threshold) == (threshold, threshold)
    assert (options.min_component_area, options.min_component_mean) == (0, 0)
    assert (str(options.folds), options.tta, options.checkpoint) == ("0", None, "best")


def test_rows_9_and_10_differ_by_the_schedule_alone(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    random, cosine = (asdict(parse_config(training_of(n), "A training.")[0]) for n in (9, 10))
    changed = {name for name in random if random[name] != cosine[name]}
    assert changed == {"schedule", "decay_epochs", "run_name"}


TINY = {
    "n_splits": 2,
    "image_size_stage1": 32,
    "batch_size_stage1": 4,
    "epoch_stage1": 2,
    "pretrained": False,
    "num_workers": 0,
    "accelerator": "cpu",
    "devices": 1,
    "seed": 5,
}
TINY_ROWS = {
    1: {"decay_epochs": 1},
    9: {"decay_epochs": 1, "epoch_stage1_freeze": 1},
    16: {"epoch_stage1_freeze": 1, "image_size_stage2": 64, "epoch_stage2": 1},
}
"""From scratch, frozen and linear, in two stages; with what makes them tiny."""


@pytest.mark.parametrize(
    "number", [pytest.param(n, marks=[pytest.mark.slow] * (n != 9)) for n in TINY_ROWS]
)
def test_a_row_runs_from_training_to_submission(number, tmp_path, monkeypatch):
    (tmp_path / "recipes").symlink_to(REPOSITORY / "recipes")
    monkeypatch.chdir(tmp_path)
    images = write_dataset(tmp_path / "datasets/SIIM_data", count=8) / "train_images"
    images.with_name("test_images").symlink_to(images)
    monkeypatch.setattr(TinyNet, "size_step", 32, raising=False)
    for module in (plan, solver, ensemble):
        monkeypatch.setattr(module, "build_model", build_tiny)
    monkeypatch.setattr(selection, "draw_threshold", lambda *_: np.zeros((1, 1, 3), np.uint8))
    training, prediction = training_of(number), PREDICTIONS[f"row{number}.csv"]
    assert main.main([*training, *as_flags(TINY | TINY_ROWS[number])]) == 0
    assert predict.main([*prediction, "--num_workers", "0", "--accelerator", "cpu"]) == 0
    run = tmp_path / prediction[prediction.index("--run") + 1]
    assert load_config(run / "config.yaml").schedule == ("cosine" if number == 16 else "linear")
    rows = list(csv.DictReader((tmp_path / f"row{number}.csv").read_text().splitlines()))
    assert [row["ImageId"] for row in rows] == sorted(path.stem for path in images.iterdir())
