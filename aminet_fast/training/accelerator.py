"""The device and the processes of a run: Accelerate, set up for one run and taken down after it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

# The others wait while the first process decodes a whole set of faces; NCCL's default would end them after ten minutes.
PATIENCE = timedelta(hours=2)


@contextmanager
def accelerated(device: str, precision: str, accumulate: int) -> Iterator[Accelerator]:
    """An Accelerator for as long as a run lasts; torch's switch of deterministic algorithms is then as it was.

    Args:
        device: "auto", "cpu" or "cuda"; ValueError for "cuda" where PyTorch sees no GPU.
        precision: "fp32", "bf16" or "fp16".
        accumulate: Batches whose gradients are summed into one step.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device is 'cuda' and PyTorch sees no GPU; use --device cpu, or install a CUDA build of PyTorch"
        )
    deterministic = torch.are_deterministic_algorithms_enabled()
    cpu = device == "cpu" or not torch.cuda.is_available()
    join("gloo" if cpu else "nccl")
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision="no" if precision == "fp32" else precision,
        gradient_accumulation_steps=accumulate,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    if precision == "fp16" and accelerator.device.type == "cpu":
        # Accelerate has both for accelerators alone: without them it would train in float32 and not say so.
        accelerator.native_amp = True
        accelerator.scaler = torch.amp.GradScaler("cpu")
    try:
        yield accelerator
    finally:
        torch.use_deterministic_algorithms(deterministic)
        accelerator.end_training()
        # Accelerate keeps one state a process and refuses another run in it at another precision.
        AcceleratorState._reset_state(reset_partial_state=True)


def restarts() -> int:
    """How often torchrun has started this process anew; 0 without torchrun."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def join(backend: str) -> None:
    """Form the process group of a restart; does nothing at the first start.

    torchrun's store outlives the processes, and under the same keys it still has the addresses of those that died:
    the new ones would wait for them. So each start gets keys of its own. With several nodes every one counts its
    restarts for itself, and the keys would differ: there torch has to do it
    (TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 gives each start a new store).
    """
    if not restarts() or os.environ["GROUP_WORLD_SIZE"] != "1":
        return
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = torch.distributed.TCPStore(address, port, world, is_master=not hosted and rank == 0)
    named = torch.distributed.PrefixStore(f"start-{restarts()}", store)
    torch.distributed.init_process_group(backend, store=named, rank=rank, world_size=world, timeout=PATIENCE)
