"""The device and the processes of a run: Accelerate, set up for one run and taken down after it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin, InitProcessGroupKwargs

from .environment import USE_CPU, is_on, refuse_engines, without_accelerates_own

# The others wait while the first process decodes a whole set of faces; NCCL's default would end them after ten minutes.
PATIENCE = timedelta(hours=2)


# Accelerate has one state a process.
_taken = threading.Lock()


@contextmanager
def accelerated(device: str, precision: str, accumulate: int) -> Iterator[Accelerator]:
    """An Accelerator for as long as a run lasts; torch's switch of deterministic algorithms is then as it was.

    It is what these arguments say, whatever Accelerate finds in the environment; but "auto" is the CPU under
    `accelerate launch --cpu`.

    Args:
        device: "auto", "cpu" or "cuda".
        precision: "fp32", "bf16" or "fp16".
        accumulate: Batches whose gradients are summed into one step.

    Raises ValueError for "cuda" where PyTorch sees no GPU, where the environment asks for another engine or the caller
    has an Accelerator in this process, and while another thread is in here.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device is 'cuda' and PyTorch sees no GPU; use --device cpu, or install a CUDA build of PyTorch"
        )
    refuse_engines()
    cpu = device == "cpu" or not torch.cuda.is_available() or (device == "auto" and is_on(USE_CPU))
    if not _taken.acquire(blocking=False):
        raise ValueError(
            "another thread trains or profiles in this process; wait for its end, or use a process of its own"
        )
    try:
        if AcceleratorState._shared_state:
            raise ValueError(
                "this process has an Accelerator already, whose settings a run would take over and whose state it would"
                " end; train in a process of its own"
            )
        with _own_state(), without_accelerates_own():
            accelerator = _accelerator(cpu, precision, accumulate)
            try:
                yield accelerator
            finally:
                accelerator.end_training()
    finally:
        _taken.release()


@contextmanager
def _own_state() -> Iterator[None]:
    """What is set for the process inside, Accelerate's and torch's, is as it was afterwards."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        # Or it would refuse another run at another precision.
        AcceleratorState._reset_state(reset_partial_state=True)


def _accelerator(cpu: bool, precision: str, accumulate: int) -> Accelerator:
    join("gloo" if cpu else "nccl")
    accelerator = Accelerator(
        cpu=cpu,
        mixed_precision="no" if precision == "fp32" else precision,
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=accumulate),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    wanted = "cpu" if cpu else "cuda"
    if accelerator.device.type != wanted:  # torch_xla's, which it prefers, or chosen in this process before
        raise ValueError(
            f"Accelerate trains on {accelerator.device.type} in this process, and the run's options say {wanted};"
            " train in a process of its own, with USE_TORCH_XLA=0 where torch_xla is installed"
        )
    if precision == "fp16" and cpu:
        # Accelerate has both for accelerators alone: without them it would train in float32 and not say so.
        accelerator.native_amp = True
        accelerator.scaler = torch.amp.GradScaler("cpu")
    return accelerator


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
