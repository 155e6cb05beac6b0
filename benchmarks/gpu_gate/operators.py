"""Every operator at the network's four sizes: right against float64 on the device, and how long it takes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aminet_fast import ops
from aminet_fast.ops import _library, backends, confirmation

from .. import parity
from .clock import by_device
from .network import exact_products
from .run import Run

DTYPES = (torch.bfloat16, torch.float32)
CANCELS = 1e-9  # what is smaller than this everywhere in float64 has no relative error


def harness() -> Any:
    """tests/harness/triton/case.py: the cases that prove the kernels without a GPU, the network's sizes among them."""
    return importlib.import_module("tests.harness.triton.case")


def cases(run: Run) -> list[Any]:
    """The network's sizes of every operator, one size of all first; of a dry run the smallest case of each."""
    tried = harness()
    names = [name for name in backends.operators() if name in tried.operators()]
    if without := set(backends.operators()) - set(names):
        run.skip(f"operators {', '.join(sorted(without))}", "no case in tests/harness/triton")
    if run.tiny:
        small = [case for name in names for case in tried.cases_of(name) if case.interpreted]
        of = {(case.operator, dtype): case for case in reversed(small) for dtype in DTYPES if dtype in case.dtypes}
        return list({str(case): case for case in of.values()}.values())
    of_each = [[case for case in tried.cases_of(name) if case.network and not case.tf32] for name in names]
    longest = max(map(len, of_each))
    return [found[i] for i in range(longest) for found in of_each if i < len(found)]


def serving(run: Run, operator: str) -> list[str]:
    """Backends that have kernels for it here."""
    names = ("triton", "cuda") if run.cuda else ("cpu",)
    return [name for name in names if backends.explain(operator, run.device.type, name).backend == name]


def parity_of_operators(run: Run) -> None:
    """Forward and every gradient; a row for each case, dtype and backend. float32 without TF32."""
    trials = [(case, dtype) for dtype in DTYPES for case in cases(run) if dtype in case.dtypes]
    with exact_products():
        for case, dtype in run.each(trials, "cases", once=True):
            answer = None
            for backend in serving(run, case.operator):
                about = {"operator": case.operator, "case": case.name, "dtype": name_of(dtype), "backend": backend}
                try:
                    answer = answer or Answer.of(run, case, dtype)
                    with counting() as calls:
                        errors = compared(run, case, dtype, backend, answer)
                except Exception as error:  # Triton's own have no other class in common
                    if run.cuda:
                        torch.cuda.synchronize()
                    run.write("parity", **about, right=False, problem=f"{type(error).__name__}: {str(error)[:300]}")
                    continue
                most = parity.TOLERANCE["cpu", name_of(dtype)] * case.loosen  # CUDA's own is for TF32
                worst = max(errors, key=lambda name: errors[name])
                source = confirmation.source(case.operator, backend)
                numbers = {"worst": worst, "error": errors[worst], "most": most, "right": errors[worst] <= most}
                served = {"served": "triton"} if backend == "cuda" and not calls else {}
                run.write("parity", **about, **numbers, **served, errors=errors, source=source)


@dataclass
class Answer:
    """The float64 answer to a case: outputs and gradients by name, for incoming gradients that are as rounded."""

    outputs: list[Tensor]
    incoming: list[Tensor]
    gradients: dict[str, Tensor | None]

    @classmethod
    def of(cls, run: Run, case: Any, dtype: torch.dtype) -> Answer:
        tried = harness()
        margin = parity.MARGIN[name_of(dtype)]
        plain = tried.mapped(arguments_of(run, case, dtype), doubled)
        wanted = tried.tensors([getattr(ops, case.operator)(**plain, backend="reference")])
        mask: Tensor | float = 1.0
        if case.settled is not None:
            with torch.no_grad():
                mask = case.settled(**plain) > margin
        generator = torch.Generator(run.device).manual_seed(1)
        incoming = []
        for o in (o for o in wanted if o.requires_grad):
            numbers = torch.randn(o.shape, device=run.device, generator=generator) * mask
            incoming.append(numbers.to(dtype).double())
        return cls([o.detach() for o in wanted], incoming, gradients_of(plain, wanted, incoming))


