"""torch.compile of plain PyTorch's training step: what ours has to beat, in the seconds that it may take."""

from __future__ import annotations

import time
from dataclasses import replace

import torch
import torch.nn.functional as F

from .. import memory
from . import run as sizes
from .clock import taking_turns
from .network import EAGER, HALF, adam, autocast, images, network
from .run import Run

# A dry run traces the network and compiles nothing, of a network with few modules.
SMALL = {"sa": False, "skaf": "none", "attention_unit": "none", "rdfe_kernels": (3,), "dw_twice": False, "frm_convs": 1}


def compiled_step(run: Run) -> None:
    contender, start = EAGER[1], time.time()
    model = _small(run) if run.tiny else network(run, contender)
    forward = torch.compile(model, dynamic=False, backend="eager" if run.tiny else "inductor")
    x, target = (images(run, run.sizes.batch, contender.layout, seed) for seed in (1, 2))
    optimizer = adam(model)

    def step() -> None:
        optimizer.zero_grad()
        with autocast(run, HALF):
            loss = F.l1_loss(forward(x), target)
        loss.backward()
        optimizer.step()

    step()
    step()
    if run.cuda:
        torch.cuda.synchronize()
    took = time.time() - start
    peak = memory.on_cuda(model, step) if run.cuda else {}
    (found,) = taking_turns(run, {"compiled": step}).values()
    about = {"batch": run.sizes.batch, "dtype": "bfloat16", "what": "training step"}
    run.write("step", contender="eager-compiled", mode="plain", **about, **found, **peak, compiling_s=took)
    torch.compiler.reset()


def _small(run: Run) -> torch.nn.Module:
    from aminet_fast import reference

    config = replace(sizes.TINY.config(), **SMALL)
    return reference.AMINet(config).to(run.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
