"""What may stand in a network's place where one is run: the network itself, or what runs it, as `graph` returns it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Runner(Protocol):
    """Runs a network without being a module."""

    @property
    def model(self) -> nn.Module:
        """The network."""

    def __call__(self, x: Tensor, /) -> Tensor: ...


def network_of(model: nn.Module | Runner) -> nn.Module:
    """The network that calls of `model` run: itself, where it is one."""
    return model if isinstance(model, nn.Module) else model.model
