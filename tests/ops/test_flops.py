"""`torch.utils.flop_counter` counts of fast networks and operators what it counts of their references."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from aminet_fast import AMINet, AMINetConfig, accelerate, freeze, ops
from aminet_fast.ops import _flops, backends
from aminet_fast.ops._library import NAMESPACE
from aminet_fast.reference.aminet import slot
from aminet_fast.reference.edff import EDFF


def counted(run: Callable[[], Any]) -> FlopCounterMode:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter


def total(run: Callable[[], Any]) -> int:
    return counted(run).get_total_flops()


def both(config: str) -> tuple[AMINet, AMINet]:
    return AMINet(config), AMINet(config, backend="reference")


class Stage(nn.Module):
    """One of each module that has operators: [N, 4, H, W] -> [N, 4, H, W]."""

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        config = AMINetConfig(width=4, hourglass_width=3, **changes)
        self.block = slot(4, 2, config)
        self.edff = EDFF(4, config)

    def forward(self, x: Tensor) -> Tensor:
        return self.edff(x, self.block(x))


def stages(**changes: Any) -> tuple[nn.Module, nn.Module]:
    """Fast, and plain."""
    return accelerate(Stage(**changes)), Stage(**changes)


def test_every_registered_operator_has_a_formula() -> None:
    names = {name.partition(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    registered = {name.removeprefix(f"{NAMESPACE}::") for name in names if name.startswith(f"{NAMESPACE}::")}
    assert {f"{operator}_fwd" for operator in backends.operators()} <= registered
    registry = FlopCounterMode(display=False).flop_registry
    assert [name for name in sorted(registered) if getattr(torch.ops.aminet_fast, name) not in registry] == []


@pytest.mark.parametrize(("height", "width", "n", "training"), [(32, 32, 2, True), (48, 16, 1, False)])
def test_a_network_counts_as_its_reference(height: int, width: int, n: int, training: bool) -> None:
    fast, plain = (net.train(training) for net in both("aminet-nano"))
    x = torch.rand(n, 3, height, width) * 2 - 1
    with torch.no_grad():
        assert total(lambda: fast(x)) == total(lambda: plain(x)) > 1e7
    ours, theirs = (counted(lambda net=net: net(x).sum().backward()) for net in (fast, plain))
    assert ours.get_total_flops() == theirs.get_total_flops() > 2e7
    # And every part that both call as a module; forward's alone, as backward's are where autograd meets them.
    a, b = (counted(lambda net=net: net.eval()(x)).get_flop_counts() for net in (fast, plain))
    shared = {name for name in a.keys() & b.keys() if name.count(".") <= 2}
    assert {"AMINet.enc.0", "AMINet.dec.2", "AMINet.edff.1"} <= shared
    for name in shared:
        assert sum(a[name].values()) == sum(b[name].values()), name


ABLATIONS: list[dict[str, Any]] = [
    {"attention_scale": "sqrt"},
    {"attention_unit": "none"},
    {"attention_unit": "pixel", "dw_twice": False},
    {"rdfe_kernels": [5]},
    {"skaf_kernels": [3, 9], "skaf_conv": "half"},
    {"skaf_mix": False},
    {"frm_convs": 3, "hourglass_depth": 1},
    {"hourglass_depth": 2},
    {"frm": False, "lgfi_merge": "concat"},
    {"sa": False},
    {"local": "ffn", "ffn_depth": 1},
    {"skaf": "none"},
    {"block": "transformer", "transformer_depth": 1},
]


@pytest.mark.parametrize("changes", ABLATIONS, ids=str)
def test_ablations_that_still_have_operators(changes: dict[str, Any]) -> None:
    fast, plain = stages(**changes)
    x = torch.rand(2, 4, 8, 12)
    assert total(lambda: fast(x).sum().backward()) == total(lambda: plain(x).sum().backward()) > 0


@pytest.mark.parametrize("seed", range(8))
def test_frozen_parts_count_as_in_the_reference(seed: int) -> None:
    """Few or many of them, with or without a gradient of the input."""
    fast, plain = stages()
    draw = random.Random(seed)
    share = (0.02, 0.2, 0.5, 0.9)[seed % 4]
    for name, parameter in plain.named_parameters():
        parameter.requires_grad_(draw.random() < share)
        fast.get_parameter(name).requires_grad_(parameter.requires_grad)
    x = torch.rand(2, 4, 6, 4).requires_grad_(seed % 2 == 0)
    assert total(lambda: fast(x).sum().backward()) == total(lambda: plain(x).sum().backward()) > 0


def parameters(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.rand(shape) for shape in shapes]


def depthwise(sizes: tuple[int, ...], c: int) -> tuple[list[Tensor], list[Tensor]]:
    return [torch.rand(c, 1, k, k) for k in sizes], [torch.rand(c) for _ in sizes]


def front(n: int, c: int, h: int, w: int) -> tuple[list[Any], Callable[..., Any]]:
    weights, biases = depthwise((3, 5, 7), c)
    unit = parameters((3, 3 * c, 1, 1), (3,), (c, 3, 1, 1), (c,))
    second, second_biases = depthwise((3, 5, 7), c)
    fuse = parameters((c, 3 * c, 1, 1), (c,))
    return [torch.rand(n, c, h, w), weights, biases, *unit, second, second_biases, *fuse], ops.rdfe_front


def call_of(operator: str, n: int, c: int, h: int, w: int) -> tuple[list[Any], Callable[..., Any]]:
    """Arguments, and the operator on them: (arguments, backend) -> what has a gradient."""
    image = torch.rand(n, c, h, w)
    match operator:
        case "channel_attention":
            weights = parameters((3 * c, c, 1, 1), (3 * c, 1, 3, 3), (2, 1, 1), (c, c, 1, 1))
            return [image, *weights], lambda *a, backend: ops.channel_attention(*a, 2, backend)
        case "rdfe_front":
            return front(n, c, h, w)
        case "multiscale_dwconv":
            arguments = [[image, *parameters(image.shape, image.shape)], *depthwise((3, 5, 7), c)]
            scaled = [*arguments, torch.rand(n, c, 1, 1)]
            return scaled, lambda *a, backend: sum(ops.multiscale_dwconv(*a, backend))
        case "multiscale_dwconv of one":
            return [image, *depthwise((1, 5), c)], lambda *a, backend: sum(ops.multiscale_dwconv(*a, None, backend))
        case "skaf_descriptor":
            weights = parameters((c, c, 5, 5), (3, c, 7, 7)), parameters((c,), (3,))
            return [image, *weights], ops.skaf_descriptor
        case "skaf_gate":
            gate = parameters((n, 2, h, w), (2, 2, 7, 7), (2,))
            return [*gate, image, torch.rand(image.shape), torch.rand(image.shape)], ops.skaf_gate
        case "norm_act_conv":
            arguments = [image, *parameters((c,), (c,), (5, c, 3, 3))]
            return arguments, lambda *a, backend: ops.norm_act_conv(*a, 0.2, 2, "reflect", True, backend=backend)[0]
        case "hourglass_gate":
            affine = parameters((c,), (c,), (n, 3, h, w), (3,), (3,), (n, 3, h, w), (3,), (3,), (1, 3, 3, 3), (1,))
            return [image, torch.rand(image.shape), *affine], ops.hourglass_gate
    raise AssertionError(operator)


def leaves(arguments: list[Any]) -> list[Tensor]:
    return [t for a in arguments for t in (a if isinstance(a, list) else [a])]


OPERATORS = [name.removesuffix("_fwd") for name in (f.__name__ for f in _flops.FORMULAS) if name.endswith("_fwd")]


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (2, 4, 5, 7), (3, 6, 8, 1)], ids=str)
@pytest.mark.parametrize("operator", [*OPERATORS, "multiscale_dwconv of one"])
def test_an_operator_counts_as_its_reference_whatever_needs_a_gradient(
    operator: str, shape: tuple[int, int, int, int]
) -> None:
    arguments, call = call_of(operator, *shape)
    tensors = leaves(arguments)
    draw = random.Random(f"{operator} {shape}")
    alone = [[i == k for i in range(len(tensors))] for k in range(len(tensors))]
    drawn = [[draw.random() < share for _ in tensors] for share in (0.3, 0.7)]
    for needs in [*alone, *drawn, [True] * len(tensors), [False] * len(tensors)]:
        for tensor, need in zip(tensors, needs, strict=True):
            tensor.requires_grad_(need)

        def run(backend: str | None, backward: bool = any(needs)) -> None:
            y = call(*arguments, backend=backend)
            if backward:
                y.sum().backward()

        assert total(lambda: run(None)) == total(lambda: run("reference")) > 0, needs


@pytest.mark.parametrize("operator", ["layer_norm2d", "channel_moments", "batch_norm_affine"])
def test_norms_count_nothing_as_torchs_own_do(operator: str) -> None:
    x, v = torch.rand(2, 4, 3, 5, requires_grad=True), torch.rand(4, requires_grad=True)
    runs = {
        "layer_norm2d": lambda: ops.layer_norm2d(x, v, v).sum().backward(),
        "channel_moments": lambda: sum(ops.channel_moments(x)).sum().backward(),
        "batch_norm_affine": lambda: sum(ops.batch_norm_affine(v, v, v, v)[0]).sum().backward(),
    }
    counter = counted(runs[operator])
    assert counter.get_total_flops() == 0
    assert any(operator in str(packet) for packet in counter.get_flop_counts()["Global"])


def test_frozen_weights_and_fake_tensors() -> None:
    fast, plain = (net.eval().requires_grad_(False) for net in both("aminet-nano"))
    x = torch.rand(1, 3, 32, 32)
    wanted = total(lambda: plain(x))
    freeze(fast)
    assert total(lambda: fast(x)) == wanted
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert total(lambda: fast(mode.from_tensor(x))) == wanted


def test_torch_compiles_nothing_under_the_counter() -> None:
    fast, plain = stages()
    x = torch.rand(2, 4, 8, 12)
    fast.compile(backend="aot_eager")
    assert total(lambda: fast(x).sum().backward()) == total(lambda: plain(x).sum().backward()) > 0
