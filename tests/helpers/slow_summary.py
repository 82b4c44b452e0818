"""Run main.py with a tiny network and a rank 0 that takes long to sum up, as it does in earnest.

    python -m tests.helpers.slow_summary ARGUMENTS

A separate command, because a process cannot leave the process group that it joined.
"""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import experiment
import main
import solver
from tests.helpers.tiny import build_tiny
from utils.inference import ensemble
from utils.training.start import plan

SECONDS = 7
"""Longer than the launcher takes to notice that another process has ended."""
summarise = experiment._summarise


def summarise_slowly(folder: Path, tta: str) -> None:
    """Sum up after the other process has ended, however long that takes on a busy machine."""
    with suppress(ChildProcessError):  # the launcher has noticed it first
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    time.sleep(SECONDS)
    summarise(folder, tta)


if __name__ == "__main__":
    patch.object(experiment, "_summarise", summarise_slowly).start()
    for module in (plan, solver, ensemble):
        patch.object(module, "build_model", build_tiny).start()
    sys.exit(main.main(sys.argv[1:]))
