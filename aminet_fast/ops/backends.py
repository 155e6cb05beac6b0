"""Which implementation serves an operator: the argument ``backend``, then AMINET_FAST_BACKEND, then "auto".

An operator's file registers what it has, best first for each kind of device; everything else is the same
for all of them. ``reference`` is plain PyTorch and always there: where the wanted backend is missing, the
reference gives the same numbers and one line is logged. It also runs, whatever is wanted, where somebody follows the
computation who does not see an operator: `choose` is where that rule is kept.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch._dynamo.eval_frame import skip_code

from . import confirmation
from ._transforms import unseen

NAMES = ("auto", "reference", "cpu", "triton", "cuda")
VARIABLE = "AMINET_FAST_BACKEND"

_log = logging.getLogger("aminet_fast")
_logged: set[str] = set()
_logging = threading.Lock()


@dataclass(frozen=True)
class Choice:
    """The backend that serves an operator, and the reason in words."""

    backend: str
    reason: str
    missed: bool = False  # something better was asked for or expected
    unconfirmed: bool = False  # no such device has shown it to be right (confirmed.json)


@dataclass
class _Operator:
    # device type -> [(backend, why it cannot be used, or "")], best first
    backends: dict[str, list[tuple[str, Callable[[], str]]]] = field(default_factory=dict)
    without_float64: set[str] = field(default_factory=set)


_operators: dict[str, _Operator] = {}


def register(
    operator: str,
    device: str,
    backend: str,
    problem: Callable[[], str],
    *,
    float64: bool = True,
) -> None:
    """Let `backend` serve `operator` on devices of type `device`, after those registered before it.

    float64: Whether it has kernels for it.
    problem() says why it cannot on this machine, or "" when it can; it is asked when the operator runs,
    never at import, and must not raise.
    """
    entry = _operators.setdefault(operator, _Operator())
    entry.backends.setdefault(device, []).append((backend, problem))
    if not float64:
        entry.without_float64.add(backend)


def operators() -> list[str]:
    """Names of all registered operators."""
    return sorted(_operators)


def explain(operator: str, device: str, backend: str | None = None, dtype: torch.dtype | None = None) -> Choice:
    """The backend that would serve `operator` on a device type ("cpu", "cuda"), and why; logs nothing.

    dtype: Of the data; None for what every backend has.

    Raises ValueError for an unknown name, whether given or in AMINET_FAST_BACKEND.
    """
    source = "backend" if backend is not None else VARIABLE
    wanted = backend if backend is not None else os.environ.get(VARIABLE, "") or "auto"
    if wanted not in NAMES:
        raise ValueError(f"{source}={wanted!r} is unknown: use one of {', '.join(NAMES)}")
    if wanted == "reference":
        return Choice("reference", f"{source}=reference")
    if device == "meta":
        return Choice("reference", "there are shapes alone")
    entry = _operators[operator]
    registered = entry.backends.get(device, [])

    def problem_of(name: str, problem: Callable[[], str]) -> str:
        lacks = dtype == torch.float64 and name in entry.without_float64
        return f"{name} has no kernel for float64" if lacks else problem()

    if wanted == "auto":
        problems = []
        working = [name for name, problem in registered if not problem_of(name, problem)]
        if len(working) > 1:
            names = sorted(name for name in working if _unconfirmed(operator, device, name, dtype))
            doubt = f"; no {device} device has confirmed {' and '.join(names)} yet" if names else ""
            reason = f"{' or '.join(working)} call by call, as aminet_fast/ops/dispatch.json says{doubt}"
            return Choice("auto", reason, unconfirmed=bool(doubt))
        for name, problem in registered:
            if not (why := problem_of(name, problem)):
                unconfirmed = _unconfirmed(operator, device, name, dtype)
                doubt = f"; no {device} device has confirmed it yet" if unconfirmed else ""
                return Choice(name, f"the first that works on this device{doubt}", unconfirmed=unconfirmed)
            problems.append(why)
        reason = "; ".join(problems) or f"no kernel for {device} devices in this version"
        return Choice("reference", reason, missed=True)
    for name, problem in registered:
        if name == wanted:
            why = problem_of(name, problem)
            return Choice("reference", why, missed=True) if why else Choice(name, f"{source}={name}")
    return Choice("reference", f"there is no {wanted} kernel of it for {device} devices", missed=True)


def _unconfirmed(operator: str, device: str, backend: str, dtype: torch.dtype | None) -> bool:
    """Whether no GPU has shown that the kernels are right: in that dtype, or in any. Of CPU kernels the tests do."""
    if device == "cpu":
        return False
    confirmed = confirmation.dtypes(operator, backend)
    return not confirmed if dtype is None else str(dtype).removeprefix("torch.") not in confirmed


@torch.compiler.assume_constant_result
def choose(operator: str, device: str, backend: str | None, dtype: torch.dtype | None = None) -> str:
    """`explain`, with one line in the log of "aminet_fast" for each reason that leads to the reference.

    And one for all kernels that "auto" took though no device has confirmed them. Where operators are `unseen` it is the
    reference, whatever was asked for and without a line: it is not what is left, but the form that is right there.
    """
    choice = explain(operator, device, backend, dtype)
    if unseen():
        return "reference"
    if choice.missed:
        warn(f"{operator} runs as plain PyTorch on {device}: {choice.reason}")
    elif choice.unconfirmed:
        warn(f"{choice.backend} kernels run, which no {device} device has confirmed; {VARIABLE}=reference avoids them")
    return choice.backend


skip_code(choose.__code__)  # as `unseen`


def warn(line: str, more: str = "aminet info says more") -> None:
    """Once a process, whichever of its threads come to it. more: where else to look, in brackets behind the line."""
    with _logging:
        new = line not in _logged
        _logged.add(line)
    if new:
        _log.warning("%s (%s)", line, more)
