"""Blends of runs: their out-of-fold predictions, thresholds and predictions of new images."""

import csv
import json
import shlex
import shutil
from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

import predict
from datasets.folds import get_fold, read_folds, write_folds
from datasets.formats.depth import bits_file, write_bits
from datasets.formats.images import read_image
from datasets.formats.masks import read_mask
from datasets.formats.rle import decode
from datasets.preprocessing import preprocess
from datasets.siim import find_samples
from datasets.sources.files import FileSource
from solver import Solver
from tests.helpers.dicoms import picture
from tests.helpers.image_files import read_pixels
from tests.helpers.tiny import build_tiny, predict_slowly, write_dataset, write_run
from utils import blend, files
from utils.commands import blend as commands
from utils.commands.predict import find_rule
from utils.config.command_line import load_config, parse_config
from utils.config.layout import find_run
from utils.config.prediction import parse_blend_options, parse_predict_options
from utils.config.settings import Config
from utils.config.stages import build_stages
from utils.errors import InputError
from utils.inference import ensemble
from utils.inference.runs import read_runs, results_folder, threshold_command
from utils.postprocessing.histograms import LEVELS, load_histograms
from utils.postprocessing.maps.tensors import resize_probability
from utils.postprocessing.rule import PostProcess, load_rule
from utils.training.start.run_data import record_data

CPU = ["--accelerator", "cpu", "--devices", 1, "--precision", "32-true", "--num_workers", 0]
A = {"epoch_stage3": 1, "presence_weight": 0.1}
A_KEPT = {2: ["best"], 3: ["best"]}
B = {"image_size_stage2": 32, "clahe": False, "keep_best": 2, "presence_weight": 0.1}
B_INPUT = {"input_mean": "0.5", "input_std": "0.1,0.2,0.3"}
B_KEPT = {2: ["epoch1", "epoch2"]}


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setattr(ensemble, "build_model", build_tiny)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory):
    """A folder with runs A and B, finished in both folds."""
    folder = tmp_path_factory.mktemp("checkpoints")
    runs = (
        write_run(folder / "u" / "A", root, 1, **A),
        write_run(folder / "l" / "B", root, 2, **B, **B_INPUT),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensemble, "build_model", build_tiny)
        for run in runs:
            finish(run, root)
    return folder


@pytest.fixture
def runs(finished, tmp_path):
    """Copies of A and B."""
    shutil.copytree(finished, tmp_path / "checkpoints")
    return tmp_path / "checkpoints" / "u" / "A", tmp_path / "checkpoints" / "l" / "B"


def finish(run, root):
    settings, table = load_config(run / "config.yaml"), read_folds(run / "folds.csv")
    source = FileSource(find_samples(root).samples, settings.clahe)
    fabric, stages = Fabric(accelerator="cpu", devices=1), build_stages(settings)
    for number in range(2):
        fold, folder = get_fold(table, number), run / f"fold{number}"
        Solver(fabric, settings, stages, fold, source, folder, prior=0.1).write_out_of_fold()


def words(*runs, weights=None):
    given = [word for run in runs for word in ("--run", run)]
    return [str(word) for word in given + (["--weights", weights] if weights else []) + CPU]


def choose(*runs, weights=None, flags=()):
    return blend.main([*words(*runs, weights=weights), *map(str, flags)])


def results(*runs, weights=None):
    return results_folder(read_runs(runs, weights, "all"))


def refusal(capsys, code):
    assert code == 2
    return capsys.readouterr().err.split("error: ", 1)[1]


def assert_counts(found, probability):
    """Allow small differences: the last bits of a network's output depend on the batch size."""
    counts = np.histogram(np.floor(255 * probability), bins=LEVELS, range=(0, LEVELS))[0]
    assert found.sum() == probability.size
    assert np.abs(np.cumsum(found - counts)).max() <= 20


