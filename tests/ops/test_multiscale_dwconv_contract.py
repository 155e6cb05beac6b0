"""multiscale_dwconv's promises beside its values: autograd, autocast, compiling, export and refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from aminet_fast.ops import multiscale_dwconv
from tests.harness.layouts import laid_out
from tests.ops.multiscale_dwconv_inputs import BACKENDS, Case, case, compiled_only


@compiled_only
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    "needed", [("x",), ("weights",), ("biases",), ("scale",), ("x", "biases"), ("scale", "weights")]
)
def test_only_what_is_needed(needed: tuple[str, ...], shared: bool) -> None:
    inputs = case((2, 5, 6, 7), torch.float32, shared=shared, scaled=True)
    everything = inputs.to(torch.float32)
    gradients = torch.autograd.grad(everything.call(), everything.leaves(), inputs.dy)
    expected = dict(zip(everything.names(), gradients, strict=True))
    some = inputs.to(torch.float32)
    for name, leaf in zip(some.names(), some.leaves(), strict=True):
        leaf.requires_grad_(name.split("[")[0] in needed)
    torch.autograd.backward(some.call(), inputs.dy)
    for name, leaf in zip(some.names(), some.leaves(), strict=True):
        assert (leaf.grad is not None) == leaf.requires_grad
        assert leaf.grad is None or torch.equal(leaf.grad, expected[name])


@compiled_only
def test_one_weight_alone() -> None:
    inputs = case((2, 5, 6, 7), torch.float32, biased=False)
    everything = inputs.to(torch.float32)
    expected = torch.autograd.grad(everything.call(), everything.weights, inputs.dy)[1]
    inputs.weights[1].requires_grad_()
    (gradient,) = torch.autograd.grad(inputs.call(), inputs.weights[1], inputs.dy)
    assert torch.equal(gradient, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("low", ["nothing", "x", "everything", "scale"])
def test_autocast_gives_the_references_dtype(low: str, backend: str) -> None:
    inputs = case((2, 24, 5, 7), torch.float32, scaled=True)
    inputs = {
        "nothing": inputs,
        "x": replace(inputs, x=[t.bfloat16() for t in inputs.x]),
        "everything": inputs.to(torch.bfloat16),
        "scale": replace(inputs, scale=inputs.scale.bfloat16() if inputs.scale is not None else None),
    }[low]
    for leaf in inputs.leaves():
        leaf.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs, expected = inputs.call(backend), inputs.reference()
        double = case((1, 2, 3, 4), torch.float64)
        assert all(y.dtype == torch.float64 for y in double.call(backend))
    for y, want in zip(outputs, expected, strict=True):
        assert y.dtype == want.dtype == torch.bfloat16
        torch.testing.assert_close(y, want, rtol=2**-6, atol=2**-5)
    gradients = torch.autograd.grad(outputs, inputs.leaves(), [t.bfloat16() for t in inputs.dy])
    assert [g.dtype for g in gradients] == [t.dtype for t in inputs.leaves()]


@compiled_only
@pytest.mark.parametrize("shared", [True, False])
def test_gradcheck(shared: bool) -> None:
    inputs = case((2, 3, 3, 4), torch.float64, (3, 5), shared, scaled=True).to(torch.float64)

    def function(*leaves: Tensor) -> tuple[Tensor, ...]:
        *x, w0, w1, b0, b1, scale = leaves
        return multiscale_dwconv(x[0] if shared else x, [w0, w1], [b0, b1], scale, "cpu")

    assert torch.autograd.gradcheck(function, inputs.leaves())


@compiled_only
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
@pytest.mark.parametrize("shared", [True, False])
def test_opcheck(layout: str, shared: bool) -> None:
    inputs = case((2, 5, 3, 4), torch.float32, (3, 5), shared, scaled=True).stored([layout])
    arguments = (inputs.dy, inputs.x, inputs.weights)
    ops = torch.ops.aminet_fast
    for needs in [(True, True, True), (False, True, False), (True, False, False), (False, False, True)]:
        torch.library.opcheck(ops.multiscale_dwconv_bwd, (*arguments, inputs.scale, *needs))
    torch.library.opcheck(ops.multiscale_dwconv_bwd, (*arguments, None, True, True, False))
    x = [t.detach().requires_grad_() for t in inputs.x]  # still in its layout
    leaves = inputs.to(torch.float32)
    torch.library.opcheck(ops.multiscale_dwconv_fwd, (x, leaves.weights, leaves.biases, leaves.scale))
    torch.library.opcheck(ops.multiscale_dwconv_fwd, (x, leaves.weights, [torch.empty(0), leaves.biases[1]], None))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("dynamic", "autocast"), [(False, True), (True, False)])
def test_compiles_whole_and_once(backend: str, dynamic: bool, autocast: bool) -> None:
    torch._dynamo.reset()

    def twice(inputs: Case) -> tuple[Tensor, ...]:
        f = multiscale_dwconv(inputs.x[0], inputs.weights, [*inputs.biases[:2], None], backend=backend)
        return multiscale_dwconv(f, inputs.weights, inputs.biases, inputs.scale, backend)

    compiled = torch.compile(twice, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    # No side is a kernel's: the compiler would take them for one and the same number.
    sizes = [(2, 6, 11, 8)] * 2 if not dynamic else [(2, 6, 11, 8), (4, 6, 9, 13), (3, 6, 12, 10)]
    for seed, size in enumerate(sizes):
        inputs = case(size, torch.float32, scaled=True, seed=seed)
        one, other = inputs.to(torch.float32), inputs.to(torch.float32)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
                outputs = compiled(one)
            expected = twice(other)
        torch.testing.assert_close(outputs, expected, rtol=1e-6, atol=1e-6)
        dy = [t.to(y.dtype) for t, y in zip(inputs.dy, outputs, strict=True)]
        gradients = torch.autograd.grad(outputs, one.leaves(), dy)
        wanted = torch.autograd.grad(expected, other.leaves(), dy)
        # Plain PyTorch under autocast adds gradients in bfloat16, in an order of the compiler's choice.
        tolerance = 2**-4 if autocast and backend == "reference" else 1e-5
        torch.testing.assert_close(gradients, wanted, rtol=tolerance, atol=tolerance)


@compiled_only
def test_exports() -> None:
    class Branches(torch.nn.Module):
        def forward(self, x: Tensor, weights: list[Tensor], biases: list[Tensor], scale: Tensor) -> tuple[Tensor, ...]:
            return multiscale_dwconv(multiscale_dwconv(x, weights, biases), weights, biases, scale)

    inputs = case((2, 5, 6, 8), torch.float32, scaled=True)
    parameters = (inputs.weights, inputs.biases, inputs.scale)
    sides = {2: torch.export.Dim("height", min=2), 3: torch.export.Dim("width", min=2)}
    shapes = (sides, [None] * 3, [None] * 3, None)
    program = torch.export.export(Branches(), (inputs.x[0], *parameters), dynamic_shapes=shapes)
    assert "aminet_fast.multiscale_dwconv_fwd" in str(program.graph)
    x = torch.randn(2, 5, 3, 11)
    torch.testing.assert_close(program.module()(x, *parameters), Branches()(x, *parameters))


def test_shapes_without_data() -> None:
    x = torch.empty(2, 24, 5, 7, device="meta", dtype=torch.bfloat16)
    weights, biases = [torch.empty(24, 1, 3, 3, device="meta")], [torch.empty(24, device="meta")]
    (y,) = torch.ops.aminet_fast.multiscale_dwconv_fwd([x], weights, biases, None)
    assert (y.shape, y.dtype) == (x.shape, torch.bfloat16)
    assert y.is_contiguous(memory_format=torch.channels_last)


@compiled_only
def test_second_derivative_is_refused() -> None:
    inputs = case((1, 5, 3, 3), torch.float64, scaled=True).to(torch.float64)
    loss = sum(y.square().sum() for y in inputs.call())
    for gradient in torch.autograd.grad(loss, inputs.leaves(), create_graph=True):
        with pytest.raises(NotImplementedError, match=r"multiscale_dwconv has no second derivative.*reference"):
            gradient.sum().backward(retain_graph=True)


def test_refusals_name_the_argument() -> None:
    inputs = case((2, 5, 3, 4), torch.float32, (3, 5), scaled=True)
    (x,), w, b, a = inputs.x, inputs.weights, inputs.biases, inputs.scale
    assert a is not None
    for error, match, call in [
        (TypeError, r"x must be a tensor or a list of tensors, got NoneType", (None, w, b)),
        (TypeError, r"x must be one of float32.*got int64", (x.long(), w, b)),
        (ValueError, r"x must be \[N, C, H, W\].*\[0, 5, 3, 4\]", (x[:0], w, b)),
        (TypeError, r"x\[1\] must be a tensor, got float", ([x, 1.0], w, b)),
        (ValueError, r"x must be one tensor or 2, one for each of weights, got 3", ([x, x, x], w, b)),
        (ValueError, r"x\[1\] must be \[2, 5, 3, 4\].*\[2, 5, 3, 3\]", ([x, x[..., :3]], w, b)),
        (TypeError, r"x\[1\] must be float32.*bfloat16", ([x, x.bfloat16()], w, b)),
        (TypeError, r"weights must be a list, one for each branch, got float32", (x, w[0], b)),
        (TypeError, r"biases must be a list, one for each branch, got NoneType", (x, w, None)),
        (ValueError, r"one entry for each branch and at least one, got 0 and 0", (x, [], [])),
        (ValueError, r"one entry for each branch and at least one, got 2 and 1", (x, w, b[:1])),
        (TypeError, r"weights\[1\] must be a tensor, got NoneType", (x, [w[0], None], b)),
        (ValueError, r"weights\[1\] must be \[5, 1, 5, 5\].*\[4, 1, 5, 5\]", (x, [w[0], w[1][:4]], b)),
        (ValueError, r"weights\[1\] must be \[5, 1, K odd, K odd\].*\[5, 1, 4, 4\]", (x, [w[0], w[1][..., 1:, 1:]], b)),
        (ValueError, r"weights\[0\] must be \[5, 1, 3, 3\].*\[5, 1, 1, 3\]", (x, [w[0][:, :, :1], w[1]], b)),
        (TypeError, r"weights\[0\] must be float32, for x of torch.float32.*float64", (x, [w[0].double(), w[1]], b)),
        (TypeError, r"weights\[0\] must be bfloat16 or float32", (x.bfloat16(), [w[0].half(), w[1]], b)),
        (ValueError, r"biases\[1\] must be \[5\].*\[4\]", (x, w, [b[0], x.new_empty(4)])),
        (ValueError, r"biases\[0\] is on meta and x on cpu", (x, w, [x.new_empty(5, device="meta"), None])),
        (ValueError, r"scale must be \[2, 5, 1, 1\].*\[1, 5, 1, 1\]", (x, w, b, a[:1])),
        (TypeError, r"scale must be a tensor, got float", (x, w, b, 2.0)),
        (ValueError, r"backend='fastest' is unknown: use one of auto", (x, w, b, a, "fastest")),
    ]:
        with pytest.raises(error, match=match):
            multiscale_dwconv(*call)  # type: ignore[arg-type]


@compiled_only
def test_a_view_of_the_output_of_another_layer() -> None:
    """Channels sliced from a wider channels_last tensor, as after a 1x1 convolution to several parts."""
    wide = laid_out(torch.randn(2, 15, 6, 7), "channels_last").requires_grad_()
    inputs = case((2, 5, 6, 7), torch.float32)
    parts = wide.chunk(3, 1)
    outputs = multiscale_dwconv(parts, inputs.weights, inputs.biases, backend="cpu")
    expected = multiscale_dwconv(parts, inputs.weights, inputs.biases, backend="reference")
    torch.testing.assert_close(outputs, expected)
    gradients = (torch.autograd.grad(y, wide, inputs.dy)[0] for y in (outputs, expected))
    torch.testing.assert_close(*gradients)
