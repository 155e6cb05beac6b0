"""skaf_descriptor inside torch: autocast, compiling, export, what autograd asks for, and refusals."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from aminet_fast.ops import skaf_descriptor, skaf_descriptor_prepack
from aminet_fast.ops.skaf_descriptor import _check_packed
from aminet_fast.reference.skaf import skaf_descriptor_ref
from tests.harness.layouts import laid_out
from tests.ops.test_skaf_descriptor import BACKENDS, arguments, compiled_only, leaves

descriptor = importlib.import_module("aminet_fast.ops.skaf_descriptor")  # its name there is the function's


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_is_that_of_the_convolutions(backend: str) -> None:
    inputs = arguments((2, 24, 5, 7), torch.float32)
    x, weights, biases, all_ = leaves(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        m, expected = skaf_descriptor(x, weights, biases, backend=backend), skaf_descriptor_ref(x, weights, biases)
        double = arguments((1, 2, 3, 4), torch.float64)[:3]
        assert skaf_descriptor(*double, backend=backend).dtype == torch.float64
    assert m.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(m, expected, rtol=2**-7, atol=2**-7)
    gradients = torch.autograd.grad(m, all_, inputs[3].bfloat16())
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients)


@compiled_only
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced"])
def test_opcheck(layout: str) -> None:
    x, weights, biases, dm = arguments((2, 5, 6, 4), torch.float32, (3, 5))
    x, weights = laid_out(x, layout), [laid_out(w, layout) for w in weights]
    ops = torch.ops.aminet_fast
    argmax = ops.skaf_descriptor_fwd(x, weights, biases)[1]
    torch.library.opcheck(ops.skaf_descriptor_bwd_input, (dm, argmax, weights))
    torch.library.opcheck(ops.skaf_descriptor_bwd_packed, (dm, argmax, weights, dm.flatten()))
    torch.library.opcheck(ops.skaf_descriptor_bwd_parameters, (dm, x, argmax, weights))
    torch.library.opcheck(ops.skaf_descriptor_fwd, leaves((x, weights, biases, dm))[:3])


def test_what_weights_are_packed_into_on_cuda_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptor, "_packs_on", lambda device: True)
    monkeypatch.setattr(descriptor.backends, "choose", lambda *_: "triton")
    with FakeTensorMode():
        single = [torch.empty(4, 6, k, k, device="cuda") for k in (3, 5)]
        half = [w.half() for w in single]
        for weights, dtype, wanted in [
            (single, None, torch.bfloat16),
            (single, torch.float32, torch.float32),
            (single, torch.float16, torch.float16),
            (half, None, torch.float16),
        ]:
            packed = skaf_descriptor_prepack(weights, dtype)
            assert (packed.dtype, packed.shape) == (wanted, ((4 + 4 + 1) * 5 * 5 * 6,))
            _check_packed(packed, weights)
        assert skaf_descriptor_prepack(half, torch.bfloat16) is None
        assert skaf_descriptor_prepack(single, torch.float64) is None
        with pytest.raises(ValueError, match=r"must be skaf_descriptor_prepack of weights, got bfloat16 \[1350\]"):
            _check_packed(skaf_descriptor_prepack(single), half)
        with pytest.raises(TypeError, match=r"packed must be a 1-d floating-point tensor or None, got int32"):
            _check_packed(torch.empty(1350, dtype=torch.int32, device="cuda"), single)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_whole_and_once(backend: str, dynamic: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(skaf_descriptor, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    # No side is a kernel's: the compiler would take them for one and the same number.
    sizes = [(2, 6, 11, 8), (2, 6, 11, 8)] if not dynamic else [(2, 6, 11, 8), (3, 6, 9, 4), (4, 6, 12, 7)]
    for seed, size in enumerate(sizes):
        inputs = arguments(size, torch.float32, (3, 5), seed=seed)
        one, other = leaves(inputs), leaves(inputs)
        with torch.compiler.set_stance("fail_on_recompile" if seed else "default"):
            m = compiled(*one[:3], backend=backend)
        expected = skaf_descriptor(*other[:3], backend=backend)
        torch.testing.assert_close(m, expected, rtol=1e-6, atol=1e-6)
        gradients = torch.autograd.grad(m, one[3], inputs[3]), torch.autograd.grad(expected, other[3], inputs[3])
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


@compiled_only
def test_exports() -> None:
    class Descriptor(torch.nn.Module):
        def forward(self, x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
            return skaf_descriptor(x, weights, biases)

    x, weights, biases, _ = arguments((2, 5, 6, 8), torch.float32, (3, 5))
    sides = {2: torch.export.Dim("height", min=2), 3: torch.export.Dim("width", min=2)}
    shapes = (sides, [None, None], [None, None])
    program = torch.export.export(Descriptor(), (x, weights, biases), dynamic_shapes=shapes)
    assert "aminet_fast.skaf_descriptor_fwd" in str(program.graph)
    other = arguments((2, 5, 3, 11), torch.float32)[0]
    torch.testing.assert_close(program.module()(other, weights, biases), skaf_descriptor(other, weights, biases))


@compiled_only
@pytest.mark.parametrize("needed", ["x", "weights", "biases"])
def test_only_what_is_needed_is_computed(needed: str) -> None:
    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            called.add(func._opname)
            return func(*args, **(kwargs or {}))

    x, weights, biases, dm = arguments((2, 5, 6, 4), torch.float32, (3, 5))
    called: set[str] = set()
    wanted = {"x": x, "weights": weights[1], "biases": biases[0]}[needed].requires_grad_()
    m = skaf_descriptor(x, weights, biases, backend="cpu")
    with Names():
        m.backward(dm)
    assert wanted.grad is not None
    operator = "skaf_descriptor_bwd_input" if needed == "x" else "skaf_descriptor_bwd_parameters"
    assert {name for name in called if "skaf" in name} == {operator}


@compiled_only
def test_second_derivative_is_refused() -> None:
    x, weights, biases, _ = arguments((1, 3, 4, 4), torch.float64)
    _, _, _, all_ = one = leaves((x, weights, biases, x))
    m = skaf_descriptor(*one[:3], backend="cpu")
    for gradient in torch.autograd.grad(m.square().sum(), all_, create_graph=True):
        with pytest.raises(NotImplementedError, match=r"skaf_descriptor has no second derivative.*reference"):
            gradient.sum().backward(retain_graph=True)


def test_shapes_without_data() -> None:
    x, weights = torch.empty(2, 24, 5, 7, device="meta"), [torch.empty(8, 24, 3, 3, device="meta")]
    m, argmax = torch.ops.aminet_fast.skaf_descriptor_fwd(x, weights, [torch.empty(8, device="meta")])
    assert (m.shape, argmax.shape, argmax.dtype) == ((2, 2, 5, 7), (2, 5, 7), torch.int32)


def test_refusals_name_the_argument() -> None:
    x, w, b, _ = arguments((2, 5, 3, 4), torch.float32)
    for error, match, call in [
        (TypeError, r"x must be one of float32.*got int64", (x.long(), w, b)),
        (ValueError, r"x must be \[N, C, H, W\].*\[0, 5, 3, 4\]", (x[:0], w, b)),
        (TypeError, r"weights must be a list of tensors, got float32", (x, w[0], b)),
        (TypeError, r"biases must be a list of tensors, got list of NoneType", (x, w, [None, None])),
        (ValueError, r"one entry for each convolution and at least one, got 0 and 0", (x, [], [])),
        (ValueError, r"one entry for each convolution and at least one, got 2 and 1", (x, w, b[:1])),
        (ValueError, r"weights\[1\] must be \[C_k, 5, k, k\] of odd k.*\[5, 4, 7, 7\]", (x, [w[0], w[1][:, :4]], b)),
        (ValueError, r"weights\[0\] must be .* odd k.*\[5, 5, 4, 4\]", (x, [w[0][..., :4, :4], w[1]], b)),
        (ValueError, r"weights\[0\] must be .* odd k.*\[5, 5, 5\]", (x, [w[0][0], w[1]], b)),
        (ValueError, r"biases\[1\] must be \[5\].*\[4\]", (x, w, [b[0], b[1][:4]])),
        (TypeError, r"weights\[0\] must have x's dtype.*float64", (x, [w[0].double(), w[1]], b)),
        (ValueError, r"biases\[0\] is on meta and x on cpu", (x, w, [b[0].to("meta"), b[1]])),
        (ValueError, r"backend='fastest' is unknown: use one of auto", (x, w, b, "fastest")),
    ]:
        with pytest.raises(error, match=match):
            skaf_descriptor(*call)  # type: ignore[arg-type]
