"""Time until a command answers --help, against importing first all that it works with."""

import subprocess
import sys
from functools import partial
from pathlib import Path

from benchmarks.speed.compare import Ratio, in_turns

_REPOSITORY = Path(__file__).parents[2]
_COMMANDS = {"main": "experiment", "predict": "utils.commands.predict"}
"""What does the work of each command."""


def measure() -> Ratio:
    """Compare answers per second of main.py and predict.py to --help, each in a process of its own.

    The baseline imports all that these commands work with before it parses the command line.
    """
    ours = [f"import {name}; {name}.main(['--help'])" for name in _COMMANDS]
    works = [f"import {work}" for work in _COMMANDS.values()]
    baseline = [f"{work}; {code}" for work, code in zip(works, ours, strict=True)]
    return in_turns("help", partial(_run, ours), partial(_run, baseline), "answers/s")


def _run(codes: list[str]) -> int:
    for code in codes:
        command = [sys.executable, "-c", code]
        subprocess.run(command, cwd=_REPOSITORY, stdout=subprocess.DEVNULL, check=True)
    return len(codes)