def test_out_of_fold_maps_are_the_weighted_mean_at_the_original_size(runs, root):
    assert choose(*runs, weights="3,2") == 0
    folder = results(*runs, weights="0.6,0.4")
    samples = find_samples(root).samples
    for number in range(2):
        found = load_histograms(folder / f"fold{number}" / "oof.npz")
        assert found.ids.tolist() == get_fold(read_folds(runs[0] / "folds.csv"), number).valid
        for i, name in enumerate(found.ids.tolist()):
            grey, truth = read_image(samples[name].image), read_mask(samples[name].mask)
            parts = [
                predict_slowly(run, number, grey, kept)
                for run, kept in zip(runs, (A_KEPT, B_KEPT), strict=True)
            ]
            probability, gate, presence = (
                np.average(np.stack(part), axis=0, weights=[0.6, 0.4])
                for part in zip(*parts, strict=True)
            )
            assert_counts(found.all[i], probability)
            assert_counts(found.mask[i], probability[truth > 0])
            assert found.gate is not None
            assert_counts(found.gate[i], gate)
            assert found.presence is not None
            assert found.presence[i] == pytest.approx(presence, abs=1e-5)
            assert np.abs(probability - parts[0][0]).max() > 0.05


@pytest.mark.parametrize("weights", [None, "0.6,0.4"])
def test_a_run_blended_with_itself_is_that_run(runs, weights):
    run, _ = runs
    assert choose(run, run, weights=weights) == 0
    for number in range(2):
        blended, single = (
            vars(load_histograms(folder / f"fold{number}" / "oof.npz"))
            for folder in (results(run, run, weights=weights), run)
        )
        for name, values in single.items():
            np.testing.assert_array_equal(blended[name], values, name)


def test_the_results_are_those_of_a_run(runs, capsys):
    folder = results(*runs)
    users = [folder / "fold0_old" / "oof.npz", runs[0] / "fold0_old" / "oof.npz"]
    for path in users:
        path.parent.mkdir(parents=True)
        path.touch()
    assert choose(*runs) == 0
    assert all(path.exists() for path in users)
    rule = load_rule(folder / "threshold.json")
    assert len(json.loads((folder / "summary.json").read_text())["folds"]) == 2
    assert (folder / "threshold.png").stat().st_size > 1000
    about = json.loads((folder / "blend.json").read_text())
    assert [(part["run"], part["weight"]) for part in about["runs"]] == [
        (str(run), 0.5) for run in runs
    ]
    output = capsys.readouterr().out
    assert rule.describe() in output
    assert "\\n" not in output
    assert str(folder) in output


def test_a_blend_with_a_run_that_is_not_out_of_fold_is_not_either(runs, capsys):
    leak = {"encoder_weights": "w.pth", "fold": 1, "run": "u/C", "images": {"0": 7, "1": 0}}
    for leaks in ([leak], []):
        (runs[1] / "leakage.json").write_text(json.dumps(leaks))
        assert choose(*runs) == 0
        content = json.loads((results(*runs) / "threshold.json").read_text())
        assert content["out_of_fold"] is not bool(leaks)
        assert ("NOT OUT OF FOLD" in capsys.readouterr().out) is bool(leaks)


def test_predict_names_the_command_that_chooses_the_thresholds(runs, tmp_path, capsys):
    flags = ["--images", tmp_path / "x", "--out", tmp_path / "out.csv"]
    (tmp_path / "x").mkdir()
    sizes = [(50, 41), (64, 64), (30, 90)]
    for i, (height, width) in enumerate(sizes):
        cv2.imwrite(str(tmp_path / "x" / f"image{i}.png"), picture(height, width, i))
    asked = [*words(*runs, weights="0.7,0.3"), *map(str, flags)]
    message = refusal(capsys, predict.main(asked))
    (line,) = (line for line in message.splitlines() if "utils.blend" in line)
    python, module, name, *rest = shlex.split(line)
    assert (python, module, name) == ("python", "-m", "utils.blend")
    assert blend.main(rest + [str(word) for word in CPU]) == 0
    rule_file = results(*runs, weights="0.7,0.3") / "threshold.json"
    rule = {"threshold": 0.5, "min_area": 700, "top_threshold": 0.5, "presence_threshold": 0.4}
    rule_file.write_text(json.dumps(rule))
    # The blend does not depend on the order of its runs or the sum of the weights.
    asked = [*words(*runs[::-1], weights="3,7"), *map(str, flags)]
    assert predict.main(asked) == 0
    with open(tmp_path / "out.csv") as rows, open(tmp_path / "scores.csv") as scores:
        submission, scored = list(csv.DictReader(rows)), list(csv.DictReader(scores))
    emptied = 0
    for i, (row, score) in enumerate(zip(submission, scored, strict=True)):
        grey = read_image(tmp_path / "x" / f"image{i}.png")
        probability, gate, presence = (
            np.average(np.stack(part), axis=0, weights=[0.7, 0.7, 0.3, 0.3])
            for part in zip(
                *(
                    predict_slowly(run, number, grey, kept)
                    for run, kept in zip(runs, (A_KEPT, B_KEPT), strict=True)
                    for number in range(2)
                ),
                strict=True,
            )
        )
        levels, gate_levels = (
            np.floor(255 * part).astype(np.uint8) for part in (probability, gate)
        )
        expected = load_rule(rule_file).mask(levels, gate_levels, float(presence))
        mask = decode(row["EncodedPixels"], *sizes[i])
        assert (mask != expected).mean() < 0.005
        assert float(score["probability"]) == pytest.approx(presence, abs=2e-6)
        emptied += not expected.any()
    assert emptied < len(sizes)


