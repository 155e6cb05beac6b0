"""Validation while training: PSNR and SSIM against bicubic, and a panel of always the same faces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from ..data import FaceDataset
from ..metrics import mean_psnr, psnr, ssim
from ..metrics.panel import save_panel
from . import rng
from .batches import Batch, to_device


@dataclass(frozen=True)
class Scores:
    """Means over the validation faces, protocol "fsr"."""

    psnr: float
    ssim: float
    bicubic_psnr: float
    bicubic_ssim: float


class Validator:
    """Scores a network on the validation faces, dealt out over the processes.

    Args:
        faces: The validation set; raises ValueError when it has no HR pictures.
        accelerator: The run's.
        batch_size: Faces that are scored at once, on each process.
        channels_last: Whether pictures are in channels_last order.
        panel_faces: Faces on a panel.
    """

    def __init__(
        self, faces: FaceDataset, accelerator: Accelerator, *, batch_size: int, channels_last: bool, panel_faces: int
    ) -> None:
        if not faces.has_hr:
            raise ValueError("the validation faces have no HR pictures; give others with --val.root, or --val_every 0")
        self.faces, self.accelerator = faces, accelerator
        self.batch_size, self.channels_last, self.panel_faces = batch_size, channels_last, panel_faces
        self._bicubic: Tensor | None = None  # [n, 2] of this process's share; it never changes

    def score(self, model: nn.Module, interrupted: Callable[[], bool] = lambda: False) -> Scores | None:
        """Scores of the first process's network, which is the one that is saved; every process gets the same means.

        None when ``interrupted`` came true between two batches.
        """
        if self.accelerator.num_processes > 1:
            for statistic in model.buffers():  # each process's BatchNorm has seen its own last batch
                torch.distributed.broadcast(statistic, src=0)
        with rng.preserved(), torch.inference_mode():
            ours, bicubic = [], []
            for batch in self._batches():
                if interrupted():
                    return None
                hr, given = self._put(batch["hr"]), self._put(batch["input"])
                ours.append(_pair(model(given), hr))
                if self._bicubic is None:
                    bicubic.append(_pair(given, hr))
            if self._bicubic is None:
                self._bicubic = torch.cat(bicubic) if bicubic else torch.empty(0, 2)
            mine = torch.cat([torch.cat(ours) if ours else torch.empty(0, 2), self._bicubic], dim=1)  # [n, 4]
        everyone = torch.tensor([face for part in gather_object([mine.tolist()]) for face in part], dtype=torch.float64)
        ours_psnr, ours_ssim, bicubic_psnr, bicubic_ssim = everyone.unbind(1)
        return Scores(
            mean_psnr(ours_psnr.tolist()),
            ours_ssim.mean().item(),
            mean_psnr(bicubic_psnr.tolist()),
            bicubic_ssim.mean().item(),
        )

    def panel(self, model: nn.Module, path: Path) -> None:
        """LR, bicubic, ours and HR of the first faces, side by side."""
        count = min(self.panel_faces, len(self.faces))
        with rng.preserved(), torch.inference_mode():
            batch = next(iter(self._loader(range(count), count)))
            ours = model(self._put(batch["input"])).cpu()
        columns = {"LR": batch["lr"], "bicubic": batch["input"], "ours": ours, "HR": batch["hr"]}
        save_panel(path, columns, names=batch["name"])

    def _batches(self) -> Iterator[Batch]:
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        yield from self._loader(range(rank, len(self.faces), world), self.batch_size)

    def _loader(self, indices: range, batch_size: int) -> DataLoader[Batch]:
        return DataLoader(Subset(self.faces, indices), batch_size=batch_size)

    def _put(self, pictures: Tensor) -> Tensor:
        return to_device(pictures, self.accelerator.device, self.channels_last)


def _pair(pictures: Tensor, hr: Tensor) -> Tensor:
    """PSNR and SSIM of each picture, float64 [N, 2]."""
    return torch.stack([psnr(pictures, hr), ssim(pictures, hr)], dim=1).double().cpu()
