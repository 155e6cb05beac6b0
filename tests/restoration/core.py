"""What stands in for the core of ``aminet restore``, and folders of photographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from torch import nn

from aminet_fast.restoration import FaceNetwork, RestoreConfig, photographs, restore_files
from aminet_fast.restoration.faces import Face
from aminet_fast.restoration.photograph import RestoredFace
from tests.restoration.inputs import noise

POINTS = ((6.0, 8.0), (14.0, 8.004), (10.0, 12.0), (7.0, 16.0), (13.0, 16.0))
FACE = Face((2.123456, 3.0, 18.0, 21.0), 0.912345, POINTS, 1.239)


def restored(number: int, seed: int = 0) -> RestoredFace:
    lr = noise(16, 16, seed=seed)
    bicubic = lr.resize((128, 128), Image.Resampling.BICUBIC)
    return RestoredFace(number, FACE, "restored", None, 1.25, lr, bicubic, noise(128, 128, seed=seed))


def left_out(number: int, reason: str) -> RestoredFace:
    return RestoredFace(number, FACE, "left out", reason, None, None, None, None)


class Core:
    """Stands in for the network and for what finds, restores and pastes: enlarges, and has the faces it is told."""

    def __init__(self) -> None:
        self.faces: list[RestoredFace] = [restored(1)]
        self.images: list[list[Image.Image]] = []  # of each call
        self.options: dict[str, Any] = {}
        self.before: Callable[[Sequence[Image.Image]], None] = lambda images: None

    def restore_photographs(
        self, model: FaceNetwork, images: Sequence[Image.Image], *, detector: object, scale: int, **options: Any
    ) -> list[Any]:
        self.images.append(list(images))
        of_network = {"batch_size": model.batch_size, "autocast": model.autocast, "ensemble": model.ensemble}
        self.options = {"detector": detector, "scale": scale, **of_network, **options}
        self.before(images)
        size = [(image.width * scale, image.height * scale) for image in images]
        enlarged = [i.resize(s, Image.Resampling.NEAREST) for i, s in zip(images, size, strict=True)]
        return [SimpleNamespace(image=image, faces=self.faces) for image in enlarged]


def stand_in(monkeypatch: pytest.MonkeyPatch) -> Core:
    """Until the test ends: no detector and no network are needed."""
    core = Core()
    monkeypatch.setattr(photographs, "restore_photographs", core.restore_photographs)
    monkeypatch.setattr(photographs, "load_network", lambda *args: nn.Identity())
    monkeypatch.setattr(photographs, "open_detector", lambda name: lambda image: [FACE])
    return core


def album(folder: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise(24, 20, seed=i).save(folder / name)
    return folder


def run(tmp_path: Path, *inputs: Path, **settings: Any) -> int:
    return restore_files(RestoreConfig([str(path) for path in inputs], out=str(tmp_path / "out"), **settings))


def names_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