def test_images_that_a_run_left_out_need_no_list(runs, root, tmp_path):
    """The list may be gone; what it named may be unusable, such as files with the same id."""
    other = tmp_path / "data"
    shutil.copytree(root, other)
    for suffix in ("png", "jpg"):
        (other / "train_images" / f"twice.{suffix}").touch()
    for run in runs:
        replace(load_config(run / "config.yaml"), exclude="gone.txt").save(run / "config.yaml")
    asked = parse_blend_options([*words(*runs), "--dataset_root", str(other)], "")
    plan = commands.make_plan(asked)
    assert sorted(plan.samples) == sorted(read_folds(runs[0] / "folds.csv")["ImageId"])


def test_runs_with_different_folds_are_refused(runs, capsys):
    table = read_folds(runs[1] / "folds.csv")
    numbers = table["fold"].tolist()
    numbers[3] = 1 - numbers[3]
    table["fold"] = numbers
    write_folds(table, runs[1] / "folds.csv")
    message = refusal(capsys, choose(*runs))
    assert f"image image03 is in fold {1 - numbers[3]} of {runs[0]}" in message
    assert f"but in fold {numbers[3]} of {runs[1]}" in message
    write_folds(table.drop(3), runs[1] / "folds.csv")
    assert f"but in no fold of {runs[1]}" in refusal(capsys, choose(*runs))
    assert not (runs[0].parent.parent / "blends").exists()


def test_a_fold_that_a_run_has_not_finished_is_left_out(runs, capsys):
    assert choose(*runs) == 0
    (runs[1] / "fold0" / "oof.npz").unlink()
    assert choose(*runs) == 0
    assert f"fold 0 is left out: {runs[1]} has not finished it" in capsys.readouterr().out
    found = sorted(path.parent.name for path in results(*runs).glob("fold*/oof.npz"))
    assert found == ["fold1"]
    (runs[0] / "fold1" / "oof.npz").unlink()
    assert "no fold is finished in all runs" in refusal(capsys, choose(*runs))
    assert (results(*runs) / "threshold.json").exists()


def test_missing_images_are_named(runs, root, tmp_path, capsys):
    other = tmp_path / "data"
    shutil.copytree(root, other)
    (other / "train_images" / "image05.png").unlink()
    message = refusal(capsys, choose(*runs, flags=["--dataset_root", other]))
    assert "lacks 1 images" in message
    assert "the first is image05" in message


@pytest.mark.parametrize(
    "weights",
    ["0.5", "0.5,0.3,0.2", "0.5,0", "0.5,-1", "a,b", "nan,1", "1,nan", "inf,1", "1e308,1e308"],
)
def test_invalid_weights_are_refused(runs, tmp_path, capsys, weights):
    assert f"--weights {weights}: give one number above 0 per --run, 2 in all" in refusal(
        capsys, choose(*runs, weights=weights)
    )


def test_one_run_with_its_own_tta_is_no_blend(runs, capsys):
    before = sorted(runs[0].rglob("*"))
    for flags in ([], ["--tta", "none"]):
        message = refusal(capsys, choose(runs[0], flags=flags))
        assert "needs a second --run, or another --tta than none" in message
        assert "python main.py --mode choose_threshold --run_name A --model_path" in message
    assert sorted(runs[0].rglob("*")) == before


