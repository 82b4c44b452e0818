"""Dead workers: the cause that is named is the one that can be seen."""

import os
import signal

import pytest

from tests.datasets.test_loaders import open_data, open_source
from tests.helpers.tiny import write_dataset
from utils.errors import InputError
from utils.training.failures import readable_deaths


@pytest.mark.parametrize("cut", [False, True])
def test_a_bus_error_is_a_cut_cache_only_if_a_file_is_cut(tmp_path, capfd, cut):
    root, folder = write_dataset(tmp_path / "data"), tmp_path / "cache"
    data = open_data(root, 1, cache_dir=folder)
    check = open_source(root, cache_dir=folder).check_files
    list(data.train)
    (path,) = folder.glob("*/images_64_clahe.bin")
    if cut:
        os.truncate(path, 100)
    else:
        (worker,) = data.train._loader._iterator._workers
        os.kill(worker.pid, signal.SIGBUS)
    with pytest.raises(InputError) as error, readable_deaths("here", lambda: "COMMAND", check):
        list(data.train)
    message = str(error.value)
    assert (f"{path}: expected " in message) == cut
    assert ("found 100 bytes" in message) == cut
    assert ("a worker process was ended by a signal: Bus error" in message) != cut
    assert ("shared memory was full; shared memory, /dev/shm, has" in message) != cut
    assert message.endswith("resume with:\nCOMMAND") != cut
    assert message.count("\n") == (not cut)
    assert capfd.readouterr().err.count("\n") == 0
