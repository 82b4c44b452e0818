"""The command for GPUs: parts end on their own, results are kept, and every part runs on a CPU."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.evidence import speeds, trainings
from benchmarks.evidence.isolated import PartFailed, run_isolated
from benchmarks.evidence.scale import NETWORKS, SMALL, Context
from benchmarks.robustness import runs
from benchmarks.speed.data import Data
from tests.helpers import parts
from utils.errors import InputError

REPOSITORY = Path(__file__).parents[2]
CONTEXT = Context(SMALL, Data([], {}, Path()), 2, 2, 600)


def collect(part, seconds, log):
    """Return the rows of a part, and why it ended early."""
    rows = []
    try:
        for row in run_isolated(part, 7, seconds, log):
            rows.append(row)
    except PartFailed as error:
        return rows, str(error)
    return rows, None


def test_a_part_has_rows_and_its_output_goes_to_the_log(tmp_path):
    log = tmp_path / "log.txt"
    assert collect(parts.measures, 60, log) == ([{"value": 7}, {"value": 8}], None)
    assert log.read_text() == "a line of the part\n"


def test_the_workers_of_a_part_start_as_those_of_a_training(tmp_path):
    (row,), error = collect(parts.names_start_method, 60, tmp_path / "log.txt")
    assert row == {"method": multiprocessing.get_all_start_methods()[0]}
    assert error is None


def test_a_part_that_fails_keeps_its_rows_and_says_why(tmp_path):
    rows, error = collect(parts.fails, 60, tmp_path / "log.txt")
    assert (rows, error) == ([{"value": 7}], "ValueError: first line / the last line")
    assert "Traceback" in (tmp_path / "log.txt").read_text()


def test_a_part_that_dies_says_so(tmp_path):
    assert collect(parts.dies, 60, tmp_path / "log.txt") == (
        [{"value": 7}],
        "ended with exit code 3",
    )


def has_ended(process):
    """Return whether a process is gone, or waits for its parent to ask how it ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_part_is_stopped_with_the_processes_that_it_started(tmp_path):
    started = run_isolated(parts.hangs, 7, 60, tmp_path / "log.txt")
    process = next(started)["process"]
    assert not has_ended(process)
    started.close()
    until = time.monotonic() + 10
    while not has_ended(process) and time.monotonic() < until:
        time.sleep(0.01)
    assert has_ended(process)


