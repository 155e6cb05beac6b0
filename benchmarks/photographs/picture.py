"""The picture at the top of the README: a part of the sample scene, enlarged and restored."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from aminet_fast.data import sample_scene, to_tensor
from aminet_fast.metrics.panel import save_panel
from aminet_fast.network.freezing import freeze
from aminet_fast.restoration import restore_photograph

_SCALE = 6
_PART = (44, 56, 118, 138)  # of the scene: left, top, right, bottom


def save(path: Path, model: nn.Module, detector: str = "auto") -> None:
    """Writes it to `path`, .png or .jpg."""
    done = restore_photograph(freeze(model), sample_scene().photograph, detector=detector, scale=_SCALE)
    left, top, right, bottom = (_SCALE * value for value in _PART)
    parts = [picture.crop((left, top, right, bottom)) for picture in (done.before, done.image)]
    enlarged, restored = (to_tensor(part)[None] for part in parts)
    save_panel(path, {"enlarged (Lanczos)": enlarged, "aminet restore": restored})
