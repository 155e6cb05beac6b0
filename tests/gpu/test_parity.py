"""Every operator with a benchmark, and the network, against the float64 reference on the CPU, for every backend here.

``python -m pytest -m gpu`` runs the tests marked so; the same on the CPU keeps them honest where there is no GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from aminet_fast import AMINet, get_config, ops, reference
from aminet_fast.ops import backends
from benchmarks import parity
from benchmarks.cases import Case, Draw, all_cases, as_tuple, leaves, mapped
from benchmarks.contenders import LAYOUTS, laid_out
from tests.harness.triton.case import Case as TritonCase
from tests.harness.triton.case import cases_of, first_case, operators

CPU = torch.device("cpu")
assert ops.__all__  # importing them registered their backends
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")],
    ),
]
SHAPES = {"cpu": [(2, 24, 7)], "cuda": [(1, 24, 1), (2, 24, 7), (3, 48, 18), (1, 96, 32), (2, 192, 16)]}


@pytest.fixture(autouse=True)
def _no_tf32() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def check(case: Case, backend: str, device: str, dtype: torch.dtype, layout: str, shape: tuple[int, ...]) -> None:
    """Values and every gradient."""
    function, plain = case.ours(), case.reference()
    assert function is not None
    assert plain is not None
    drawn = mapped(case.make(Draw(CPU), *shape), lambda t: t.to(dtype))
    oracle = laid_out(drawn, torch.float64, "nchw")
    arguments = laid_out(mapped(drawn, lambda t: t.to(device)), dtype, layout)
    outputs, wanted = as_tuple(function(*arguments.values(), backend=backend)), as_tuple(plain(*oracle.values()))
    name = str(dtype).removeprefix("torch.")
    mask: Tensor | float = 1.0
    if case.settled is not None:
        with torch.no_grad():
            mask = case.settled(*oracle.values()) > parity.MARGIN[name]
    draw = Draw(CPU, seed=1)
    grads = [draw(*w.shape).to(dtype) * mask for w in wanted]
    found = torch.autograd.grad(outputs, leaves(arguments), [g.to(device) for g in grads])
    expected = torch.autograd.grad(wanted, leaves(oracle), [g.double() for g in grads])
    plainly = backends.explain(case.public_name, device, backend).backend == "reference"
    limit = parity.most("cpu", name, plain=plainly)
    pairs = zip([*outputs, *found], [*wanted, *expected], strict=True)
    for number, (one, other) in enumerate(pairs):
        if other.abs().max() > 1e-9:  # a gradient that cancels has no relative error
            what = f"{'output' if number < len(outputs) else 'gradient'} {number} of {case.name} on {backend}"
            parity.require(what, parity.error(one.cpu(), other), limit)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backend", ["auto", "cpu", "triton", "cuda", "reference"])
@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
@pytest.mark.parametrize("device", DEVICES)
def test_operator(device: str, case: Case, backend: str, dtype: torch.dtype) -> None:
    if problem := case.problem():
        pytest.skip(problem)
    choice = backends.explain(case.public_name, device, backend)
    if choice.backend != backend and backend != "auto":
        pytest.skip(choice.reason)
    for layout in LAYOUTS:
        for shape in SHAPES[device]:
            check(case, backend, device, dtype, layout, shape)


def triton_trials() -> list[Any]:
    """The harness's that are small enough for the reference in float64 on the CPU; the first ones are fast."""
    trials = []
    for case in (case for operator in operators() for case in cases_of(operator) if not case.network):
        marks = [] if case is first_case(case.operator) else [pytest.mark.slow]
        trials += [
            pytest.param(case, d, id=f"{case}-{str(d).removeprefix('torch.')}", marks=marks) for d in case.dtypes
        ]
    return trials


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("case", "dtype"), triton_trials())
def test_triton_case(case: TritonCase, dtype: torch.dtype) -> None:
    from tests.harness.triton.checks import check_numbers

    choice = backends.explain(case.operator, "cuda", "triton")
    assert choice.backend == "triton", choice.reason
    check_numbers(case, dtype, "cuda")


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("case", [c for o in operators() for c in cases_of(o) if c.network], ids=str)
def test_triton_network_size(case: TritonCase) -> None:
    """The reference in float64 on the GPU, which has the memory and the speed for it."""
    from tests.harness.triton.checks import check_numbers

    check_numbers(case, torch.bfloat16, "cuda", oracle="cuda")


def gradients(model: torch.nn.Module, x: Tensor, target: Tensor, dtype: torch.dtype | None) -> list[Tensor]:
    """The picture, then the gradient of every weight."""
    with torch.autocast(x.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        y = model(x)
    loss = (y.to(target.dtype) - target).square().mean()
    return [t.cpu() for t in (y, *torch.autograd.grad(loss, list(model.parameters())))]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["auto", "cpu", "triton", "cuda"])
@pytest.mark.parametrize("device", DEVICES)
def test_network(
    device: str, backend: str, autocast: torch.dtype | None, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    available = {backends.explain(name, device, backend).backend for name in backends.operators()}
    if backend != "auto" and backend not in available:
        pytest.skip(f"no operator has a {backend} kernel for {device} devices here")
    config = get_config("aminet-tiny")
    torch.manual_seed(0)
    oracle = reference.AMINet(config).double()
    plain, ours = reference.AMINet(config), AMINet(config)
    for model in (plain, ours):
        model.load_state_dict(oracle.state_dict())
        model.to(device).to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
    x, target = (torch.rand(2, 3, 48, 32).mul(2).sub(1) for _ in range(2))
    wanted = gradients(oracle, x.double(), target.double(), None)
    x, target = x.to(device).contiguous(memory_format=LAYOUTS[layout]), target.to(device)
    eager = parity.together(gradients(plain, x, target, autocast), wanted)
    monkeypatch.setenv(backends.VARIABLE, backend)
    found = parity.together(gradients(ours, x, target, autocast), wanted)
    assert eager < (1e-3 if autocast is None else 0.3)
    parity.require(f"AMINet with {backend}", found, 2 * eager + 1e-5)
