"""Where the networks behind LPIPS and FID find their weights: on this disk, never on the net."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True)
class Backbone:
    """A published file of weights: names it goes by (each ends in the start of its SHA-256), and where it is from."""

    metric: str
    names: tuple[str, ...]
    url: str
    option: str


ALEXNET = Backbone(
    "LPIPS",
    ("alexnet-owt-7be5be79.pth",),
    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "lpips_weights",
)
INCEPTION = Backbone(
    "FID",
    ("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"),
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    "inception_weights",
)


def find_weights(backbone: Backbone, given: str | Path | None) -> Path:
    """The given file, else the published one in torch.hub's cache.

    Raises:
        FileNotFoundError: neither is there; the message names the file, its address and the option.
    """
    if given is not None:
        if Path(given).is_file():
            return Path(given)
        raise FileNotFoundError(f"there is no file {given} (--{backbone.option}); {_how(backbone)}")
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    for name in backbone.names:
        if (cache / name).is_file():
            return cache / name
    raise FileNotFoundError(
        f"{backbone.metric} needs the file {backbone.names[0]}, which is not in {cache} and is not downloaded "
        f"unasked; {_how(backbone)}"
    )


def read_weights(path: Path, backbone: Backbone) -> dict[str, Tensor]:
    """Reads a file of weights, tensors and nothing else.

    Raises:
        ValueError: the file is something else.
        OSError: it cannot be read.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise wrong_weights(path, backbone, "it is no file of tensors") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise wrong_weights(path, backbone, "it holds no dictionary of tensors")
    return state


def wrong_weights(path: Path, backbone: Backbone, reason: str) -> ValueError:
    """The error for a file that is not the backbone's."""
    return ValueError(f"{path} does not hold the weights of {backbone.names[0]} ({reason}); {_how(backbone)}")


def describe(path: Path, backbone: Backbone) -> dict[str, str | bool]:
    """Name and SHA-256 of the file that was used, and whether it is the published one: scores depend on it."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    published = {Path(name).stem.rsplit("-", 1)[1] for name in backbone.names}
    return {"file": path.name, "sha256": digest, "published": digest[:8] in published}


def _how(backbone: Backbone) -> str:
    return f"fetch {backbone.url} and pass --{backbone.option} FILE"
