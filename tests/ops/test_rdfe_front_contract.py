"""rdfe_front's promises beside its values: autograd, autocast, compiling, export and refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aminet_fast.ops import rdfe_front, rdfe_front_prepack
from aminet_fast.reference.rdfe import rdfe_front_ref
from tests.ops.compiling import ways
from tests.ops.rdfe_front_inputs import BACKENDS, arguments, compiled_only, flat, mapped, stored

KERNELS = (3, 5)


def packed(tensors: list[Tensor], branches: int = len(KERNELS)) -> list[object]:
    """rdfe_front's arguments from `flat` ones."""
    y, *t = tensors
    b = branches
    return [y, t[:b], t[b : 2 * b], *t[2 * b : 2 * b + 4], t[2 * b + 4 : 3 * b + 4], t[3 * b + 4 : -2], *t[-2:]]


def inputs_of(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    inputs, dz = arguments(shape, dtype, seed, KERNELS)
    return flat(inputs), dz


@compiled_only
@pytest.mark.parametrize("need", [*range(15), (0, 1), (5, 6, 7, 8), (13, 14)], ids=str)
def test_only_what_is_needed(need: int | tuple[int, ...]) -> None:
    inputs, dz = inputs_of((2, 5, 6, 7), torch.float32)
    wanted = (need,) if isinstance(need, int) else need
    everything = [t.clone().requires_grad_() for t in inputs]
    expected = torch.autograd.grad(rdfe_front(*packed(everything), backend="cpu"), everything, dz)
    some = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(inputs)]
    rdfe_front(*packed(some), backend="cpu").backward(dz)
    for i, tensor in enumerate(some):
        assert (tensor.grad is not None) == (i in wanted)
        assert tensor.grad is None or torch.equal(tensor.grad, expected[i])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_autocast_keeps_its_dtype(dtype: torch.dtype, backend: str) -> None:
    inputs, dz = inputs_of((2, 24, 5, 7), torch.float32)
    inputs = [(t.to(dtype) if i == 0 or dtype == torch.float64 else t).requires_grad_() for i, t in enumerate(inputs)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, z = rdfe_front_ref(*packed(inputs)), rdfe_front(*packed(inputs), backend=backend)
    assert z.dtype == (dtype if dtype == torch.float64 else torch.bfloat16)
    torch.testing.assert_close(z, expected, rtol=3e-2, atol=6e-2, check_dtype=False)
    gradients = torch.autograd.grad(z, inputs, dz.to(z.dtype))
    assert [g.dtype for g in gradients] == [t.dtype for t in inputs]


@compiled_only
def test_gradcheck() -> None:
    inputs, _ = inputs_of((2, 3, 3, 4), torch.float64)
    assert torch.autograd.gradcheck(lambda *t: rdfe_front(*packed(list(t))), [t.requires_grad_() for t in inputs])


@compiled_only
@pytest.mark.parametrize("layout", ["channels_last", "sliced"])
def test_opcheck(layout: str) -> None:
    inputs, dz = arguments((2, 5, 3, 4), torch.float32, kernels=KERNELS)
    y, *parameters = flat(stored(inputs, layout))
    _, a, sums = torch.ops.aminet_fast.rdfe_front_fwd(y, parameters)
    for needs in [(True, True), (False, True), (True, False)]:
        torch.library.opcheck(torch.ops.aminet_fast.rdfe_front_bwd, (dz, y, a, sums, parameters, *needs))
    needing = [t.detach().requires_grad_() for t in parameters]
    torch.library.opcheck(torch.ops.aminet_fast.rdfe_front_fwd, (y.detach().requires_grad_(), needing))


@ways
def test_compiles_whole_and_once(backend: str, dynamic: bool, autocast: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(rdfe_front, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    # Sizes unlike the weights', which torch.compile would take for the same symbols.
    sizes = [(4, 26, 9, 11), (4, 26, 9, 11)] if not dynamic else [(4, 26, 9, 11), (8, 26, 11, 4), (9, 26, 10, 12)]
    for seed, size in enumerate(sizes):
        inputs, dz = inputs_of(size, torch.float32, seed)
        one, other = ([t.clone().requires_grad_() for t in inputs] for _ in range(2))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
                z = compiled(*packed(one), backend=backend)
            expected = rdfe_front(*packed(other), backend=backend)
        gradients = torch.autograd.grad(z, one, dz)
        torch.testing.assert_close(z, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(gradients, torch.autograd.grad(expected, other, dz), rtol=1e-4, atol=1e-4)


@compiled_only
def test_exports() -> None:
    class Front(torch.nn.Module):
        def __init__(self, parameters: list[Tensor]) -> None:
            super().__init__()
            self.parameters_of_front = torch.nn.ParameterList(parameters)

        def forward(self, y: Tensor) -> Tensor:
            return rdfe_front(*packed([y, *self.parameters_of_front]))

    (y, *parameters), _ = inputs_of((2, 24, 6, 8), torch.float32)
    sizes = {2: torch.export.Dim("height", min=2), 3: torch.export.Dim("width", min=2)}
    program = torch.export.export(Front(parameters), (y,), dynamic_shapes=(sizes,))
    assert "aminet_fast.rdfe_front_fwd" in str(program.graph)
    other = inputs_of((2, 24, 3, 11), torch.float32)[0][0]
    torch.testing.assert_close(program.module()(other), rdfe_front(*packed([other, *parameters])))


def test_shapes_without_data() -> None:
    y, *parameters = [t.to("meta") for t in inputs_of((2, 24, 5, 7), torch.bfloat16)[0]]
    y = y.to(memory_format=torch.channels_last)
    z, a, sums = torch.ops.aminet_fast.rdfe_front_fwd(y, parameters)
    assert (z.shape, z.stride(), z.dtype) == (y.shape, y.stride(), torch.bfloat16)
    assert (a.shape, a.dtype, sums.shape, sums.dtype) == ((2, 24), torch.float32, (2, 5, 5, 24), torch.float32)


@compiled_only
def test_second_derivative_is_refused() -> None:
    inputs = [t.requires_grad_() for t in inputs_of((1, 5, 2, 2), torch.float64)[0]]
    z = rdfe_front(*packed(inputs), backend="cpu")
    (dy,) = torch.autograd.grad(z.square().sum(), inputs[0], create_graph=True)
    with pytest.raises(NotImplementedError, match=r"rdfe_front has no second derivative.*reference"):
        torch.autograd.grad(dy.sum(), inputs[0])
    z = rdfe_front(*packed(inputs), backend="reference")
    (dy,) = torch.autograd.grad(z.square().sum(), inputs[0], create_graph=True)
    torch.autograd.grad(dy.sum(), inputs[0])


def test_bad_arguments() -> None:
    inputs, _ = arguments((2, 4, 5, 6), torch.float32, kernels=KERNELS)
    y, weights, biases, *unit, weights2, biases2, fuse, fuse_bias = inputs
    names = ("y", "dw1_weights", "dw1_biases", "reduce_weight", "reduce_bias", "expand_weight", "expand_bias")
    names += ("dw2_weights", "dw2_biases", "fuse_weight", "fuse_bias")
    for error, match, name, value in [
        (TypeError, r"y must be a tensor, got list", "y", [y]),
        (TypeError, r"y must be one of float32.*int64", "y", y.long()),
        (ValueError, r"y must be \[N, C, H, W\].*\[4, 5, 6\]", "y", y[0]),
        (ValueError, r"every size at least 1.*\[0, 4, 5, 6\]", "y", y[:0]),
        (TypeError, r"dw1_weights must be a list of tensors, got float32", "dw1_weights", weights[0]),
        (ValueError, r"one entry for each branch and at least one, got 0 dw1_weights", "dw1_weights", []),
        (ValueError, r"got 2 dw1_weights and 1 dw2_biases", "dw2_biases", biases2[:1]),
        (TypeError, r"dw2_weights\[1\] must be a tensor, got NoneType", "dw2_weights", [weights2[0], None]),
        (ValueError, r"dw1_weights\[0\] must be .*K odd", "dw1_weights", [weights[0][..., :2, :2], weights[1]]),
        (ValueError, r"dw1_weights\[0\] must be", "dw1_weights", [weights[0][0], weights[1]]),
        (ValueError, r"dw2_weights\[0\] must be \[4, 1, 3, 3\].*\[4, 1, 5, 5\]", "dw2_weights", weights2[::-1]),
        (ValueError, r"dw1_biases\[1\] must be \[4\].*\[3\]", "dw1_biases", [biases[0], biases[1][:3]]),
        (ValueError, r"reduce_weight must be \[1, 8, 1, 1\].*\[1, 7, 1, 1\]", "reduce_weight", unit[0][:, :7]),
        (ValueError, r"expand_weight must be \[4, 1, 1, 1\]", "expand_weight", unit[2][:3]),
        (TypeError, r"reduce_bias must be a tensor, got NoneType", "reduce_bias", None),
        (ValueError, r"reduce_bias must be \[1\].*got float32 \[\] on", "reduce_bias", unit[1][0]),
        (ValueError, r"fuse_weight must be \[4, 8, 1, 1\]", "fuse_weight", fuse[..., 0]),
        (ValueError, r"fuse_bias is on meta and y on cpu", "fuse_bias", fuse_bias.to("meta")),
        (TypeError, r"fuse_bias must have y's dtype.*or float32.*float64", "fuse_bias", fuse_bias.double()),
    ]:
        call = dict(zip(names, mapped(inputs, lambda t: t), strict=True))
        with pytest.raises(error, match=match):
            rdfe_front(**{**call, name: value})
    with pytest.raises(ValueError, match=r"backend='fastest' is unknown: use one of auto"):
        rdfe_front(*inputs, backend="fastest")


@compiled_only
def test_packed_weights_are_checked_and_left_alone() -> None:
    """On the CPU, whose kernels have no use for them."""
    y, weights, biases, *unit, weights2, biases2, fuse, fuse_bias = arguments((2, 4, 5, 6), torch.float32, 0, KERNELS)[
        0
    ]
    assert rdfe_front_prepack(weights, biases, weights2, biases2) is None
    call = y, weights, biases, *unit, weights2, biases2, fuse, fuse_bias
    right = torch.full((2 * (9 + 25 + 2), 4), torch.nan)
    assert torch.equal(rdfe_front(*call, packed=right), rdfe_front(*call))
    for error, match, wrong in [
        (TypeError, r"packed must be a float32 tensor or None, got list", [right]),
        (TypeError, r"packed must be a float32 tensor or None, got float64", right.double()),
        (ValueError, r"packed must be rdfe_front_prepack of .*\[72, 4\] on cpu, got float32 \[71, 4\]", right[1:]),
        (ValueError, r"packed must be rdfe_front_prepack of .* on meta", right.to("meta")),
    ]:
        with pytest.raises(error, match=match):
            rdfe_front(*call, packed=wrong)
