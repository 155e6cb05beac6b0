"""Which implementation serves an operator: the argument ``backend``, then AMINET_FAST_BACKEND, then "auto".

An operator's file registers what it has, best first for each kind of device; everything else is the same
for all of them. ``reference`` is plain PyTorch and always there: where the wanted backend is missing, the
reference gives the same numbers and one line is logged.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

NAMES = ("auto", "reference", "cpu", "triton", "cuda")
VARIABLE = "AMINET_FAST_BACKEND"

_log = logging.getLogger("aminet_fast")
_logged: set[str] = set()


@dataclass(frozen=True)
class Choice:
    """The backend that serves an operator, and the reason in words."""

    backend: str
    reason: str
    missed: bool = False  # something better was asked for or expected


@dataclass
class _Operator:
    # device type -> [(backend, why it cannot be used, or "")], best first
    backends: dict[str, list[tuple[str, Callable[[], str]]]] = field(default_factory=dict)
    on_request: set[str] = field(default_factory=set)  # "auto" does not take these


_operators: dict[str, _Operator] = {}


def register(operator: str, device: str, backend: str, problem: Callable[[], str], *, on_request: bool = False) -> None:
    """Let `backend` serve `operator` on devices of type `device`, after those registered before it.

    on_request: "auto" passes it over, until a device has shown that it is right and faster.
    problem() says why it cannot on this machine, or "" when it can; it is asked when the operator runs,
    never at import, and must not raise.
    """
    entry = _operators.setdefault(operator, _Operator())
    entry.backends.setdefault(device, []).append((backend, problem))
    if on_request:
        entry.on_request.add(backend)


def operators() -> list[str]:
    """Names of all registered operators."""
    return sorted(_operators)


def explain(operator: str, device: str, backend: str | None = None) -> Choice:
    """The backend that would serve `operator` on a device type ("cpu", "cuda"), and why; logs nothing.

    Raises ValueError for an unknown name, whether given or in AMINET_FAST_BACKEND.
    """
    source = "backend" if backend is not None else VARIABLE
    wanted = backend if backend is not None else os.environ.get(VARIABLE, "") or "auto"
    if wanted not in NAMES:
        raise ValueError(f"{source}={wanted!r} is unknown: use one of {', '.join(NAMES)}")
    if wanted == "reference":
        return Choice("reference", f"{source}=reference")
    registered = _operators[operator].backends.get(device, [])
    if wanted == "auto":
        problems = []
        for name, problem in registered:
            if name in _operators[operator].on_request:
                problems.append(f"{name} only when asked for: not yet confirmed on a {device} device")
            elif not (why := problem()):
                return Choice(name, "the first that works on this device")
            else:
                problems.append(why)
        reason = "; ".join(problems) or f"no kernel for {device} devices in this version"
        return Choice("reference", reason, missed=True)
    for name, problem in registered:
        if name == wanted:
            why = problem()
            return Choice("reference", why, missed=True) if why else Choice(name, f"{source}={name}")
    return Choice("reference", f"there is no {wanted} kernel of it for {device} devices", missed=True)


@torch.compiler.assume_constant_result
def choose(operator: str, device: str, backend: str | None) -> str:
    """`explain`, with one line in the log of "aminet_fast" for each reason that leads to the reference."""
    choice = explain(operator, device, backend)
    if choice.missed:
        line = f"{operator} runs as plain PyTorch on {device}: {choice.reason}"
        if line not in _logged:
            _logged.add(line)
            _log.warning("%s (python -m aminet_fast.info says more)", line)
    return choice.backend
