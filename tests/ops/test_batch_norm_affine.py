"""batch_norm_affine against the reference in float64: values, gradients, layouts, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from aminet_fast.ops import batch_norm_affine
from aminet_fast.ops._library import DTYPES
from aminet_fast.ops.extension import load
from aminet_fast.reference.frm import batch_norm_affine_ref
from tests.tolerances import FORWARD, assert_close

compiled_only = pytest.mark.skipif(load("_C")[0] is None, reason=f"needs the CPU extension: {load('_C')[1]}")
BACKENDS = ["reference", pytest.param("cpu", marks=compiled_only)]
NAMES = ("weight", "bias", "mean", "var")


def vectors(c: int, dtype: torch.dtype, moments: torch.dtype | None = None, seed: int = 0) -> list[Tensor]:
    """weight, bias, mean and var; moments: the dtype of the last two."""
    generator = torch.Generator().manual_seed(seed)
    weight, bias, mean, var = torch.randn(4, c, generator=generator, dtype=torch.float64)
    drawn = [weight / 4 + 1, bias, mean, var.square() + 0.1]
    return [t.to(moments if moments is not None and n >= 2 else dtype) for n, t in enumerate(drawn)]


def check(given: list[Tensor], uses: int, backend: str, skip: tuple[int, ...] = ()) -> None:
    """skip: outputs that nothing is made of."""
    ours = [t.detach().requires_grad_() for t in given]
    oracle = [t.detach().double().requires_grad_() for t in given]
    pairs = batch_norm_affine(*ours, 1e-3, uses, backend)
    expected = batch_norm_affine_ref(*oracle, 1e-3)
    assert len(pairs) == uses
    wide = torch.promote_types(given[0].dtype, torch.float32)
    tolerance = {wide: FORWARD[wide]}
    generator = torch.Generator().manual_seed(1)
    outputs, weights, wanted = [], [], []
    for pair in pairs:
        for name, value, want in zip(("scale", "shift"), pair, expected, strict=True):
            assert value.dtype == wide
            assert_close(value, want, tolerance, name)
            outputs.append(value)
            wanted.append(want)
            weights.append(torch.randn(value.shape, generator=generator, dtype=torch.float64))
    kept = [n for n in range(len(outputs)) if n not in skip]
    loss = sum((outputs[n].double() * weights[n]).sum() for n in kept)
    goal = sum((wanted[n] * weights[n]).sum() for n in kept)
    found = torch.autograd.grad(loss, ours, materialize_grads=True)
    expected = torch.autograd.grad(goal, oracle, materialize_grads=True)
    for name, gradient, want, of in zip(NAMES, found, expected, ours, strict=True):
        assert gradient.dtype == of.dtype
        assert_close(gradient, want, FORWARD | {torch.float32: (1e-5, 1e-5)}, f"gradient of {name}")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("uses", [1, 3])
@pytest.mark.parametrize("moments", [None, torch.float32], ids=["same", "float32"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("c", [1, 24, 67])
def test_values_and_gradients(c: int, dtype: torch.dtype, moments: torch.dtype | None, uses: int, backend: str) -> None:
    if dtype == torch.float64 and moments is not None:
        pytest.skip("float64 has no wider type")
    check(vectors(c, dtype, moments), uses, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("skip", [(0,), (1, 3), (0, 2, 4), (1, 3, 5), (0, 1)], ids=str)
def test_outputs_that_nothing_is_made_of(skip: tuple[int, ...], backend: str) -> None:
    check(vectors(5, torch.float64), 3, backend, skip)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sliced_vectors(backend: str) -> None:
    check([t[1::2] for t in vectors(11, torch.float32)], 2, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_is_batch_normalisation(backend: str) -> None:
    """With the batch's moments: values and gradients of torch's own, in training."""
    torch.manual_seed(0)
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64, requires_grad=True)
    bn = nn.BatchNorm2d(6).double()
    nn.init.uniform_(bn.weight, 0.5, 1.5)
    nn.init.normal_(bn.bias)
    var, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    ((scale, shift),) = batch_norm_affine(bn.weight, bn.bias, mean, var, bn.eps, 1, backend)
    ours, expected = x * scale[:, None, None] + shift[:, None, None], bn(x)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    dy = torch.randn_like(x)
    of = [x, bn.weight, bn.bias]
    for one, other in zip(torch.autograd.grad(ours, of, dy), torch.autograd.grad(expected, of, dy), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11)


@compiled_only
def test_gradcheck_and_opcheck() -> None:
    given = [t.requires_grad_() for t in vectors(4, torch.float64)]

    def flat(*vectors: Tensor) -> list[Tensor]:
        return [t for pair in batch_norm_affine(*vectors, 1e-5, 2, "cpu") for t in pair]

    assert torch.autograd.gradcheck(flat, given)
    forward, backward = torch.ops.aminet_fast.batch_norm_affine_fwd, torch.ops.aminet_fast.batch_norm_affine_bwd
    torch.library.opcheck(forward.default, (*given, 1e-5, 2))
    plain = [t.detach() for t in given]
    torch.library.opcheck(backward.default, (plain[:2], plain[2:], *plain, 1e-5))


@compiled_only
def test_second_derivatives_are_refused() -> None:
    given = [t.requires_grad_() for t in vectors(4, torch.float64)]
    ((scale, _),) = batch_norm_affine(*given, backend="cpu")
    (gradient,) = torch.autograd.grad(scale.sum(), given[3], create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        gradient.sum().backward()


@compiled_only
def test_compiles_whole() -> None:
    torch._dynamo.reset()
    given = [t.requires_grad_() for t in vectors(7, torch.float32)]
    compiled = torch.compile(lambda *v: batch_norm_affine(*v, 1e-5, 3), fullgraph=True, backend="aot_eager")
    for one, other in zip(compiled(*given), batch_norm_affine(*given, 1e-5, 3), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"weight": "w"}, TypeError, "weight must be a tensor, got str"),
        ({"weight": torch.ones(3, dtype=torch.int32)}, TypeError, "weight must be one of float32"),
        ({"bias": torch.ones(3, dtype=torch.float64)}, TypeError, "bias must be float32, got float64"),
        ({"mean": torch.ones(3, dtype=torch.float64)}, TypeError, "mean must be float32, got float64"),
        ({"var": torch.ones(4)}, ValueError, r"var must be \[3\], as weight is, got float32 \[4\]"),
        ({"weight": torch.ones(3, 1)}, ValueError, r"weight must be \[C\]"),
        ({"var": torch.ones(3, device="meta")}, ValueError, "var is on meta and weight on cpu"),
        ({"eps": -1.0}, ValueError, "eps must not be negative"),
        ({"uses": 0}, ValueError, "uses must be a number of at least 1, got 0"),
    ],
)
def test_refusals(change: dict[str, object], error: type[Exception], words: str) -> None:
    given = dict(zip(NAMES, vectors(3, torch.float32), strict=True))
    with pytest.raises(error, match=words):
        batch_norm_affine(**(given | change))  # type: ignore[arg-type]
