"""The network under autocast: images in its dtype from the first operator to the last, and no less exact for it."""

from __future__ import annotations

import copy
import math
import re
from collections import defaultdict
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from aminet_fast import AMINet, AMINetConfig, get_config, reference
from tests.network.test_model_parity import TINY, pair
from tests.ops.autocast_calls import kept_for_backward
from tests.ops.cudas_autocast import CudasAutocast
from tests.ops.layer_norm2d_inputs import compiled_only

LOW = pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
# A batch whose numbers of pixels, 1001 = 7 * 11 * 13 times a power of four, are told apart from weights and sums.
BATCH, HEIGHT, WIDTH = 7, 176, 208
SIZES = [(HEIGHT >> level, WIDTH >> level) for level in range(5)]
PIXELS = [BATCH * h * w for h, w in SIZES]
# Sums that one launch begins and the next one ends: of nine taps before the hourglass's sigmoid, and of parts of a
# convolution before SKAF's maximum, whose place rounding would change. The kernels say what rounding was seen to do.
UNFINISHED = {("hourglass_gate_fwd", (9,)), ("skaf_descriptor_fwd", (1, 192)), ("skaf_descriptor_fwd", (1, 384))}


@pytest.fixture
def autocast_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.autocast("cuda") does nothing where there is no GPU, unless it is told otherwise."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)


def beside_pixels(t: Tensor) -> tuple[int, ...]:
    """The sizes of what t has for each pixel: (C,) for an image; () where it is none."""
    shape = tuple(t.shape)
    if len(shape) == 4 and shape[0] == BATCH:
        for c, *size in (shape[1:], (shape[3], *shape[1:3])):
            if tuple(size) in SIZES:
                return (c,)
    for pixels in PIXELS[:-1]:  # sums are cut into 1001 parts, too
        if pixels in shape:
            return tuple(size for size in shape if size != pixels)
    return ()


def image_in_float32(t: Tensor) -> bool:
    """But not the network's own, of three channels."""
    return t.dtype == torch.float32 and math.prod(beside_pixels(t)) > 3


@compiled_only
def test_a_step_on_cuda_devices_has_no_float32_image(autocast_without_a_gpu: None) -> None:
    """In what autograd keeps, in torch's own functions, and in launches of Triton's kernels, which are not compiled."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from tests.harness.triton.backward import gradients
    from tests.harness.triton.seen import Seen

    with FakeTensorMode(), Seen() as seen:
        with torch.device("cuda"):
            model, x = AMINet().train(), torch.empty(BATCH, 3, HEIGHT, WIDTH)
        x = x.contiguous(memory_format=torch.channels_last)
        seen.calls.clear()
        with kept_for_backward() as kept, torch.autocast("cuda", torch.bfloat16):
            y = model(x)
        loss = torch.nn.functional.l1_loss(y, torch.empty_like(y))
        found = gradients([loss], list(model.parameters()), [torch.empty_like(loss)])
    assert y.dtype == torch.float32
    assert all(g is not None and g.dtype == torch.float32 for g in found)
    images = [t for t in kept if math.prod(beside_pixels(t)) > 3]
    assert len(images) > 100
    assert {t.dtype for t in images} == {torch.bfloat16}
    met = {
        (call.operator, beside_pixels(t))
        for call in seen.calls
        for t in (*call.given, *call.made)
        if image_in_float32(t)
    }
    assert met == UNFINISHED
    casts = [call for call in seen.calls if call.cast_bytes and any(beside_pixels(t) for t in call.given)]
    share = 32 * 128 * 128 / (BATCH * HEIGHT * WIDTH)
    # The network's image on its way in, and the gradient of its output: 9.4 MB each at batch 32.
    assert [tuple(call.given[0].shape) for call in casts] == [(BATCH, 3, HEIGHT, WIDTH)] * 2
    assert sum(call.cast_bytes for call in casts) * share < 0.1e9


@compiled_only
@LOW
@pytest.mark.parametrize("enters", ["float32", "autocast's"])
def test_dtypes_on_the_cpu(low: torch.dtype, enters: str) -> None:
    """And the output is added to the picture in the picture's dtype, as in plain PyTorch."""
    model, _ = pair(AMINetConfig(width=8, hourglass_width=16), torch.float32)
    x = torch.randn(1, 3, 96, 64).to(torch.float32 if enters == "float32" else low).requires_grad_()
    with kept_for_backward() as kept, torch.autocast("cpu", low):
        y = model.train()(x)
    assert y.dtype == x.dtype
    y.float().square().mean().backward()
    assert x.grad is not None
    assert x.grad.dtype == x.dtype
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    own = {p.shape for p in model.parameters()}
    wide = {
        tuple(t.shape)
        for t in kept
        if t.dim() == 4 and t.shape[1] > 2 and t.dtype == torch.float32 and t.shape not in own and t.numel() > 49 * 64
    }  # RDFE's sums are [N, 7, 7, C], which is less than an image of these sizes
    # channel_attention's product, kept where making it again would cost more: its loops on the CPU want float32.
    assert wide <= {(1, 3 * 64, 12, 8)}