def rule_of(runs, capsys, *flags):
    """Return the rule that predict.py uses, and what it says about it."""
    asked = [*words(*runs), "--images", ".", *map(str, flags)]
    options = parse_predict_options(asked, "")
    capsys.readouterr()
    rule, _ = find_rule(options, read_runs(options.run, options.weights, "all"))
    return rule, capsys.readouterr().out


def test_a_run_gets_thresholds_for_another_tta_by_the_command_that_predict_names(
    runs, root, capsys
):
    run, _ = runs
    own = PostProcess(0.5, 0, 0.5)
    (run / "threshold.json").write_text(json.dumps(asdict(own)))
    before = results_and_times(run)
    rule, said = rule_of([run], capsys, "--tta", "hflip")
    assert rule == own
    assert "chosen with --tta none, but this prediction uses --tta hflip" in said
    (line,) = (line for line in said.splitlines() if "utils.blend" in line)
    assert line.split() == ["python", "-m", "utils.blend", "--run", str(run), "--tta", "hflip"]
    assert blend.main([*shlex.split(line)[3:], *map(str, CPU)]) == 0
    folder = results_folder(read_runs([run], None, "all"), "hflip")
    mirrored = load_rule(folder / "threshold.json")
    assert mirrored != own
    assert rule_of([run], capsys, "--tta", "hflip") == (mirrored, "")
    assert rule_of([run], capsys) == (own, "")
    assert results_and_times(run) == before
    found = load_histograms(folder / "fold0" / "oof.npz")
    image = read_image(find_samples(root).samples[str(found.ids[0])].image)
    grey = preprocess(image, load_config(run / "config.yaml").image_size_stage2, True)
    ways = (
        predict_slowly(run, 0, g, A_KEPT, prepared=True)[0] for g in (grey, grey[:, ::-1].copy())
    )
    mean = (next(ways) + next(ways)[:, ::-1]) / 2
    assert_counts(found.all[0], resize_probability(torch.from_numpy(mean), *image.shape).numpy())


def test_predict_takes_the_thresholds_that_fit_its_tta(runs, capsys):
    def write(tta, min_area):
        folder = results_folder(read_runs(runs, None, "all"), tta)
        folder.mkdir(parents=True, exist_ok=True)
        content = asdict(PostProcess(0.5, min_area, 0.5)) | {"tta": tta}
        (folder / "threshold.json").write_text(json.dumps(content))

    def found(*flags):
        rule, said = rule_of(runs, capsys, *flags)
        return rule.min_area, said

    write("hflip", 11)
    assert found() == found("--tta", "hflip") == (11, "")
    area, said = found("--tta", "none")
    assert area == 11
    assert "chosen with --tta hflip, but this prediction uses --tta none" in said
    write("scales", 12)
    with pytest.raises(InputError, match="thresholds for --tta hflip and scales: choose one"):
        found()
    write("none", 13)
    assert found() == found("--tta", "none") == (13, "")
    assert found("--tta", "hflip") == (11, "")


def results_and_times(folder):
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def test_earlier_results_stay_until_new_ones_are_complete(runs, monkeypatch):
    folder = results(*runs)
    for name in ("fold0/oof.npz", "fold1/oof.npz", "threshold.json", "leakage.json", "folds.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("earlier")
    before, staged = results_and_times(folder), []

    def interrupted(place, _):
        staged.extend(sorted(path.name for path in place.glob("fold*/oof.npz")))
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "choose_thresholds", interrupted)
    assert choose(*runs) == 130
    assert staged == ["oof.npz"] * 2
    assert results_and_times(folder) == before
    assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_that_another_process_writes_is_left_alone(runs, monkeypatch, capsys):
    monkeypatch.setattr(files, "_PATIENCE", 0)
    folder = results(*runs)
    folder.mkdir(parents=True)
    lock = files.OwnedLock(folder, "")
    assert lock.acquire() is None
    assert f"{folder} is being written by process" in refusal(capsys, choose(*runs))
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "lock.json"]
    lock.release()


