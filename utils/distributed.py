"""Launching the processes of all devices, and synchronising them."""

import atexit
import os
import zlib
from collections.abc import Callable
from typing import Literal, TypeVar

import torch
from lightning_fabric import Fabric
from torch import nn

from utils.errors import InputError, ReportedByRankZero, one_line, readable_os_errors
from utils.memory import GIB
from utils.parallel import usable_cores

_MAX_DEVICES = 16
"""Devices of a machine with few cores: the GPUs of the largest."""
T = TypeVar("T")
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
ResolvedPrecision = Literal["32-true", "bf16-mixed", "16-mixed"]
MemoryFormat = Literal["auto", "channels_last", "contiguous"]


def launch(
    accelerator: str,
    devices: int | str,
    num_nodes: int,
    precision: Precision,
    deterministic: bool = False,
) -> Fabric:
    """Start the processes of all devices.

    Args:
        accelerator: auto, cpu, cuda or mps.
        devices: number of devices, or auto for all visible ones.
        num_nodes: number of machines.
        precision: 32-true, bf16-mixed, 16-mixed or auto, which is bfloat16 where the device
            supports it natively, else float16 on a GPU, else float32.
        deterministic: use only algorithms with bit-identical results in every run.

    Raises:
        InputError: the device does not exist or does not support the precision, or there are more
            devices than one machine has; nothing is started.
    """
    _check_devices(devices)
    if deterministic:
        # cuBLAS reads this variable when it is initialised.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            precision=resolve_precision(precision, accelerator),
        )
        fabric.launch()
    except (ImportError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"cannot run with --accelerator {accelerator} --devices {devices} "
            f"--precision {precision}: {one_line(error)}"
        ) from error
    if fabric.world_size > 1:
        atexit.register(_leave_gloo)
    if fabric.device.type == "cuda":
        # TF32 for float32 matrix products, and the fastest convolutions for fixed sizes.
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = not deterministic
    return fabric


def _leave_gloo() -> None:
    """End gloo's threads while the interpreter still runs.

    One that frees a tensor later waits for an interpreter that is gone, and aborts the process:
    https://github.com/pytorch/pytorch/pull/179291.
    """
    group = torch.distributed
    if group.is_initialized() and group.get_backend() == "gloo":
        group.destroy_process_group()


def gather(fabric: Fabric, mine: list[T]) -> list[T]:
    """Concatenate the lists of all processes, in every process."""
    if fabric.world_size == 1:
        return mine
    lists: list[list[T]] = [[] for _ in range(fabric.world_size)]
    torch.distributed.all_gather_object(lists, mine)
    return [item for part in lists for item in part]


def decide_on_rank_zero(fabric: Fabric, decide: Callable[[], T]) -> T:
    """Call `decide`, which may also write files, on rank 0 and broadcast its result.

    Whatever it raises ends every process. Otherwise those without the error would wait in their
    next collective until its time limit of half an hour, and hold the memory of their GPUs.

    Raises:
        InputError: on rank 0, `decide` raised it, or an error of the file system.
        Exception: on rank 0, `decide` raised it.
        ReportedByRankZero: on the other ranks, for any of these.
    """
    decided: list[T] = []
    error: Exception | None = None
    if fabric.is_global_zero:
        try:
            with readable_os_errors():
                decided.append(decide())
        except Exception as raised:
            error = raised
    decided = fabric.broadcast(decided)
    if error is not None:
        raise error
    if not decided:
        raise ReportedByRankZero
    return decided[0]


def any_rank(fabric: Fabric, flag: bool) -> bool:
    """Return, in every process, whether `flag` is set in any process."""
    value = torch.tensor(int(flag), device=fabric.device)
    return bool(torch.as_tensor(fabric.all_reduce(value, reduce_op="max")).item())


def broadcast_buffers(fabric: Fabric, module: nn.Module) -> None:
    """Broadcast rank 0's buffers: each process updated its own batch-norm statistics."""
    if fabric.world_size > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, src=0)


def check_weights_equal(fabric: Fabric, module: nn.Module) -> int:
    """Return a CRC-32 of all weights and buffers, after comparing it between processes.

    Raises:
        RuntimeError: it differs between processes.
    """
    checksum = 0
    for value in module.state_dict().values():
        checksum = zlib.crc32(value.cpu().contiguous().numpy(), checksum)
    checksums = gather(fabric, [checksum])
    if len(set(checksums)) > 1:
        raise RuntimeError(f"weights differ between processes: checksums {checksums}")
    return checksum


def peak_gpu_memory() -> float:
    """Return the peak GPU memory allocated by this process, in GiB; 0 without a GPU."""
    return torch.cuda.max_memory_allocated() / GIB if torch.cuda.is_available() else 0.0


def resolve_precision(precision: Precision, accelerator: str) -> ResolvedPrecision:
    """Return the fastest precision for auto, and any other as it is.

    Native bfloat16 is the fastest for every network that was measured, those of depthwise
    convolutions too, see benchmarks/README.md. So the network does not matter.

    Args:
        precision: the setting.
        accelerator: auto, cpu, cuda or mps.
    """
    if precision != "auto":
        return precision
    if accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if native else "16-mixed"
    native = accelerator in ("auto", "cpu") and _has_native_bfloat16()
    return "bf16-mixed" if native else "32-true"


def resolve_memory_format(
    memory_format: MemoryFormat, fabric: Fabric
) -> Literal["channels_last", "contiguous"]:
    """Return the faster memory format for training on this device for auto, else the one given.

    Channels last suits the matrix units of GPUs and of CPUs with native bfloat16. On other CPUs it
    slows down the backward pass, by 40 % at 1024 pixels with AVX2.
    """
    if memory_format != "auto":
        return memory_format
    has_matrix_units = fabric.device.type != "cpu" or _has_native_bfloat16()
    return "channels_last" if has_matrix_units else "contiguous"


def memory_format_for(fabric: Fabric, memory_format: MemoryFormat = "auto") -> torch.memory_format:
    """Return the memory format to train with, see `resolve_memory_format`."""
    resolved = resolve_memory_format(memory_format, fabric)
    return torch.channels_last if resolved == "channels_last" else torch.contiguous_format


def _check_devices(devices: int | str) -> None:
    """Refuse a number of CPU processes that would bring the machine down."""
    text, most = str(devices), max(_MAX_DEVICES, usable_cores())
    if text.isdecimal() and (len(text) > len(str(most)) or int(text) > most):
        raise InputError(f"--devices {text}: at most {most} devices or CPU processes per machine")


def _has_native_bfloat16() -> bool:
    """Return whether the CPU has bfloat16 instructions; emulation is many times slower."""
    return any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))
