"""Running a trained network: where, on which sizes, and without leaving a trace on it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from .expects import check_served, expects_of
from .freezing import freeze
from .model import AMINet, load_model, pad_to_multiple
from .runner import Runner, network_of

Ensemble = Literal["none", "flip"]


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


def device_of(model: nn.Module | Runner) -> torch.device:
    """Where the network's first parameter or buffer lives; the CPU for a network with none."""
    network = network_of(model)
    first = next(chain(network.parameters(), network.buffers()), None)
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
def evaluating(model: nn.Module | Runner) -> Iterator[None]:
    """Puts the network in eval mode without gradients, and every module back as it was afterwards.

    Any number of threads may do so at once, also with networks that share modules: a module is put back when the last
    of them is done with it. Training it in another thread meanwhile would train in eval mode.
    """
    network = network_of(model)
    held: list[nn.Module] = []
    try:
        with _lock:
            for module in network.modules():
                _hold(module)
                held.append(module)
            network.eval()
        with torch.no_grad():
            yield
    finally:
        with _lock:
            for module in held:
                _let_go(module)


def check_ensemble(ensemble: str) -> None:
    """Raises ValueError for an ensemble that is not one of ``Ensemble``."""
    if ensemble not in get_args(Ensemble):
        raise ValueError(f"ensemble is {ensemble!r}, wanted {' or '.join(get_args(Ensemble))}")


def restore(model: nn.Module | Runner, x: Tensor, *, autocast: bool = False, ensemble: Ensemble = "none") -> Tensor:
    """Runs the network on pictures of any size.

    Args:
        model: a network that takes and returns [N, 3, H, W], H and W multiples of its ``config.multiple`` (16
            when it has none); or what `graph` returned for one, which takes the H and W of its example alone.
        x: [N, 3, H, W] float32 in [-1, 1], the bicubic-upsampled LR; it is padded by its edge and the
            result cut.
        autocast: compute in bfloat16 where PyTorch's autocast does; a graph does what it did when it was captured.
        ensemble: "flip" is the mean of two results: of x and, mirrored back, of x mirrored left to right. The
            network is not mirror-symmetric and faces nearly are, so the errors of the two differ and partly cancel.
            It takes twice the time and no more memory. From Timofte et al., "Seven ways to improve example-based
            single image super resolution", CVPR 2016, whose self-ensemble also turns the picture: faces stay upright.

    Returns:
        [N, 3, H, W] float32 on the CPU, not clamped.

    Raises ValueError when its weights expect something else than x is, as `check_served` says, or there is no such
    ensemble.
    """
    check_served(expects_of(model))
    check_ensemble(ensemble)
    multiple = int(getattr(getattr(network_of(model), "config", None), "multiple", 16))
    x = x.to(device_of(model))

    def run(x: Tensor) -> Tensor:
        padded, crop = pad_to_multiple(x, multiple)
        with torch.autocast(padded.device.type, dtype=torch.bfloat16, enabled=autocast):
            return crop(model(padded)).float()

    if ensemble == "none":
        return run(x).cpu()
    # One after the other: a batch of both would double the memory that the callers' batch_size and tile bound.
    y = run(x) * 0.5  # a copy: the second call overwrites a graph's static output
    return y.add_(run(x.flip(-1)).flip(-1), alpha=0.5).cpu()
