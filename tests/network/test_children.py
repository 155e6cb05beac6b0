"""Fast modules whose children were wrapped, replaced, hooked or retyped compute what the reference does with those."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from aminet_fast import AMINet, AMINetConfig, accelerate, decelerate, freeze, get_config, list_configs
from aminet_fast.network import modules
from aminet_fast.network.children import Fused
from aminet_fast.ops import backends
from aminet_fast.reference.edff import EDFF
from aminet_fast.reference.lgfi import LGFI

CONFIG = AMINetConfig(width=4, heads=(1, 1, 2, 2), hourglass_width=4)

CONVOLUTIONS = (
    "edff.0.reduce", "enc.0.sa.qkv", "enc.0.sa.qkv_dw", "enc.0.sa.proj",
    "enc.0.rdfe.dw1.1", "enc.0.rdfe.dw2.2", "enc.0.rdfe.au.reduce", "enc.0.rdfe.au.expand", "enc.0.rdfe.fuse",
    "enc.0.rdfe.frm.conv.1", "enc.0.rdfe.frm.hourglass.b2.0.conv", "enc.0.rdfe.frm.hourglass.b3.0.conv",
    "enc.0.rdfe.frm.hourglass.out", "enc.0.skaf.convs.0", "enc.0.skaf.mix", "edff.0.skaf.convs.1", "edff.0.skaf.mix",
)  # fmt: skip
NORMS = ("enc.0.rdfe.frm.bn.0", "enc.0.rdfe.frm.bn.2", "enc.0.rdfe.frm.hourglass.plus.bn")


class Part(nn.Module):
    """One of each module: LGFI with all that is in it, and EDFF: [N, 4, H, W] -> [N, 4, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = nn.ModuleList([LGFI(4, 2, CONFIG)])
        self.edff = nn.ModuleList([EDFF(4, CONFIG)])

    def forward(self, x: Tensor) -> Tensor:
        return self.edff[0](x, self.enc[0](x))


class Halved(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 2


class LoRA(nn.Module):
    """A frozen convolution and a trained one of rank 2 beside it."""

    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Conv2d(base.in_channels, 2, base.kernel_size, base.stride, base.padding, bias=False)
        self.b = nn.Conv2d(2, base.out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.b(self.a(x))


class Doubled(nn.Parameter):
    """As quantised weights are: what it stands for is known to itself alone."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if function in (F.conv2d, torch.conv2d):
                args = [2 * a if isinstance(a, Doubled) else a for a in args]
            return function(*args, **(kwargs or {}))


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def halved(model: nn.Module, name: str) -> None:
    conv = model.get_submodule(name)
    conv.__class__ = Halved


def lora(model: nn.Module, name: str) -> None:
    torch.manual_seed(3)
    put(model, name, LoRA(model.get_submodule(name)))


def pruned(model: nn.Module, name: str) -> None:
    prune.l1_unstructured(model.get_submodule(name), "weight", 0.5)


def normed(model: nn.Module, name: str) -> None:
    nn.utils.weight_norm(model.get_submodule(name))


def spectral(model: nn.Module, name: str) -> None:
    torch.manual_seed(3)
    nn.utils.spectral_norm(model.get_submodule(name))


def parametrized(model: nn.Module, name: str) -> None:
    """Each look at the weight in training moves the estimate of its norm on."""
    torch.manual_seed(3)
    nn.utils.parametrizations.spectral_norm(model.get_submodule(name))


def hooked(model: nn.Module, name: str) -> None:
    model.get_submodule(name).register_forward_hook(lambda module, given, output: output * 0.5)


def hooked_before(model: nn.Module, name: str) -> None:
    model.get_submodule(name).register_forward_pre_hook(lambda module, given: (given[0] * 0.5,))


def hooked_backward(model: nn.Module, name: str) -> None:
    model.get_submodule(name).register_full_backward_hook(lambda module, given, output: (given[0] * 0.5,))


def overridden(model: nn.Module, name: str) -> None:
    conv = model.get_submodule(name)
    conv.forward = MethodType(lambda self, x: nn.Conv2d.forward(self, x) * 0.5, conv)  # type: ignore[method-assign]


def seamless(model: nn.Module, name: str) -> None:
    """As people make a network draw textures that tile."""
    conv: Any = model.get_submodule(name)
    conv.padding_mode, conv._reversed_padding_repeated_twice = "circular", [conv.padding[0]] * 4


def patched(model: nn.Module, name: str) -> None:
    conv: Any = model.get_submodule(name)
    conv._conv_forward = MethodType(
        lambda self, x, weight, bias: nn.Conv2d._conv_forward(self, x, weight, bias) * 0.5, conv
    )


def retyped(model: nn.Module, name: str) -> None:
    conv: Any = model.get_submodule(name)
    conv.weight = Doubled(conv.weight.detach().clone())


def followed(model: nn.Module, name: str) -> None:
    put(model, name, nn.Sequential(model.get_submodule(name), nn.Hardtanh(-0.5, 0.5)))


CHANGES = (
    halved, lora, pruned, normed, spectral, parametrized, hooked, hooked_before, hooked_backward, overridden, seamless,
    patched, retyped, followed,
)  # fmt: skip


def a_pair() -> tuple[Part, Part]:
    """The same modules of float64, fast and plain."""
    torch.manual_seed(0)
    plain = Part().double()
    return accelerate(copy.deepcopy(plain)), plain


def an_input() -> Tensor:
    return torch.randn(2, 4, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def agree(fast: nn.Module, plain: nn.Module, x: Tensor) -> None:
    """Outputs, gradients of the input and of all parameters, and buffers after a step of training; then evaluation."""
    gradients = []
    for network in (fast, plain):
        network.train().zero_grad()
        given = x.clone().requires_grad_(True)
        y = network(given)
        y.square().mean().backward()
        of_all = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
        gradients.append({"output": y.detach(), "input": given.grad, **of_all, **dict(network.named_buffers())})
    assert list(gradients[0]) == list(gradients[1])
    for name, found in gradients[0].items():
        expected = gradients[1][name]
        torch.testing.assert_close(
            found.double().as_subclass(Tensor), expected.double().as_subclass(Tensor), rtol=1e-7, atol=1e-9, msg=name
        )
    torch.testing.assert_close(fast.eval()(x), plain.eval()(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changed_convolutions(change: Callable[[nn.Module, str], None]) -> None:
    fast, plain = a_pair()
    x = an_input()
    untouched = fast.eval()(x)
    fast.train()
    for network in (fast, plain):
        for name in CONVOLUTIONS:
            change(network, name)
    agree(fast.double(), plain.double(), x)
    assert (fast(x) - untouched).abs().max() > 1e-6 or change in (normed, hooked_backward)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_adapters_learn(name: str) -> None:
    fast, plain = a_pair()
    for network in (fast, plain):
        lora(network, name)
    agree(fast.double(), plain.double(), an_input())
    assert fast.get_submodule(name).b.weight.grad is not None  # type: ignore[union-attr]


def test_edges_too() -> None:
    """What torch's own convolutions compute between the modules, in the whole network."""
    torch.manual_seed(0)
    plain = AMINet(CONFIG, backend="reference")
    fast = accelerate(copy.deepcopy(plain))
    x = torch.randn(2, 3, 32, 32)
    for network in (fast, plain):
        for name in ("head", "down.0", "up.0.0", "edff.0.reduce", "tail"):
            lora(network, name)
            hooked(network, name)
        network(x).square().mean().backward()
    for (name, found), expected in zip(fast.named_parameters(), plain.parameters(), strict=True):
        if expected.grad is None:
            assert found.grad is None, name
        else:
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-5, msg=name)
    torch.testing.assert_close(fast.eval()(x), plain.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "norm",
    [
        lambda c: nn.GroupNorm(2, c), lambda c: nn.Identity(), lambda c: nn.InstanceNorm2d(c, affine=True),
        lambda c: nn.BatchNorm2d(c, affine=False), lambda c: nn.BatchNorm2d(c, track_running_stats=False),
        lambda c: nn.BatchNorm2d(c, momentum=None, eps=1e-3), lambda c: nn.Sequential(nn.BatchNorm2d(c), nn.Dropout(0)),
    ],
    ids=["group", "identity", "instance", "no affine", "untracked", "average", "sequential"],
)  # fmt: skip
def test_other_normalisations(norm: Callable[[int], nn.Module]) -> None:
    fast, plain = a_pair()
    for network in (fast, plain):
        for name in NORMS:
            put(network, name, norm(4).double())
    agree(fast, plain, an_input())


def test_pruned_networks_go_on_training() -> None:
    fast, plain = a_pair()
    x = an_input()
    for network in (fast, plain):
        for name in CONVOLUTIONS:
            pruned(network, name)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(fast(x), plain(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_accelerate_keeps_the_numbers_of_a_changed_network(change: Callable[[nn.Module, str], None]) -> None:
    _, plain = a_pair()
    x = an_input()
    for name in CONVOLUTIONS:
        change(plain, name)
    expected = plain.double().eval()(x)
    torch.testing.assert_close(accelerate(plain)(x), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(freeze(plain)(x), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(decelerate(plain)(x), expected, rtol=1e-9, atol=1e-9)


def fused(model: nn.Module) -> dict[str, bool]:
    return {name: module.fits() for name, module in model.named_modules() if isinstance(module, Fused)}


def test_what_changes_back_is_fast_again() -> None:
    model, _ = a_pair()
    qkv = model.enc[0].sa.qkv
    for change, undo in (
        (lambda: qkv.register_forward_hook(lambda *_: None), lambda handle: handle.remove()),
        (lambda: put(model, "enc.0.sa.qkv", LoRA(qkv)), lambda _: put(model, "enc.0.sa.qkv", qkv)),
        (lambda: seamless(model, "enc.0.sa.qkv"), lambda _: setattr(qkv, "padding_mode", "zeros")),
    ):
        undo_of = change()  # type: ignore[no-untyped-call]
        assert [name for name, fits in fused(model).items() if not fits] == ["enc.0.sa"]
        undo(undo_of)  # type: ignore[no-untyped-call]
        assert all(fused(model).values())


def test_only_the_module_around_it_is_plain() -> None:
    model, _ = a_pair()
    assert fused(model) == dict.fromkeys(
        ("enc.0", "enc.0.norm", "enc.0.sa", "enc.0.rdfe", "enc.0.rdfe.frm", "edff.0"), True
    )
    for name, around in (
        ("enc.0.rdfe.frm.bn.1", "enc.0.rdfe.frm"),
        ("enc.0.rdfe.dw2.0", "enc.0.rdfe"),
        ("enc.0.skaf.mix", "enc.0"),
        ("edff.0.skaf.convs.0", "edff.0"),
    ):
        one, _ = a_pair()
        hooked(one, name)
        assert [part for part, fits in fused(one).items() if not fits] == [around]


@pytest.mark.parametrize("name", list_configs())
def test_as_they_are_built_all_fit(name: str, caplog: pytest.LogCaptureFixture) -> None:
    config = get_config(name).replace(width=4, heads=(1, 1, 2, 2), hourglass_width=4)
    model = AMINet(config)
    with caplog.at_level(logging.WARNING, "aminet_fast"):
        assert all(fused(model).values())
        for conv in model.modules():
            if type(conv) is nn.Conv2d:
                parametrize.register_parametrization(conv, "weight", nn.Identity())
        assert all(fused(model).values())
    assert not [record for record in caplog.records if "runs as the reference" in record.message]


def test_a_line_says_why(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(backends, "_logged", set())
    model = AMINet(CONFIG)
    lora(model, "enc.0.sa.qkv")
    lora(model, "enc.1.sa.qkv")
    pruned(model, "enc.0.rdfe.frm.conv.0")
    put(model, "enc.0.rdfe.frm.hourglass.plus.bn", nn.GroupNorm(2, 4))
    retyped(model, "mid.0.skaf.mix")
    seamless(model, "mid.1.rdfe.dw1.0")
    overridden(model, "mid.1.rdfe.frm.hourglass.out")
    with caplog.at_level(logging.WARNING, "aminet_fast"):
        for _ in range(2):
            fused(model)
    lines = [record.message.partition(" (")[0] for record in caplog.records if "runs as" in record.message]
    assert lines == [
        "FastSelfAttention runs as the reference: its qkv is a LoRA, not a Conv2d",
        "FastFeatureRefinement runs as the reference: its conv.0 has hooks",
        "FastLGFI runs as the reference: its skaf.mix has a Doubled as its weight",
        "FastRDFE runs as the reference: its dw1.0 has padding_mode='circular', not 'zeros'",
        "FastFeatureRefinement runs as the reference: its hourglass.out has a forward of its own",
    ]


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_copies_have_an_opinion_of_their_own(way: str) -> None:
    model, _ = a_pair()
    assert all(fused(model).values())
    copied = copy.deepcopy(model) if way == "deepcopy" else pickle.loads(pickle.dumps(model))
    lora(copied, "enc.0.sa.qkv")
    assert not fused(copied)["enc.0.sa"]
    assert all(fused(model).values())
    assert all(fused(copy.copy(model)).values())


def test_a_weight_is_read_once_a_pass() -> None:
    """A parametrization is a computation: twice would cost twice, and move what it learns twice."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reads = 0

        def forward(self, weight: Tensor) -> Tensor:
            self.reads += 1
            return weight

    model, plain = a_pair()
    counters: dict[str, list[Counting]] = {"fast": [], "plain": []}
    for kind, network in (("fast", model), ("plain", plain)):
        for module in [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]:
            counters[kind].append(Counting())
            parametrize.register_parametrization(module, "weight", counters[kind][-1])
        for counter in counters[kind]:
            counter.reads = 0
        network(an_input())
    assert all(fused(model).values())
    assert {counter.reads for counter in counters["plain"]} == {1}
    assert {counter.reads for counter in counters["fast"]} == {1}


def test_compiled_and_exported() -> None:
    """Of four modules the one with a hook runs as the reference, in one graph with the others."""
    fast, plain = (network.eval().enc[0] for network in a_pair())
    for network in (fast, plain):
        hooked(network, "sa.qkv")
    x = torch.randn(2, 4, 16, 16, dtype=torch.float64)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(fast, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), plain(x), rtol=1e-9, atol=1e-9)
        exported = torch.export.export(fast, (x,), strict=False).module()
        torch.testing.assert_close(exported(x), plain(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", [None, "reference"])
def test_no_images(backend: str | None) -> None:
    model = AMINet(CONFIG, backend).eval()
    x = torch.zeros(0, 3, 32, 16)
    y = model(x)
    assert (y.shape, y.dtype) == ((0, 3, 32, 16), torch.float32)
    assert freeze(model)(x).shape == (0, 3, 32, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(x).shape == (0, 3, 32, 16)


def test_the_operators_are_those_of_the_modules() -> None:
    """Each module of `accelerate` asks about its children."""
    for classes in modules.FAST.values():
        assert all(issubclass(fast, Fused) for fast in classes.values())
