"""What a CUDA graph must find as it was captured, and what it must leave as it was before the capture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..network.packed import Packed

KEPT = ("packed", "affine_kept")  # what `freeze` puts on modules beside their parameters and buffers


class Addresses:
    """Where the tensors of modules lie: a graph goes on using those places, whatever the modules hold later."""

    def __init__(self, *modules: nn.Module) -> None:
        self._registered: list[tuple[str, dict[str, Any], str, int]] = []
        self._kept: list[tuple[str, dict[str, Any], str, Packed]] = []
        # Keeps memory that the modules let go of from being given to somebody else.
        self._held: list[Tensor] = []
        for path, module in (named for root in modules for named in root.named_modules()):
            for holder in (module._parameters, module._buffers):
                for key, tensor in holder.items():
                    if tensor is not None:
                        self._registered.append((f"{path}.{key}", holder, key, tensor.data_ptr()))
                        self._held.append(tensor.detach())
            for key in KEPT:
                if (kept := module.__dict__.get(key)) is not None:
                    self._kept.append((f"{path}.{key}", module.__dict__, key, kept))

    def check(self, who: str) -> None:
        """RuntimeError when a tensor is another one now, as after `.to()`, `freeze`, `load_state_dict(assign=True)`."""
        for name, holder, key, address in self._registered:
            if (tensor := holder.get(key)) is None or tensor.data_ptr() != address:
                self._refuse(who, name)
        for name, holder, key, value in self._kept:
            if holder.get(key) is not value or not value.unchanged():
                self._refuse(who, name)

    @staticmethod
    def _refuse(who: str, name: str) -> None:
        raise RuntimeError(
            f"{who}: {name.lstrip('.')} of the model is another tensor than the one that was captured (values may "
            f"change in place, as load_state_dict does; .to() and freeze make new tensors): call {who} again"
        )


class Snapshot:
    """Values of tensors, of an Adam's state and of a scaler, to go back to where they lie."""

    def __init__(
        self, tensors: Iterable[Tensor], optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None = None
    ) -> None:
        self._optimizer, self._scaler = optimizer, scaler
        self._values = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self._state = {
            parameter: {key: value.detach().clone() for key, value in state.items()}
            for parameter, state in optimizer.state.items()
            if state
        }
        self._scale = None if scaler is None else scaler.state_dict()

    @torch.no_grad()
    def restore(self) -> None:
        for tensor, value in self._values:
            tensor.copy_(value)
        for parameter, state in self._optimizer.state.items():
            for key, value in state.items():
                # What is new since then began as zeros: all that Adam keeps does, its count of steps too.
                value.copy_(self._state[parameter][key]) if parameter in self._state else value.zero_()
        if self._scaler is not None and self._scale:  # a scaler that is switched off has no state
            self._scaler.load_state_dict(self._scale)


def make_capturable(optimizer: torch.optim.Optimizer, device: torch.device) -> list[Tensor]:
    """Lets Adam take its learning rates and counts of steps from the device; the groups' rates, each a tensor there."""
    for group in optimizer.param_groups:
        group["capturable"] = True
        group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=device)
        for parameter in group["params"]:
            if state := optimizer.state.get(parameter):
                state["step"] = state["step"].to(device, torch.float32)
    return [group["lr"] for group in optimizer.param_groups]


def settings_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """All of each group's but the learning rate, and how many parameters it has."""
    return [
        {"params": len(group["params"]), **{key: group[key] for key in optimizer.defaults if key != "lr"}}
        for group in optimizer.param_groups
    ]
