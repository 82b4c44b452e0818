"""The files in recipes/, and how the benchmark scales them to equal work and compares them."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks import recipes
from benchmarks.comparison import Scored, compare, read_scored
from benchmarks.scaling import RECIPES, Bounds, read_recipe, scale, work_of
from datasets.sampling import EpochBatches
from tests.helpers.makers import measured
from tests.helpers.tiny import write_dataset
from utils.config.settings import Config
from utils.config.stages import Stage, build_stages
from utils.errors import InputError
from utils.postprocessing.histograms import concatenate
from utils.postprocessing.selection import choose_thresholds
from utils.postprocessing.summary import load_folds

NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
BOUNDS = Bounds(size=256, work=2600, batch=8, train=800, positives=200, valid=200)


def test_the_recipes_exist():
    assert set(NAMES) >= {"best", "demo", "original_512", "original_final", "winner"}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_starts_with_a_description_and_its_command(name):
    text = (RECIPES / f"{name}.yaml").read_text()
    match = re.match(r"(#.*\n)+", text)
    assert match is not None
    comment = match[0]
    assert len(comment.splitlines()) > 5
    scripts = re.findall(rf"^#   python (\w+\.py) --config recipes/{name}\.yaml", comment, re.M)
    assert scripts
    assert all((RECIPES.parent / script).is_file() for script in scripts)
    assert re.search(r"\b(minutes|hours)\b", comment)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_can_be_read_and_repeats_no_setting(name):
    config = read_recipe(name)
    text = (RECIPES / f"{name}.yaml").read_text()
    names = re.findall(r"^(\w+):", text, re.M)
    assert len(names) == len(set(names))
    assert build_stages(config)


def test_settings_after_the_name_change_a_recipe():
    plain, changed = read_recipe("winner"), read_recipe("winner@loss=bce,dice;keep_best=1;seed=3")
    assert changed == replace(plain, loss="bce,dice", keep_best=1, seed=3)
    assert read_recipe("winner@positive_share_stage2=null").positive_share_stage2 is None


@pytest.mark.parametrize("name", ["nowhere", "best@speed=3", "best@loss"])
def test_an_unknown_recipe_or_setting_is_refused(name):
    with pytest.raises(InputError, match=name):
        read_recipe(name)


def test_work_counts_every_image():
    """Every image of every epoch, weighted by its pixels; a third for validation images."""
    plain = Stage(1, 128, 8, epochs=3, lr=1)
    assert work_of(plain, BOUNDS) == pytest.approx(3 * (800 + 200 / 3) / 4)
    shared = Stage(1, 256, 8, epochs=3, lr=1, positive_share=(1.0, 0.5))
    expected = 200 + 200 / 0.75 + 400 + 3 * 200 / 3
    assert work_of(shared, BOUNDS) == pytest.approx(expected)
    scarce = Stage(1, 256, 8, epochs=1, lr=1, positive_share=(0.1, 0.1))
    assert work_of(scarce, BOUNDS) == pytest.approx(800 + 200 / 3)
    positives = Stage(3, 256, 8, epochs=2, lr=1, positives_only=True)
    assert work_of(positives, BOUNDS) == pytest.approx(2 * (200 + 50 / 3))
    rare = Stage(1, 256, 8, epochs=7, lr=1, validate_every=3)
    assert work_of(rare, BOUNDS) == pytest.approx(7 * 800 + 3 * 200 / 3)  # epochs 3, 6 and 7


def count_work(config):
    """Count the images of every epoch as training draws them, weighted by their pixels."""
    images = [f"image{i}" for i in range(800)]
    total = 0.0
    for stage in build_stages(config):
        ids, valid = (images[:200], 50) if stage.positives_only else (images, 200)
        share = stage.positive_share_at
        drawn = EpochBatches(ids, 8, (0,), 0, 1, frozenset(images[:200]), share)
        for epoch in range(stage.epochs):
            last = epoch + 1 == stage.epochs
            is_validated = last or (epoch + 1) % config.validate_every == 0
            work = drawn.images(epoch) + valid / 3 * is_validated
            total += work * stage.image_size**2 / 256**2
    return total


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_scaled_to_the_same_work(name):
    config = read_recipe(name)
    scaled = scale(config, BOUNDS)
    before, after = build_stages(config), build_stages(scaled)
    assert {stage.batch_size for stage in after} == {8}
    for old, new in zip(before, after, strict=True):
        assert (new.lr, new.loss, new.schedule) == (old.lr, old.loss, old.schedule)
    # Epochs are rounded, so each stage may be off by half an epoch; images of a share, too.
    work_per_epoch = [work_of(stage, BOUNDS) / stage.epochs for stage in after]
    assert abs(count_work(scaled) - BOUNDS.work) <= sum(work_per_epoch) / 2 + 1


@pytest.mark.parametrize(
    ("sizes", "scaled_sizes"),
    [
        ([512], [256]),
        ([256], [128]),
        ([512, 1024], [128, 256]),
        ([256, 512], [128, 256]),
        ([768], [256]),
        ([32], [32]),
    ],
)
def test_large_images_end_at_the_size_and_smaller_ones_stay_smaller(sizes, scaled_sizes):
    stages = {f"image_size_stage{n}": size for n, size in enumerate(sizes, start=1)}
    scaled = scale(Config(two_stage=len(sizes) == 2, **stages), BOUNDS)
    assert [stage.image_size for stage in build_stages(scaled)] == scaled_sizes


def test_epochs_within_a_stage_are_scaled_with_it():
    config = Config(two_stage=False, epoch_stage1=60, schedule="linear", decay_epochs=24)
    scaled = scale(config, replace(BOUNDS, work=4 * BOUNDS.work))
    assert scaled.decay_epochs == pytest.approx(0.4 * scaled.epoch_stage1, abs=1)


def test_only_pretrained_encoders_are_frozen():
    config = Config(epoch_stage1=60, epoch_stage1_freeze=3, two_stage=False)
    scratch, started = (scale(config, replace(BOUNDS, pretrained=p)) for p in (False, True))
    assert (scratch.pretrained, scratch.epoch_stage1_freeze) == (False, 0)
    assert (started.pretrained, started.epoch_stage1_freeze) == (True, 1)
    assert scratch.epoch_stage1 == started.epoch_stage1 == 3
    never = scale(replace(config, epoch_stage1_freeze=0), replace(BOUNDS, pretrained=True))
    assert never.epoch_stage1_freeze == 0


def draw_scored(seed: int, ids: list[str]) -> Scored:
    rng, truth = np.random.default_rng(seed), np.random.default_rng(9)
    positive, count = truth.random(len(ids)) < 0.3, len(ids)
    predicted = rng.random(count) < 0.4
    dice = np.where(positive, predicted * rng.random(count), ~predicted)
    patients = [f"patient {i // 3}" for i in range(count)]
    return Scored(ids, patients, positive, dice, predicted, rng.random(count), np.full(count, 7.0))


def test_gains_are_paired_by_image_and_drawn_by_patient():
    """Against a loop over bootstrap draws; a run has no gain over itself."""
    ids = [f"image{i:02}" for i in range(60)]
    first, second = draw_scored(1, ids), draw_scored(2, ids)
    row = compare("second", second, first)
    difference = second.dice - first.dice
    assert row["gain"][0] == pytest.approx(difference.mean())
    assert row["gain_over_empty"][0] == pytest.approx((second.dice - ~second.positive).mean())
    rng, means = np.random.default_rng(3), []
    by_patient = difference.reshape(20, 3).mean(axis=1)
    for _ in range(4000):
        means.append(by_patient[rng.integers(0, 20, 20)].mean())
    assert row["gain"][1:] == pytest.approx(np.percentile(means, (2.5, 97.5)), abs=0.02)
    assert compare("first", first, first)["gain"] == [0, 0, 0]
    assert row["seconds"] == 7


def test_scored_images_are_read_as_they_were_written(tmp_path):
    scored = draw_scored(4, [f"image{i:02}" for i in range(20)])
    scored.save(tmp_path / "peer.csv")
    read = read_scored(tmp_path / "peer.csv")
    assert (read.ids, read.patients) == (scored.ids, scored.patients)
    for name in ("positive", "dice", "predicted", "score", "seconds"):
        np.testing.assert_array_equal(getattr(read, name), getattr(scored, name))


def test_results_for_other_images_are_not_compared():
    one, other = (draw_scored(1, [f"{name}{i}" for i in range(9)]) for name in "ab")
    with pytest.raises(InputError, match="other images"):
        compare("other", other, one)


@pytest.fixture
def compared(tmp_path):
    """The flags of a comparison with the results of two trained runs in place."""
    root = write_dataset(tmp_path / "data", count=20)
    patients = root / "patients.csv"
    names = sorted(path.stem for path in (root / "train_images").iterdir())
    pd.DataFrame({"ImageId": names, "PatientId": names}).to_csv(patients, index=False)
    flags = [
        "original_512",
        "best",
        "--data",
        root,
        "--groups",
        patients,
        "--out",
        tmp_path / "out",
    ]
    flags = [str(flag) for flag in flags]
    given = recipes._parse(flags)
    for seed, name in enumerate(given.recipes):
        config = recipes._as_run(scale(read_recipe(name), recipes._bounds(given)), name, given)
        folder = recipes._folder(given, config)
        rows = []
        for number in range(2):
            fold = folder / f"fold{number}"
            fold.mkdir(parents=True)
            histograms = measured(10 * seed + number)
            ids = np.array([f"image{number}{i}" for i in range(len(histograms.ids))])
            replace(histograms, ids=ids).save(fold / "oof.npz")
            (fold / "log.txt").write_text("2026-01-01 00:00:00 first line\n")
            rows += [(name, number, 1, name) for name in ids]
        table = pd.DataFrame(rows, columns=["ImageId", "fold", "positive", "PatientId"])
        table.to_csv(folder / "folds.csv", index=False)
        config.save(folder / "config.yaml")
    return flags


def test_the_table_shows_the_out_of_fold_results(compared, capsys):
    assert recipes.main(compared) == 0
    out = recipes._parse(compared).out
    lines = capsys.readouterr().out.splitlines()
    rows = json.loads((out / "recipes.json").read_text())
    pooled = [
        concatenate(list(load_folds(out / "unet_resnet34" / row["name"]).values())) for row in rows
    ]
    aucs = [roc_auc_score(each.positive, each.image_scores()) for each in pooled]
    for row, auc in zip(rows, aucs, strict=True):
        assert row["auc"][0] == pytest.approx(auc)
        assert row["auc_gain"][0] == pytest.approx(auc - aucs[0])
        content = choose_thresholds(out / "unet_resnet34" / row["name"])
        (line,) = (line for line in lines if line.startswith(f"| {row['name']} |"))
        assert f"| {content['cross_fitted']['dice']:.4f} (" in line
        assert f"| {auc:.4f} (" in line
    assert aucs[0] != aucs[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--work", "9"], "trained with other settings"),
        (["--folds", "0"], "has folds [0, 1]"),
    ],
)
def test_runs_of_a_different_comparison_are_refused(compared, capsys, change, message):
    assert recipes.main([*compared, *change]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("trained", "asked", "fits"),
    [
        ("bf16-mixed", "auto", True),
        ("bf16-mixed", "bf16-mixed", True),
        ("bf16-mixed", "32-true", False),
    ],
)
def test_a_precision_that_was_asked_for_is_that_of_the_results(trained, asked, fits):
    saved, config = Config(precision=trained, folds="1"), Config(precision=asked)
    assert (recipes._as_given(saved, config) == config) == fits


@pytest.mark.parametrize("names", [["a/plain", "b/plain"], ["a/best"]], ids=" ".join)
def test_two_rows_of_the_same_name_are_refused(compared, capsys, tmp_path, names):
    words = []
    for name in names:
        path = tmp_path / f"{name}.csv"
        path.parent.mkdir()
        path.touch()
        words += ["--peer", str(path)]
    assert recipes.main([*compared, *words]) == 2
    message = f"another row of the table is named {path.stem!r}; rename the file"
    assert message in capsys.readouterr().err
