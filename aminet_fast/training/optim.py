"""How the weights move: Adam, its learning rate, float16's loss scale, and the average over the steps."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..network.model import AMINet

LEAST = 1.0  # a loss scale below it would push gradients under float16's range instead of lifting them into it


def build_optimizer(model: nn.Module, lr: float, betas: tuple[float, float]) -> torch.optim.Adam:
    """Adam over all parameters."""
    # One fused kernel for some hundreds of small tensors; it needs no copy of the gradients as foreach does.
    return torch.optim.Adam(model.parameters(), lr=lr, betas=betas, fused=True)


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any], betas: tuple[float, float]) -> None:
    """Load Adam's state dict into a new optimizer: moments from there, betas and layout from here.

    The fused kernel walks parameters and moments as they lie in memory, and `load_state_dict` leaves the moments as
    they lay in the run that saved them.
    """
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group["betas"] = betas
    for parameter, kept in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            kept[name] = torch.empty_like(parameter, requires_grad=False).copy_(kept[name])


def plain_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Its state dict without the marks of a CUDA graph of the step, so that any run can go on from it."""
    state = optimizer.state_dict()
    groups = [{**group, "lr": float(group["lr"]), "capturable": False} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


def learning_rate(step: int, total: int, *, lr: float, schedule: str = "constant", warmup_steps: int = 0) -> float:
    """Learning rate of optimiser step ``step`` (the first is 0) of ``total``; ``lr`` is the highest.

    A pure function of the step: there is no scheduler whose state a resumption could lose.
    """
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    if schedule == "cosine":
        share = (step - warmup_steps) / max(1, total - warmup_steps)
        lr *= 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    return lr


class LossScale:
    """float16's loss scale over a run: which steps the scaler skipped, and when that is divergence after all.

    Watches the scaler of ``accelerator``; where there is none (fp32, bf16) everything here does nothing.

    A fused Adam learns on the device whether it is to skip, so that nothing but a smaller scale tells of it, and that
    is read one step later, with the next loss: reading it at once would have the CPU wait for the whole step.

    Args:
        net: The network in training. A loss that overflowed has gone into its BatchNorm statistics as well.
    """

    def __init__(self, accelerator: Accelerator, net: nn.Module) -> None:
        self.scaler: torch.amp.GradScaler | None = accelerator.scaler
        self._one = torch.ones((), device=accelerator.device)
        self._statistics = list(net.buffers()) if self.scaler is not None else []
        self._kept = [b.clone() for b in self._statistics]
        self._seen = self.now()

    def now(self) -> float:
        """The scale after all steps so far, 1 without a scaler; waits for the device."""
        return 1.0 if self.scaler is None else self.scaler.get_scale()

    @torch.no_grad()
    def begin(self) -> Tensor:
        """Before a step: keep the statistics. Returns the scale [] float32, without waiting for it."""
        if self.scaler is None:
            return self._one
        if self._kept:
            torch._foreach_copy_(self._kept, self._statistics)
        return self.scaler.scale(self._one)

    def fell_to(self, scale: float) -> float | None:
        """``scale`` when it is below the one seen last, which says that a step was skipped; else None."""
        fell, self._seen = scale < self._seen, scale
        return scale if fell else None

    @torch.no_grad()
    def forgives(self) -> bool:
        """Whether the step whose loss was not finite was skipped without trace: its statistics are put back.

        Not when the scale stayed, for then the weights have moved; nor when it has fallen below `LEAST`: that takes 17
        such steps from the first scale of 65536, and what is not finite by then is no overflow of the scaled gradients.
        """
        before, after = self._seen, self.now()
        if self.scaler is None or not LEAST <= after < before:
            return False
        if self._kept:
            torch._foreach_copy_(self._statistics, self._kept)
        return True

    def state(self) -> dict[str, Any] | None:
        return None if self.scaler is None else self.scaler.state_dict()

    def restore(self, state: dict[str, Any] | None) -> None:
        """Take what `state` returned; None, from a run in another precision, leaves the scale as new."""
        if self.scaler is not None and state is not None:
            self.scaler.load_state_dict(state)
        self._seen = self.now()


class Shadow:
    """A second network beside the trained one, in eval mode and without gradients.

    With a decay it holds the average of the weights over the steps; without one it is brought up to date
    whenever it is asked for. It is never compiled, wrapped by DDP or patched for autocast, so what is
    validated is what a user loads.

    Args:
        model: The network in training, before Accelerate wraps it.
        decay: d in ``average = d * average + (1 - d) * weight``, or None. Over the first steps d is
            min(decay, (1 + step) / (10 + step)), lest the initial weights weigh on a short run.
    """

    def __init__(self, model: AMINet, decay: float | None) -> None:
        self.source, self.decay = model, decay
        self.average: AMINet = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the weights of optimiser step ``step`` (the first is 1) into the average."""
        if self.decay is None:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        average, source = list(self.average.parameters()), list(self.source.parameters())
        get_ema_multi_avg_fn(decay)(average, source, 0)
        self._copy_buffers()

    @torch.no_grad()
    def model(self) -> AMINet:
        """The network to validate and to save."""
        if self.decay is None:
            for mine, theirs in zip(self.average.parameters(), self.source.parameters(), strict=True):
                mine.copy_(theirs)
            self._copy_buffers()
        return self.average

    def _copy_buffers(self) -> None:
        # BatchNorm's statistics are running averages already, and its counter is no number to average.
        for mine, theirs in zip(self.average.buffers(), self.source.buffers(), strict=True):
            mine.copy_(theirs)
