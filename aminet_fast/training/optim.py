"""Initial weights, loss, optimiser and learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .config import TrainConfig

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": nn.functional.l1_loss,
    "l2": nn.functional.mse_loss,
}


def init_normal(model: nn.Module, std: float = 0.02) -> None:
    """The SPARNet line's start: convolutions N(0, std), BatchNorm N(1, std), biases zero."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(module.weight, 0.0, std)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, std)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def build_optimizer(model: nn.Module, config: TrainConfig, lr: float | None = None) -> torch.optim.Adam:
    """Adam as ``config`` says, at its learning rate or another."""
    # One fused kernel for some hundreds of small tensors; it needs no copy of the gradients as foreach does.
    return torch.optim.Adam(model.parameters(), lr=_peak(config, lr), betas=config.betas, fused=True)


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any], config: TrainConfig) -> None:
    """Load Adam's state dict into the optimizer that ``config`` built: moments from there, betas and layout from here.

    The fused kernel walks parameters and moments as they lie in memory, and `load_state_dict` leaves the moments as
    they lay in the run that saved them.
    """
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group["betas"] = config.betas
    for parameter, kept in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            kept[name] = torch.empty_like(parameter, requires_grad=False).copy_(kept[name])


def plain_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Its state dict without the marks of a CUDA graph of the step, so that any run can go on from it."""
    state = optimizer.state_dict()
    groups = [{**group, "lr": float(group["lr"]), "capturable": False} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


def _peak(config: TrainConfig, lr: float | None) -> float:
    rate = config.lr if lr is None else lr
    assert rate is not None  # TrainConfig fills its own in
    return rate


def learning_rate(config: TrainConfig, step: int, total: int, lr: float | None = None) -> float:
    """Learning rate of optimiser step ``step`` (the first is 0) of ``total``, from ``lr`` instead of the config's.

    A pure function of the step: there is no scheduler whose state a resumption could lose.
    """
    rate = _peak(config, lr)
    if step < config.warmup_steps:
        return rate * (step + 1) / config.warmup_steps
    if config.schedule == "cosine":
        share = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
        rate *= 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    return rate
