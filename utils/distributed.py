"""Keeping the processes that train one network together."""

import os
from collections.abc import Callable
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from torch import nn

from utils.errors import InputError, ToldByFirst

T = TypeVar("T")


def launch(
    accelerator: str,
    devices: int | str,
    num_nodes: int,
    precision: str,
    deterministic: bool = False,
) -> Fabric:
    """Start the processes of all devices.

    Args:
        accelerator: auto, cpu, cuda or mps.
        devices: how many, or auto for all that are visible.
        num_nodes: number of machines.
        precision: auto, 32-true, bf16-mixed or 16-mixed; auto is bfloat16 where the device computes
            with it, else float16 on a GPU, else float32.
        deterministic: only use algorithms that give the same bits in every run.

    Raises:
        InputError: there is no such device, or it cannot do this.
    """
    if deterministic:
        # cuBLAS reads this as it starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            precision=_best_precision(accelerator) if precision == "auto" else precision,
        )
        fabric.launch()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"cannot compute with --accelerator {accelerator} --devices {devices} "
            f"--precision {precision}: {error}"
        ) from error
    if fabric.device.type == "cuda":
        # Float32 in TensorFloat-32, and the fastest convolution for sizes that stay as they are.
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = not deterministic
    return fabric


def gather(fabric: Fabric, mine: list[T]) -> list[T]:
    """Join the lists of all processes, in every process."""
    if fabric.world_size == 1:
        return mine
    every: list[list[T]] = [[] for _ in range(fabric.world_size)]
    torch.distributed.all_gather_object(every, mine)
    return [item for part in every for item in part]


def decide_once(fabric: Fabric, decide: Callable[[], T]) -> T:
    """Let the first process decide and hand the result to all.

    Raises:
        InputError: the decision failed; then in every process, so that none waits for another.
    """
    outcome: T | InputError | None = None
    if fabric.is_global_zero:
        try:
            outcome = decide()
        except InputError as error:
            outcome = error
    outcome = fabric.broadcast(outcome)
    if isinstance(outcome, InputError):
        raise outcome if fabric.is_global_zero else ToldByFirst(str(outcome))
    return outcome


def any_process(fabric: Fabric, flag: bool) -> bool:
    """Say, in every process, whether the flag is up in one of them."""
    raised = torch.tensor(int(flag), device=fabric.device)
    return bool(fabric.all_reduce(raised, reduce_op="max").item())


def share_buffers(fabric: Fabric, module: nn.Module) -> None:
    """Give every process the first one's buffers: each moved its own batch-norm statistics."""
    if fabric.world_size > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, src=0)


def check_equal(fabric: Fabric, module: nn.Module) -> float:
    """Return a checksum over all weights and buffers.

    Raises:
        RuntimeError: it differs between processes.
    """
    checksum = torch.stack([value.double().sum() for value in module.state_dict().values()]).sum()
    checksums = fabric.all_gather(checksum).flatten().tolist()
    if len(set(checksums)) > 1:
        raise RuntimeError(f"the processes' weights drifted apart: checksums {checksums}")
    return checksums[0]


def fastest_layout(fabric: Fabric) -> torch.memory_format:
    """Return how the weights of a network that is trained should lie in memory.

    Channels last suits the matrix units of GPUs and of processors with native bfloat16. On others
    the backward pass is slower with it: by 40 % at 1024 pixels with AVX2.
    """
    suits = fabric.device.type != "cpu" or _computes_bfloat16()
    return torch.channels_last if suits else torch.contiguous_format


def _best_precision(accelerator: str) -> str:
    if accelerator in ("auto", "cuda", "gpu") and torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16-mixed" if native else "16-mixed"
    native = accelerator in ("auto", "cpu") and _computes_bfloat16()
    return "bf16-mixed" if native else "32-true"


def _computes_bfloat16() -> bool:
    """Say whether the processor has instructions for it; it is many times slower without."""
    return any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))
