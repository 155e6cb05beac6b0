"""Running a trained network: where, on which sizes, and without leaving a trace on it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from .expects import check_served, expects_of
from .freezing import freeze
from .model import AMINet, load_model, pad_to_multiple


def choose_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" is CUDA where there is one, else the CPU.

    Raises:
        ValueError: torch knows no such device, or this machine has none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason}); use auto or cpu") from error
    return device


def load_network(weights: str, device: torch.device, backend: str | None = None) -> AMINet:
    """The network from `weights` (as `load_model` takes them), frozen, in eval mode on `device`.

    Raises:
        ValueError: `weights` holds something else, or expects pictures that `restore` does not give.
        FileNotFoundError: nothing is there.
    """
    try:
        model = load_model(weights, device=device, backend=backend)
    except RuntimeError as error:
        if "memory" in str(error).lower():
            raise ValueError(
                f"no memory on {device} for the network of {weights}; free some, or use --device cpu"
            ) from error
        # keys or shapes that do not fit: a line for each, of which the first tell enough
        first = " ".join(line.strip() for line in str(error).splitlines()[:3])
        raise ValueError(f"{weights}: {first} ...; config.json has to be the one that was saved with them") from error
    check_served(expects_of(model))
    return freeze(model)


def device_of(model: nn.Module) -> torch.device:
    """Where the network's first parameter or buffer lives; the CPU for a network with none."""
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


@dataclass
class _Held:
    """A module that somebody evaluates, and the mode that it goes back to when nobody does any more."""

    module: nn.Module
    training: bool
    users: int = 0


# By id, which is nobody else's while the entry is here, and not in the modules, which are copied and pickled. An entry
# is for a module, not a model: two models may share modules. The lock may be taken again by a train() that evaluates.
_held: dict[int, _Held] = {}
_lock = threading.RLock()


def _hold(module: nn.Module) -> None:
    entry = _held.setdefault(id(module), _Held(module, module.training))
    entry.training |= module.training  # somebody called train() meanwhile
    entry.users += 1


def _let_go(module: nn.Module) -> None:
    entry = _held[id(module)]
    entry.users -= 1
    if not entry.users:
        del _held[id(module)]
        module.training |= entry.training


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts the network in eval mode without gradients, and every module back as it was afterwards.

    Any number of threads may do so at once, also with networks that share modules: a module is put back when the last
    of them is done with it. Training it in another thread meanwhile would train in eval mode.
    """
    held: list[nn.Module] = []
    try:
        with _lock:
            for module in model.modules():
                _hold(module)
                held.append(module)
            model.eval()
        with torch.no_grad():
            yield
    finally:
        with _lock:
            for module in held:
                _let_go(module)


def restore(model: nn.Module, x: Tensor, *, autocast: bool = False) -> Tensor:
    """Runs the network on pictures of any size.

    Args:
        model: a network that takes and returns [N, 3, H, W], H and W multiples of its ``config.multiple`` (16
            when it has none).
        x: [N, 3, H, W] float32 in [-1, 1], the bicubic-upsampled LR; it is padded by its edge and the
            result cut.
        autocast: compute in bfloat16 where PyTorch's autocast does.

    Returns:
        [N, 3, H, W] float32 on the CPU, not clamped.

    Raises ValueError when its weights expect something else than x is, as `check_served` says.
    """
    check_served(expects_of(model))
    multiple = int(getattr(getattr(model, "config", None), "multiple", 16))
    padded, crop = pad_to_multiple(x.to(device_of(model)), multiple)
    with torch.autocast(padded.device.type, dtype=torch.bfloat16, enabled=autocast):
        y = model(padded)
    return crop(y).float().cpu()
