"""float16's loss scale over a run: which steps the scaler skipped, and when that is divergence after all."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

LEAST = 1.0  # below it, scaling would push gradients under float16's range instead of lifting them into it


def scale_on_cpu(accelerator: Accelerator) -> None:
    """Give float16 on the CPU the autocast and the scaler that Accelerate has for accelerators alone.

    Without them it would train in float32 and not say so.
    """
    accelerator.native_amp = True
    accelerator.scaler = torch.amp.GradScaler("cpu")


class LossScale:
    """Watches the scaler of ``accelerator``; where there is none (fp32, bf16) everything here does nothing.

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