@pytest.mark.parametrize("change", ["mask", "bits"])
def test_images_that_a_run_was_not_trained_on_are_refused(runs, root, tmp_path, capsys, change):
    other = tmp_path / "data"
    shutil.copytree(root, other)
    for run in runs:
        samples, table = find_samples(root).samples, read_folds(run / "folds.csv")
        record_data(run, table, samples, root)
    if change == "mask":
        mask = other / "train_mask" / "image04.png"
        cv2.imwrite(str(mask), 255 - read_pixels(mask))
        expected = f"run {runs[0]} was started with other images or masks: 1 of 28 files"
    else:
        write_bits(bits_file(other), 12)
        expected = f"run {runs[0]} was started on images read as an unknown number of bits"
    flags = ["--dataset_root", other]
    assert expected in refusal(capsys, choose(*runs, flags=flags))
    (runs[0] / "data.csv").unlink()
    if change == "mask":
        assert f"run {runs[1]} was started" in refusal(capsys, choose(*runs, flags=flags))
    assert not results(*runs).exists()


@pytest.mark.parametrize("weights", ["4,1,1", "7,5,2", "3,3,1"])
def test_the_named_command_has_the_same_results_folder(runs, weights):
    asked = read_runs((*runs, runs[0]), weights, "all")
    given = shlex.split(threshold_command(asked))
    again = read_runs((*runs, runs[0]), given[given.index("--weights") + 1], "all")
    assert results_folder(again) == results_folder(asked)


def test_the_named_command_finds_the_run_among_those_of_the_same_name(tmp_path):
    folders = [tmp_path / network / "x" for network in ("U_Net", "linknet")]
    for folder in folders:
        folder.mkdir(parents=True)
        Config(model_type=folder.parent.name).save(folder / "config.yaml")
        command = threshold_command(read_runs([folder], None, "all"))
        config, given = parse_config(shlex.split(command)[2:], "")
        assert find_run(config, given) == folder


def test_presence_needs_a_head_in_every_run(runs, root, tmp_path, capsys):
    without = write_run(tmp_path / "checkpoints" / "l" / "C", root, 3)
    flags = ["--images", root / "train_images", "--threshold", 0.5, "--min_area", 0]
    asked = [*words(runs[0], without), *map(str, flags), "--presence_threshold", "0.3"]
    assert "presence_threshold 0.3: needs networks" in refusal(capsys, predict.main(asked))


def test_the_results_folder_depends_on_runs_weights_and_tta_only(runs):
    a, b = runs
    both, alone = read_runs((a, b), None, "all"), read_runs([a], None, "all")
    same = {results(a, b), results(b, a), results(a, b, weights="2,2"), results(a / ".." / "A", b)}
    assert same == {results_folder(both, "none")}
    assert results_folder(alone) == results_folder(alone, "none") == a
    others = [
        results(a, b),
        results(a, b, weights="0.6,0.4"),
        results(a, b, weights="0.4,0.6"),
        results(a, a),
        results(a, a, b),
        results(b, b),
        results_folder(both, "hflip"),
        results_folder(both, "hflip,scales"),
        results_folder(alone, "hflip"),
    ]
    assert len(set(others)) == len(others)
    assert {folder.parent for folder in others} == {a.parent.parent / "blends"}
    assert results(a, b).name.startswith("B+A_0.5,0.5_")


def test_runs_with_equal_or_long_names_have_different_results_folders(runs):
    root = runs[0].parent.parent
    long = [run.rename(run.with_name(letter * 200)) for run, letter in zip(runs, "ab", strict=True)]
    other = long[0].with_name(long[0].name[:-1] + "c")
    shutil.copytree(long[0], other)
    first, second = results(*long), results(other, long[1])
    assert first != second
    assert max(len(folder.name.encode()) for folder in (first, second)) < 255
    namesake = root / "other" / long[0].name
    shutil.copytree(long[0], namesake)
    assert results(namesake, long[1]) not in (first, second)


def test_a_run_in_a_folder_whose_name_is_no_text_is_refused(tmp_path, capsys):
    """TensorBoard cannot write there."""
    runs = [str(tmp_path / "s\udcf6r" / name) for name in "AB"]
    assert blend.main(["--run", runs[0], "--run", runs[1], *map(str, CPU)]) == 2
    assert "has bytes that are no UTF-8 text; rename" in capsys.readouterr().err
