"""Memory: failed allocations are recognised, and the peak is measured."""

import pytest
import torch

from utils.errors import InputError
from utils.memory import is_out_of_memory, peak_memory, readable_memory_errors


def allocate_too_much():
    torch.empty(2**55, dtype=torch.uint8)


def exhaust_a_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def exhaust_a_library():
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


@pytest.mark.parametrize("work", [allocate_too_much, exhaust_a_gpu, exhaust_a_library])
def test_out_of_memory_is_recognised(work):
    with pytest.raises(RuntimeError) as full:
        work()
    assert is_out_of_memory(full.value)


def test_other_errors_are_not_out_of_memory():
    with pytest.raises(RuntimeError, match="must match") as other:
        torch.zeros(2) + torch.zeros(3)
    assert not is_out_of_memory(other.value)


@pytest.mark.parametrize("work", [allocate_too_much, exhaust_a_gpu])
def test_an_out_of_memory_prediction_names_the_flag(work):
    with pytest.raises(InputError, match="smaller --batch_size"), readable_memory_errors():
        work()


def test_a_killed_worker_of_a_prediction_is_told_with_what_to_do():
    message = r"a worker process was killed, as the kernel does .*fewer --num_workers"
    with pytest.raises(InputError, match=message), readable_memory_errors():
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")


def test_other_errors_of_a_prediction_are_reraised():
    with pytest.raises(RuntimeError, match="must match"), readable_memory_errors():
        torch.zeros(2) + torch.zeros(3)


def test_the_peak_includes_what_is_allocated():
    before = peak_memory()
    held = torch.ones(2**28, dtype=torch.uint8)
    assert peak_memory() > before - 0.01
    assert peak_memory() >= held.nbytes / 2**30
