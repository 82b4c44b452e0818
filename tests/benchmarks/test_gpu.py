"""The command for GPUs: parts end on their own, results are kept, and every part runs on a CPU."""

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import gpu
from benchmarks.evidence import trainings
from benchmarks.evidence.isolated import PartFailed, run_isolated
from benchmarks.evidence.scale import NETWORKS, SMALL, Context
from benchmarks.speed.data import Data
from tests.helpers import parts
from utils.errors import InputError

REPOSITORY = Path(__file__).parents[2]


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

    def call(outcomes, minutes="1"):
        clock = iter(range(0, 100_000, 20))
        monkeypatch.setattr(gpu.time, "monotonic", lambda: float(next(clock)))
        planned = [gpu.Planned(name, name, 30) for name in outcomes]
        monkeypatch.setattr(gpu, "plan", lambda scale: planned)

        def run_part(part, context, seconds, log):
            *rows, last = outcomes[part]
            for row in rows:
                yield row
                content = json.loads((tmp_path / "out" / "gpu.json").read_text())
                assert row in content["parts"][-1]["rows"]
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


def test_what_does_not_fit_into_the_minutes_is_left_out(run):
    code, content, _ = run({"one": [{"a": 1}, None], "two": [{"a": 1}, None]}, minutes="1")
    assert code == 1
    assert [part["rows"] for part in content["parts"]] == [[{"a": 1}], []]
    assert content["parts"][1]["error"] == "left out, as the time is over"


def test_without_a_gpu_the_machine_is_said_to_have_none(run, monkeypatch):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    _, content, table = run({"one": [None]}, minutes="100")
    assert content["machine"]["GPU"].startswith("none: tiny images on the CPU")
    assert "no figures of speed" in table


def test_the_plan_has_both_networks_at_both_sizes():
    names = [planned.name for planned in gpu.plan(SMALL)]
    assert len(names) == len(set(names))
    for network in NETWORKS:
        for size in SMALL.batches:
            assert f"training steps, {network} at {size} pixels" in names
            assert f"compiled steps, {network} at {size} pixels" in names


def test_a_folder_with_several_csv_files_is_refused_by_name(tmp_path):
    for name in ("a.csv", "b.csv", "patients.csv"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"exactly one csv.*found: a\.csv, b\.csv"):
        next(gpu.open_xrays(tmp_path, SMALL).gen)


@pytest.mark.slow
def test_what_fits_into_the_time_is_measured_and_the_rest_is_named(tmp_path):
    words = ["--out", str(tmp_path / "out"), "--minutes", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    table = (tmp_path / "out" / "gpu.md").read_text()
    first, *others = table.split("\n## ")[1:]
    assert done.returncode == 1, table + done.stderr[-2000:]
    assert "plain float32 loop" in first
    assert "bfloat16, channels last" in first
    assert "left out, as the time is over" in others[-1]


@pytest.mark.slow
def test_a_training_is_killed_and_resumed_with_the_same_bits():
    (row,) = trainings.measure_resume(Context(SMALL, Data([], {}, Path()), 2, 2, 600), "auto")
    assert row["kills"].startswith("1 in a ")
    assert row["differences"] == "none: same bits"