def test_a_part_without_time_is_stopped(tmp_path):
    rows, error = collect(parts.hangs, 0, tmp_path / "log.txt")
    assert rows == []
    assert error == "stopped after 0 s, its share of the time"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command with parts in place of the real ones, in this process."""

    def call(outcomes, minutes="1", least=None):
        clock = iter(range(0, 100_000, 20))
        monkeypatch.setattr(gpu.time, "monotonic", lambda: float(next(clock)))
        planned = [gpu.Planned(name, name, 30, (least or {}).get(name, 10)) for name in outcomes]
        monkeypatch.setattr(gpu, "plan", lambda scale: planned)

        def run_part(part, context, seconds, log):
            *rows, last = outcomes[part]
            for row in rows:
                yield row
                content = json.loads((tmp_path / "out" / "gpu.json").read_text())
                assert [entry["name"] for entry in content["parts"]] == list(outcomes)
                (entry,) = (entry for entry in content["parts"] if entry["name"] == part)
                assert row in entry["rows"]
                after = content["parts"][list(outcomes).index(part) + 1 :]
                assert all(entry["left_out"].startswith("not reached") for entry in after)
            if last:
                raise PartFailed(last)

        monkeypatch.setattr(gpu, "run_isolated", run_part)

        @contextmanager
        def no_xrays(folder, scale):
            yield Data([], {}, tmp_path)

        monkeypatch.setattr(gpu, "open_xrays", no_xrays)
        code = gpu.main(["--out", str(tmp_path / "out"), "--minutes", minutes])
        table = (tmp_path / "out" / "gpu.md").read_text()
        return code, json.loads((tmp_path / "out" / "gpu.json").read_text()), table

    return call


def test_a_failed_part_does_not_stop_the_others_and_every_row_is_written_at_once(run):
    code, content, table = run(
        {"one": [{"a": 1.23456}, {"b": "x|y"}, None], "two": ["broken"], "three": [{"c": 3}, None]},
        minutes="100",
    )
    assert code == 1
    assert [part["rows"] for part in content["parts"]] == [
        [{"a": 1.23456}, {"b": "x|y"}],
        [],
        [{"c": 3}],
    ]
    assert [part["error"] for part in content["parts"]] == [None, "broken", None]
    assert "| a | b |\n|---|---|\n| 1.235 |  |\n|  | x/y |\n" in table
    assert "**Not finished**: broken" in table


def test_what_does_not_fit_into_the_minutes_is_left_out_with_the_reason(run):
    outcomes = {name: [{"a": 1}, None] for name in ("one", "two", "three")}
    # The clock is at 20 s when the first part begins, and at 80 s for the second one.
    code, content, table = run(outcomes, minutes="1.5", least={"two": 25, "three": 0})
    assert code == 0
    assert [part["rows"] for part in content["parts"]] == [[{"a": 1}], [], []]
    reason = "not enough time: it needs 25 s, and 10 s were left"
    assert [part["left_out"] for part in content["parts"][:2]] == [None, reason]
    assert "## two" not in table
    assert f"\n## Left out\n\n- two: {reason}\n- three: not enough time" in table


def test_a_short_part_runs_where_a_long_one_before_it_does_not_fit(run):
    outcomes = {"long": [{"a": 1}, None], "short": [{"a": 1}, None]}
    _, content, _ = run(outcomes, least={"long": 50, "short": 15})
    assert [len(part["rows"]) for part in content["parts"]] == [0, 1]


def test_the_log_begins_anew_and_says_which_part_wrote_what(run, tmp_path):
    log = tmp_path / "out" / "log.txt"
    log.parent.mkdir()
    log.write_text("an earlier run\n")
    run({"one": [None], "two": [None]}, minutes="100")
    assert log.read_text() == "\n== one\n\n== two\n"


def test_without_a_gpu_the_machine_is_said_to_have_none(run, monkeypatch):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    _, content, table = run({"one": [None]}, minutes="100")
    assert content["machine"]["GPU"].startswith("none: tiny images on the CPU")
    assert "no figures of speed" in table


def test_the_plan_has_what_matters_most_first():
    names = [planned.name for planned in gpu.plan(SMALL)]
    assert len(names) == len(set(names))
    at_sizes = [f" at {size} pixels" for size in SMALL.batches]
    shapes = [f", {network}{size}" for network in NETWORKS for size in at_sizes]
    assert names == [
        *(f"training steps on images in memory{shape}" for shape in shapes),
        "killed and resumed with --deterministic",
        *(f"loading, and waiting for it{size}" for size in at_sizes),
        *(f"prediction{size}" for size in at_sizes),
        *(f"validation{size}" for size in at_sizes),
        "killed and resumed in float16 with its loss scaler",
        "out of memory",
        *(f"training steps in other ways{shape}" for shape in shapes),
        *(f"compiled training steps{shape}" for shape in shapes),
    ]
    assert all(planned.least < planned.seconds for planned in gpu.plan(SMALL))


def test_what_needs_a_gpu_says_so_without_one(monkeypatch):
    monkeypatch.setattr(speeds, "_time_ours", lambda way, steps, rounds: {"way": way.name})
    rows = list(speeds.measure_other_steps(CONTEXT, NETWORKS[0], 32))
    assert [row["way"] for row in rows if "not measured" not in row] == [
        "bfloat16",
        "bfloat16, channels last, larger batches",
    ]
    assert [row["not measured"] for row in rows if "not measured" in row] == ["no GPU"]


def test_a_way_that_fails_has_the_reason_in_place_of_figures(monkeypatch):
    def fail(steps):
        raise torch.OutOfMemoryError("")

    monkeypatch.setattr(speeds, "open_plain", fail)
    monkeypatch.setattr(speeds, "_time_ours", lambda way, steps, rounds: {"way": way.name})
    row, *others = speeds.measure_steps(CONTEXT, NETWORKS[0], 32)
    assert row["not measured"] == "OutOfMemoryError:"
    assert [other["way"] for other in others] == ["float32", "bfloat16, channels last"]


def test_a_training_writes_all_that_it_prints_to_its_file(tmp_path, monkeypatch):
    """This process prints elsewhere, as pytest keeps its output."""

    def main(words):
        print("printed")
        print("an error", file=sys.stderr)
        return 2

    monkeypatch.setattr(runs.main, "main", main)
    print("held by this process", end="")
    process = runs.start(tmp_path, "said", {})
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 2
    assert (tmp_path / "said.txt").read_text() == "printed\nan error\n"


class Forked(Exception):
    """Raised in place of a fork."""


@pytest.mark.parametrize(
    "part",
    [
        partial(trainings.measure_resume, precision="auto"),
        partial(trainings.measure_resume, precision="16-mixed"),
        trainings.measure_out_of_memory,
    ],
    ids=["resume", "float16", "out of memory"],
)
def test_nothing_is_asked_of_a_gpu_before_a_training_is_forked(monkeypatch, part):
    """CUDA does not work in a fork of a process that has so much as counted the GPUs."""

    def ask(*_):
        raise AssertionError("asked for a GPU")

    def fork():
        raise Forked

    monkeypatch.setattr(os, "fork", fork)
    monkeypatch.setattr(torch.cuda, "is_available", ask)
    monkeypatch.setattr(torch.cuda, "device_count", ask)
    monkeypatch.setattr(trainings, "_LARGE_IMAGES", 2)
    context = replace(CONTEXT, scale=replace(SMALL, training_images=2))
    with pytest.raises(Forked):
        next(part(context))


@pytest.mark.parametrize(("gib", "share"), [(80, 1 / 80), (0.5, 1.0)])
def test_a_gpu_of_any_size_gives_as_little_memory(monkeypatch, gib, share):
    given: list[float] = []
    properties = type("Properties", (), {"total_memory": gib * 2**30})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", given.append)
    trainings._limit_memory()
    assert given == [share]


def test_a_folder_with_several_csv_files_is_refused_by_name(tmp_path):
    for name in ("a.csv", "b.csv", "patients.csv"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"exactly one csv.*found: a\.csv, b\.csv"):
        next(gpu.open_xrays(tmp_path, SMALL).gen)


@pytest.mark.slow
def test_what_fits_into_the_time_is_measured_and_the_rest_is_named(tmp_path):
    words = ["--out", str(tmp_path / "out"), "--minutes", "0.6"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    table = (tmp_path / "out" / "gpu.md").read_text()
    first, *_, last = table.split("\n## ")[1:]
    assert "plain float32 loop" in first, table + done.stderr[-2000:]
    assert "images/s" in first
    assert last.startswith("Left out\n")
    assert f"compiled training steps, {NETWORKS[1]} at 64 pixels: not enough time" in last


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "scaled"), [("auto", False), ("16-mixed", True)])
def test_a_training_is_killed_and_resumed_with_the_same_bits(tmp_path, precision, scaled):
    part = partial(trainings.measure_resume, precision=precision)
    (row,) = run_isolated(part, CONTEXT, CONTEXT.seconds, tmp_path / "log.txt")
    assert bool(row["loss scale"]) == scaled
    assert row["kills"].startswith("1 in a ")
    assert row["differences"] == "none: same bits"


@pytest.mark.slow
def test_a_training_without_enough_memory_is_told_what_to_do(tmp_path):
    part = trainings.measure_out_of_memory
    (row,) = run_isolated(part, CONTEXT, CONTEXT.seconds, tmp_path / "log.txt")
    assert row["exit code"] == 2
    assert row["message"].startswith("error: fold 0, stage 1, epoch 1: out of memory with 8 images")
    assert "--run_name large --resume true" in row["message"]
