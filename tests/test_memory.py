"""Memory: an allocation that fails ends in advice, any other error stays what it is."""

import pytest
import torch

from utils.errors import InputError
from utils.memory import explain_out_of_memory, peak_memory


def allocate_too_much():
    torch.empty(2**55, dtype=torch.uint8)


def a_gpu_that_is_full():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("work", [allocate_too_much, a_gpu_that_is_full])
def test_too_little_memory_ends_in_the_advice(work):
    with pytest.raises(InputError, match=r"^take fewer$"), explain_out_of_memory("take fewer"):
        work()


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="must match"), explain_out_of_memory("take fewer"):
        torch.zeros(2) + torch.zeros(3)


def test_the_peak_grows_with_what_is_held():
    before = peak_memory()
    held = torch.ones(2**28, dtype=torch.uint8)
    assert peak_memory() > before - 0.01
    assert peak_memory() >= held.nbytes / 2**30
