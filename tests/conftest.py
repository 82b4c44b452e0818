"""Fixtures and options that several test files share."""

import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is not the code's fault.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Tests compute so little that a second thread costs more than it saves, most of all on a busy
# machine. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --bfloat16, to run the tests as on another processor."""
    parser.addoption(
        "--bfloat16",
        choices=("native", "none"),
        help="treat this CPU as one with native bfloat16, or without (default: as it is)",
    )


@pytest.fixture(autouse=True, scope="session")
def bfloat16(request: pytest.FixtureRequest) -> None:
    """Apply --bfloat16."""
    choice = request.config.getoption("--bfloat16")
    if choice is not None:
        import torch

        torch.cpu.get_capabilities = cache(lambda: {"avx512_bf16": choice == "native"})


@pytest.fixture(autouse=True)
def _without_report() -> Iterator[None]:
    """Leave out the report that ends a training: there are more trainings than tests of it."""
    if "experiment" in sys.modules:
        with patch("experiment.try_report"):
            yield
    else:
        yield


@pytest.fixture(scope="session")
def siim_data() -> Path:
    """The folder of real data, which may not be part of this repository."""
    folder = os.environ.get("SIIM_DATA")
    if not folder:
        pytest.skip("SIIM_DATA is not set: it names the folder with siim/dicom and siim/*.csv")
    return Path(folder)