def test_cudas_rule_is_emulated_to_the_dtype(autocast_without_a_gpu: None) -> None:
    """What every module of the reference takes and gives, on the CPU as on a CUDA device."""

    def dtypes(device: str) -> list[tuple[str, list[torch.dtype], torch.dtype]]:
        model = reference.AMINet(AMINetConfig(width=8, hourglass_width=8)).train()
        found = []
        for name, module in model.named_modules():
            if not isinstance(module, (reference.SKAF, nn.ModuleList)):  # SKAF gives two gates
                module.register_forward_hook(
                    lambda _, given, y, name=name: found.append((name, [t.dtype for t in given], y.dtype))
                )
        model(torch.zeros(2, 3, 32, 32, device=device))
        return found

    with FakeTensorMode(), torch.device("cuda"), torch.autocast("cuda", torch.bfloat16):
        wanted = dtypes("cuda")
    with torch.autocast("cpu", torch.bfloat16), CudasAutocast():
        assert dtypes("cpu") == wanted
    with torch.autocast("cpu", torch.bfloat16):
        assert dtypes("cpu") != wanted


def results(model: nn.Module, x: Tensor, low: torch.dtype | None, cudas: bool = False) -> dict[str, Tensor]:
    """The output and all gradients, by name."""
    x = x.clone().requires_grad_()
    model.train().zero_grad(set_to_none=True)
    with torch.autocast("cpu", low, enabled=low is not None), CudasAutocast() if cudas else nullcontext():
        y = model(x)
    # Without symmetries, and scaled as a loss is for float16.
    (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)).mean().mul(4096).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert x.grad is not None
    return {"y": y.detach(), "x": x.grad, **gradients}


def role(name: str) -> str:
    """Of a parameter, the same in all blocks: "enc.1.sa.proj.weight" and "mid.0.sa.proj.weight" have one."""
    return re.sub(r"^(up|down|edff)\.\d", r"\1", re.sub(r"^(enc|dec|mid)\.\d", "lgfi", name))


def typical(errors: list[float]) -> float:
    """The geometric mean: some errors are mostly of one value that SKAF's maximum took from another channel."""
    return math.exp(sum(math.log(e + 1e-6) for e in errors) / len(errors))


def error(found: Tensor, wanted: Tensor) -> float:
    return ((found.double() - wanted).norm() / (wanted.norm() + 1e-30)).item()


@compiled_only
@pytest.mark.parametrize(
    ("config", "low", "seeds"),
    [
        (TINY, torch.bfloat16, 6),
        (TINY, torch.float16, 4),
        (get_config("aminet-nano"), torch.bfloat16, 4),
        pytest.param(get_config("aminet-tiny"), torch.bfloat16, 6, marks=pytest.mark.slow),
        pytest.param(get_config("aminet-small"), torch.bfloat16, 6, marks=pytest.mark.slow),
        pytest.param(get_config("aminet"), torch.bfloat16, 6, marks=pytest.mark.slow),
    ],
    ids=lambda value: str(value.width) if isinstance(value, AMINetConfig) else str(value),
)
def test_at_most_twice_the_error_of_eager(config: AMINetConfig, low: torch.dtype, seeds: int) -> None:
    """Eager under CUDA's rule, both against float64: the output, and every gradient by its role in the network.

    Gradients that are one number are a role together, and each is looked at over all seeds.
    """
    errors: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    singles: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = defaultdict(list)

    def compare(role: str, wanted: Tensor, ours: Tensor, eager: Tensor) -> None:
        for list_, found in zip(errors[role], (ours, eager), strict=True):
            list_.append(error(found, wanted))

    for seed in range(seeds):
        fast, plain = pair(config, torch.float32)
        x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
        exact = results(copy.deepcopy(plain).double(), x.double(), None)
        ours, eager = results(fast, x, low), results(plain, x, low, cudas=True)
        assert ours.keys() == exact.keys()
        for name, wanted in exact.items():
            if wanted.numel() == 1:
                singles[name].append((wanted, ours[name], eager[name]))
            else:
                compare(role(name), wanted, ours[name], eager[name])
    for of_seeds in singles.values():  # of one number an error near zero is luck, and so is a gradient near zero
        compare("single numbers", *map(torch.stack, zip(*of_seeds, strict=True)))
    ratios = {name: typical(ours) / typical(eager) for name, (ours, eager) in errors.items()}
    assert len(ratios) > 60
    assert not {name: ratio for name, ratio in ratios.items() if ratio > 2}
    assert ratios["y"] < 1.25
    assert typical(list(ratios.values())) < 1.25


def losses(model: nn.Module, low: torch.dtype | None, cudas: bool = False) -> Tensor:
    """Of 100 steps of Adam on four pictures."""
    parameter = next(model.parameters())
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(5)).to(parameter.dtype)
    target = x.roll(1, -1) * 0.5
    optimizer = torch.optim.Adam(model.train().parameters(), lr=2e-4, betas=(0.9, 0.99))
    found = []
    for _ in range(100):
        optimizer.zero_grad()
        with torch.autocast("cpu", low, enabled=low is not None), CudasAutocast() if cudas else nullcontext():
            y = model(x)
        loss = (y - target).abs().mean()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return torch.tensor(found, dtype=torch.float64)


@compiled_only
@pytest.mark.slow
def test_training_steps_stay_together() -> None:
    """100 steps of ours in bfloat16 are as near to those in float64 as eager's under CUDA's rule."""
    fast, plain = pair(TINY, torch.float32)
    exact = losses(copy.deepcopy(plain).double(), None)
    ours, eager = losses(fast, torch.bfloat16), losses(plain, torch.bfloat16, cudas=True)
    assert exact[-1] < 0.5 * exact[0]
    assert (ours - exact).abs().mean() <= 2 * (eager - exact).abs().mean() + 5e-4 * exact[-1]
    assert ((ours - exact).abs() < 0.005 * exact).all()
