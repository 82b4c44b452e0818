"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no fault of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# What tests compute is so small that handing it to a second thread costs more than it saves, most
# of all where other work keeps the cores busy. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def siim_data() -> Path:
    """The folder of real data, which may not be part of this repository."""
    folder = os.environ.get("SIIM_DATA")
    if not folder:
        pytest.skip("SIIM_DATA is not set: it names the folder with siim/dicom and siim/*.csv")
    return Path(folder)