def arguments_of(run: Run, case: Any, dtype: torch.dtype) -> dict[str, Any]:
    """The same numbers at every call, drawn where they are needed."""
    tried = harness()

    class Draw(tried.Draw):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__(dtype, run.device)
            self.generator = torch.Generator(run.device).manual_seed(0)

        def __call__(
            self, *shape: int, grad: bool = True, dtype: Any = None, contiguous: bool = False, fan_in: int = 1
        ) -> Tensor:
            drawn = torch.randn(shape, generator=self.generator, device=self.device) / fan_in**0.5
            drawn = drawn.to(dtype or self.dtype)
            if len(shape) == 4 and shape[1] > 1 and not contiguous:
                drawn = drawn.contiguous(memory_format=torch.channels_last)
            return drawn.requires_grad_(grad)

    return case.make(Draw())


def doubled(t: Tensor) -> Tensor:
    return t.detach().double().requires_grad_(t.requires_grad) if t.is_floating_point() else t


def gradients_of(arguments: dict[str, Any], outputs: list[Tensor], incoming: list[Tensor]) -> dict[str, Tensor | None]:
    """By the argument's name, numbered in lists."""
    tensors = harness().tensors
    of = {f"{name}[{i}]": t for name, value in arguments.items() for i, t in enumerate(tensors([value]))}
    of = {name: t for name, t in of.items() if t.requires_grad}
    outputs = [o for o in outputs if o.requires_grad]
    given = [torch.empty_like(o).copy_(g) for o, g in zip(outputs, incoming, strict=True)]
    return dict(zip(of, torch.autograd.grad(outputs, list(of.values()), given, allow_unused=True), strict=True))


def compared(run: Run, case: Any, dtype: torch.dtype, backend: str, answer: Answer) -> dict[str, float]:
    """Relative errors of the outputs and gradients; what is not written is NaN."""
    arguments = arguments_of(run, case, dtype)
    with poisoned():
        outputs = harness().tensors([getattr(ops, case.operator)(**arguments, backend=backend)])
        found = gradients_of(arguments, outputs, answer.incoming)
    errors = {f"output {i}": distance(o, w) for i, (o, w) in enumerate(zip(outputs, answer.outputs, strict=True))}
    return errors | {name: distance(found[name], wanted) for name, wanted in answer.gradients.items()}


def distance(found: Tensor | None, wanted: Tensor | None) -> float:
    if found is None or wanted is None:
        return 0.0 if found is wanted else float("inf")
    if wanted.numel() and float(wanted.abs().max()) < CANCELS:
        return 0.0 if float(found.abs().max()) < 1e-3 else float("inf")
    return parity.error(found, wanted)


@contextmanager
def poisoned() -> Iterator[None]:
    """torch.empty gives NaN, so that what a kernel does not write shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def counting() -> Iterator[list[str]]:
    """Names of the compiled functions that were called: a call that they refuse goes to Triton's."""
    called: list[str] = []
    before = _library.call_compiled

    def call(namespace: str, name: str, given: Any) -> Any:
        called.append(name)
        return before(namespace, name, given)

    _library.call_compiled = call
    try:
        yield called
    finally:
        _library.call_compiled = before


def times(run: Run) -> None:
    """Forward, and forward and backward together, each a CUDA graph with the L2 cache emptied before, in bfloat16."""
    run.need_cuda("operators in CUDA graphs: timed as plain calls")
    there = [case for case in cases(run) if torch.bfloat16 in case.dtypes]
    trials = [(case, backend) for case in there for backend in serving(run, case.operator)]
    trials += [(case, "reference") for case in there]
    for case, backend in run.each(trials, "cases", once=True):
        about = {"operator": case.operator, "case": case.name, "dtype": "bfloat16", "backend": backend}
        try:
            forward, both = calls_of(run, case, backend)
            forward_us, one = by_device(run, torch.no_grad()(forward), graph=True)
            both_us, other = by_device(run, both, graph=True)
        except Exception as error:  # Triton's own have no other class in common
            if run.cuda:
                torch.cuda.synchronize()
            run.write("operator", **about, problem=f"{type(error).__name__}: {str(error)[:300]}")
            continue
        run.write("operator", **about, forward_us=forward_us, both_us=both_us, graphs=one + other)


def calls_of(run: Run, case: Any, backend: str) -> tuple[Callable[[], object], Callable[[], object]]:
    arguments = arguments_of(run, case, torch.bfloat16)
    function, tensors = getattr(ops, case.operator), harness().tensors
    inputs = [t for t in tensors(arguments) if t.requires_grad]

    def forward() -> list[Tensor]:
        return [o for o in tensors([function(**arguments, backend=backend)]) if o.requires_grad]

    incoming = [torch.randn_like(o) for o in forward()]

    def both() -> object:
        return torch.autograd.grad(forward(), inputs, incoming, allow_unused=True)

    both()
    return forward, both


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
