"""The network as the restoration of faces calls it: LR levels in, levels out, in batches, by CUDA graphs if any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..data import to_tensor
from ..data.degradation import enlarge
from ..graphs import graph
from ..graphs.inference import GraphedModel
from ..network.expects import Expects, check_served, expects_of
from ..network.inference import Ensemble, check_ensemble, device_of, evaluating, restore

_CAPTURE_AFTER = 64  # batches of one size: capturing a graph takes as long as some hundred calls of the network


class FaceNetwork:
    """A network that restores batches of LR pictures.

    Args:
        model: as `upscale_images` takes it; frozen by `freeze`, it is faster.
        batch_size: pictures of 16x16 at a time; of larger ones fewer go together.
        autocast: run it in bfloat16 autocast.
        ensemble: "flip" averages what it makes of a picture and of its mirror image.
        graphs: on CUDA devices capture a size that is called often, by `graph`.

    Raises ValueError: batch_size is below 1, the weights expect pictures that are not made here, or they enlarge by
    another number than 2, 4, 8 or 16.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        batch_size: int = 8,
        autocast: bool = False,
        ensemble: Ensemble = "none",
        graphs: bool = True,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, wanted at least 1")
        check_ensemble(ensemble)
        self.expects: Expects = expects_of(model)
        check_served(self.expects)
        if self.expects.scale not in (2, 4, 8, 16):
            raise ValueError(f"these weights enlarge {self.expects.scale} times, wanted 2, 4, 8 or 16")
        self.model, self.batch_size, self.autocast, self.ensemble = model, batch_size, autocast, ensemble
        self._graphs = graphs and device_of(model).type == "cuda"
        self._calls: Counter[int] = Counter()
        self._captured: dict[int, GraphedModel] = {}

    def __call__(self, pictures: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Restores LR pictures [h, w, 3] of levels 0 to 255, all of one size.

        Returns float32 [h * scale, w * scale, 3] for each, not clamped. Raises ValueError when the network returns NaN.
        """
        results: list[np.ndarray] = []
        lr_pixels = (128 // self.expects.scale) ** 2
        height, width = pictures[0].shape[:2] if pictures else (1, 1)
        together = max(1, min(self.batch_size, self.batch_size * lr_pixels // (height * width)))
        with evaluating(self.model):
            for first in range(0, len(pictures), together):
                inputs = [self._input(picture) for picture in pictures[first : first + together]]
                y = self._run(torch.stack(inputs), together)
                if not bool(torch.isfinite(y).all()):
                    raise ValueError("the network returned NaN or infinite values; its weights are broken")
                results += list(((y + 1.0) * 127.5).permute(0, 2, 3, 1).numpy())
        return results

    def _input(self, levels: np.ndarray) -> Tensor:
        """float32 [3, H, W] in [-1, 1], enlarged as in training."""
        picture = Image.fromarray(np.rint(levels).clip(0, 255).astype(np.uint8))
        return to_tensor(enlarge(picture, self.expects.scale))

    def _run(self, x: Tensor, together: int) -> Tensor:
        """float32 [N, 3, H, W] on the CPU."""
        return restore(self._runner(x, together), x, autocast=self.autocast, ensemble=self.ensemble)

    def _runner(self, x: Tensor, together: int) -> nn.Module | GraphedModel:
        """The network, or its graph for pictures of this size once there have been many."""
        side = x.shape[-1]
        self._calls[side] += 1
        if not self._graphs or self._calls[side] < _CAPTURE_AFTER or x.shape[-1] % 16 or x.shape[-2] % 16:
            return self.model
        if side not in self._captured:
            device = device_of(self.model)
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.autocast):
                self._captured[side] = graph(self.model, torch.empty((together, *x.shape[1:]), device=device))
        return self._captured[side]
