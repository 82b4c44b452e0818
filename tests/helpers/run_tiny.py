"""Run a script of the top level with tiny networks.

    python -m tests.helpers.run_tiny main|predict ARGUMENTS

A separate command, for tests of how a process ends or of what its system lacks.
"""

import importlib
import sys
from unittest.mock import patch

import solver
from tests.helpers.tiny import TinyNet, build_tiny
from utils.inference import ensemble
from utils.training.start import plan

if __name__ == "__main__":
    patch.object(TinyNet, "size_step", 1, create=True).start()
    for module in (plan, solver, ensemble):
        patch.object(module, "build_model", build_tiny).start()
    sys.exit(importlib.import_module(sys.argv[1]).main(sys.argv[2:]))
