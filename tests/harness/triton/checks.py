"""What is asked of a case: that its kernels compile within limits, and that its numbers are the reference's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from aminet_fast import ops
from tests.tolerances import BACKWARD, FORWARD, TF32, assert_close

from .backward import gradients
from .case import BATCH, Arguments, Case, Draw, mapped, tensors, tf32_products

# Values nearer than this to another branch of a function may take that branch in the other precision; TF32 has as many
# bits as float16.
MARGIN = {torch.float32: 1e-2, torch.bfloat16: 6e-2, torch.float16: 2e-2}


def check_compiles(case: Case, dtype: torch.dtype, arch: int | str, batch: int = BATCH) -> list[Any]:
    """Forward and backward through the public function on fake CUDA tensors; the launches, compiled for `arch`.

    batch: Of the network's sizes.
    """
    from .launches import compiled_launches
    from .routing import Routed

    with compiled_launches(arch) as launches, FakeTensorMode(), Routed(fakes=True) as routed:
        call_on_fakes(case, dtype, batch)
    forward = f"aminet_fast::{case.operator}_"
    assert any(name.startswith(forward) for name in routed.ran), f"no Triton kernel served {case.operator}"
    assert launches, "no kernel was launched"
    problems = [
        problem for launch in launches for problem in launch.problems(case.one_block, case.network and batch == BATCH)
    ]
    assert not problems, f"{case} {dtype} {arch}:\n" + "\n".join(dict.fromkeys(problems))
    return launches


def call_on_fakes(case: Case, dtype: torch.dtype, batch: int = BATCH) -> None:
    """Forward and backward through the public function, inside FakeTensorMode and Routed: only the launches matter."""
    with tf32_products(case.tf32):
        arguments = case.make(Draw(dtype, "cuda", batch=batch))
        outputs = _call(case, arguments, "triton")
        _gradients(outputs, arguments, _incoming(case, outputs), gradients)


def check_numbers(
    case: Case, dtype: torch.dtype, device: str = "cpu", backend: str = "triton", oracle: str = "cpu"
) -> None:
    """Every output and every gradient against the reference in float64 on the device `oracle`."""
    arguments = case.make(Draw(dtype, device))
    plain = mapped(arguments, lambda t: _doubled(t, oracle))
    margin = MARGIN[torch.float16 if case.tf32 else dtype]
    with _poisoned(), tf32_products(case.tf32):
        outputs, wanted = _call(case, arguments, backend), _call(case, plain, "reference")
        mask = None
        if case.settled is not None:
            with torch.no_grad():
                mask = case.settled(**plain).cpu() > margin
        given = _incoming(case, outputs, mask)
        found = _gradients(outputs, arguments, given)
        expected = _gradients(wanted, plain, [g.detach().to(oracle).double() for g in given])
    rows = TF32 if case.tf32 else (FORWARD[dtype], BACKWARD[dtype])
    forward, backward = ({dtype: (rtol * case.loosen, atol * case.loosen)} for rtol, atol in rows)
    for number, (one, other) in enumerate(zip(outputs, wanted, strict=True)):
        _compare(one, other, dtype, forward, f"output {number} of {case} {dtype}")
    for (name, one), other in zip(found.items(), expected.values(), strict=True):
        assert (one is None) == (other is None), f"gradient of {name} of {case}: {one} where {other} is wanted"
        if one is not None:
            _compare(one, other, dtype, backward, f"gradient of {name} of {case} {dtype}")


def _call(case: Case, arguments: Arguments, backend: str) -> list[Tensor]:
    return tensors([getattr(ops, case.operator)(**arguments, backend=backend)])


def _doubled(t: Tensor, device: str) -> Tensor:
    if not t.is_floating_point():
        return t.to(device)
    return t.detach().to(device).double().requires_grad_(t.requires_grad)


def _differentiable(outputs: list[Tensor]) -> list[Tensor]:
    return [o for o in outputs if o.requires_grad]


def _incoming(case: Case, outputs: list[Tensor], mask: Tensor | None = None) -> list[Tensor]:
    """A gradient for each output, of its dtype and device, laid out as the case says; 0 where the mask is."""
    generator = torch.Generator().manual_seed(1)
    drawn = []
    for o in _differentiable(outputs):
        numbers = torch.randn(o.shape, generator=generator, dtype=torch.float64)
        numbers = numbers if mask is None else numbers * mask
        drawn.append(_laid_out(case, torch.empty_like(o).copy_(numbers)))
    return drawn


def _laid_out(case: Case, gradient: Tensor) -> Tensor:
    gradient = gradient.detach()
    if case.gradient == "expanded":  # as sum() gives it
        return gradient.flatten()[:1].view([1] * gradient.dim()).expand(gradient.shape)
    return gradient.contiguous() if case.gradient == "contiguous" else gradient


def _grad(outputs: list[Tensor], inputs: list[Tensor], incoming: list[Tensor]) -> Any:
    return torch.autograd.grad(outputs, inputs, incoming, allow_unused=True)


def _gradients(
    outputs: list[Tensor],
    arguments: Arguments,
    incoming: list[Tensor],
    grad: Callable[..., Any] = _grad,
) -> dict[str, Tensor | None]:
    """By name of the argument, numbered in lists."""
    of = {f"{name}[{i}]": t for name, value in arguments.items() for i, t in enumerate(tensors([value]))}
    of = {name: t for name, t in of.items() if t.requires_grad}
    if not of:
        return {}
    found = grad(_differentiable(outputs), list(of.values()), incoming)
    for gradient, t in zip(found, of.values(), strict=True):
        assert gradient is None or gradient.dtype == t.dtype, f"a gradient is {gradient.dtype}, its tensor {t.dtype}"
    return dict(zip(of, found, strict=True))


def _compare(one: Tensor, other: Tensor, dtype: torch.dtype, table: dict[Any, Any], what: str) -> None:
    if not one.is_floating_point():
        assert torch.equal(one.cpu(), other.cpu().to(one.dtype)), f"{what} is another than the reference's"
        return
    one, other = one.detach().cpu(), other.detach().cpu()
    if other.numel() and other.abs().max() < 1e-9:  # what cancels has no relative error
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-3, msg=lambda text: f"{what}: {text}")
        return
    # Parameters and statistics in float32 beside 16-bit images are as exact as those images.
    assert_close(one, other, table | {torch.float32: table[dtype], one.dtype: table[dtype]}, what)


@contextmanager
def _poisoned() -> Iterator[None]:
    """torch.empty gives NaN, so that what a kernel does not write shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
