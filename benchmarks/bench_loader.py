"""What a face costs on its way to the network, on one core: decode (once a set), and what follows it, by stages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import default_collate

from aminet_fast.data import DataConfig, FaceDataset
from aminet_fast.data.augment import augment
from aminet_fast.data.cache import FaceStore, Meta
from aminet_fast.data.decode import decode
from aminet_fast.data.degradation import degrade
from aminet_fast.data.drawn import draw_face
from aminet_fast.data.images import to_tensor
from aminet_fast.data.listing import Item

from .cases import Group
from .contenders import Contender
from .timing import Plan, interleave, on_host

FACES = 32
STAGES = ("decode", "crop+resize", "degrade", "tensors", "face", "batch")


def works(folder: Path, size: int) -> dict[str, Callable[[], Any]]:
    """Each stage on the same FACES faces."""
    drawn = [draw_face(seed, size) for seed in range(FACES)]
    items = []
    for number, face in enumerate(drawn):
        path = folder / f"{number}.jpg"
        face.resize((178, 218), Image.Resampling.BICUBIC).save(path, quality=90)  # CelebA's size
        items.append(Item(path.name, hr=path))
    config = DataConfig(size=size)
    meta = Meta(names=[item.name for item in items], parts={"hr": [size, size, 3]})
    faces = FaceDataset(FaceStore(meta, None, {"hr": np.stack([np.asarray(face) for face in drawn])}), augment="full")
    read = [faces[i, i] for i in range(FACES)]
    return {
        "decode": lambda: [decode(item, config) for item in items],
        "crop+resize": lambda: [augment(face, seed) for seed, face in enumerate(drawn)],
        "degrade": lambda: [degrade(face) for face in drawn],
        "tensors": lambda: [(to_tensor(face), to_tensor(face)) for face in drawn],
        "face": lambda: [faces[i, i] for i in range(FACES)],
        "batch": lambda: default_collate(read),
    }


@pytest.mark.parametrize("stage", STAGES)
def bench_loader(write: Callable[..., None], tmp_path: Path, tiny: bool, stage: str) -> None:
    """A row a stage, each over FACES faces; "face" is all from the cache's pixels to tensors, "batch" the collation."""
    size = 32 if tiny else 128
    samples = interleave({stage: on_host(works(tmp_path, size)[stage])}, Plan(20, 3))[stage]
    write(Group("loader", stage, "uint8", 3, size, FACES), Contender("ours", "flat"), samples, {})
