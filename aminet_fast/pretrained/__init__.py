"""The weights that come with the package, how they were made small, and how a folder of weights is written."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ..reference import AMINet as Network

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
METADATA = "aminet_fast"  # under this name a weights file holds what its config.json says
_HERE = Path(__file__).parent


def list_pretrained() -> list[str]:
    """Names that `AMINet.from_pretrained` and `load_model` take without a download; each has a model card beside it."""
    return sorted(folder.name for folder in _HERE.iterdir() if (folder / WEIGHTS).is_file())


def shipped(name: str | os.PathLike[str]) -> Path | None:
    """The folder of shipped weights of that name, or None. A folder of yours with such a name is ``./default``."""
    return _HERE / name if isinstance(name, str) and name in list_pretrained() else None


def notice(name: str) -> str:
    """One line to go with pictures made with these weights: what they may be used for, and where that is written."""
    return f"for non-commercial research and not for identifying people: see {_HERE / name / CARD}"


def save_half(model: Network, folder: str | os.PathLike[str]) -> Path:
    """Write an AMINet as `save_pretrained` does, in half the bytes: convolutions in float16, everything else as it is.

    What `AMINet.from_pretrained` makes of it is float32 again. Normalisations and their statistics keep float32: they
    are a hundredth of the bytes, and a variance may lie outside float16's range.

    Returns:
        The weights file.

    Raises:
        ValueError: a weight is not finite, or too large for float16.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    convolutions = {name for name, module in model.named_modules() if isinstance(module, kinds)}
    state = {
        key: _half(key, value, key.rpartition(".")[0] in convolutions) for key, value in model.state_dict().items()
    }
    return write_weights(model, state, folder)


def _half(key: str, value: Tensor, narrow: bool) -> Tensor:
    kept = value.detach().cpu().to(torch.float16 if narrow else value.dtype).contiguous()
    if kept.is_floating_point() and not bool(kept.isfinite().all()):
        raise ValueError(f"{key} is not finite{' in float16' if narrow else ''}; these weights cannot be saved so")
    return kept


def write_weights(model: Network, state: dict[str, Tensor], folder: Path) -> Path:
    """Write config.json and the weights file, which says the same of itself: a file alone has to be enough.

    Args:
        model: Whose configuration it is and, where it has ``expects``, what its weights expect.
        state: Its tensors, contiguous.
        folder: Where to; it exists.

    Raises:
        OSError: the file system refuses.
    """
    expects = getattr(model, "expects", None)
    values = {**model.config.to_dict(), **({} if expects is None else {"expects": expects.to_dict()})}
    (folder / WEIGHTS).write_bytes(with_description(save(state, metadata={"format": "pt"}), values))
    (folder / CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return folder / WEIGHTS


def with_description(file: bytes, values: dict[str, Any]) -> bytes:
    """A safetensors file with `values` in its header, tensors as they are.

    Written here, because safetensors puts two entries of its metadata in an order that changes from process to process,
    and equal weights are to be equal files.
    """
    (length,) = struct.unpack("<Q", file[:8])
    header = json.loads(file[8 : 8 + length])
    header["__metadata__"] = {**header.get("__metadata__", {}), METADATA: json.dumps(values)}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors are to be aligned
    return struct.pack("<Q", len(text)) + text + file[8 + length :]
