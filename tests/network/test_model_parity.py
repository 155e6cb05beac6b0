"""The whole network, fast against reference: outputs, gradients, buffers, steps of training, threads, compilation."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from aminet_fast import AMINet, AMINetConfig, decelerate, get_config, list_configs

TINY = AMINetConfig(width=4, heads=(1, 2, 2, 4), hourglass_width=6)


def pair(config: AMINetConfig, dtype: torch.dtype = torch.float64) -> tuple[AMINet, AMINet]:
    """(fast, plain) with the same random weights, none at its default: gains, temperatures and statistics too."""
    torch.manual_seed(0)
    fast = AMINet(config).to(dtype)
    with torch.no_grad():
        for tensor in [*fast.parameters(), *(b for b in fast.buffers() if b.is_floating_point())]:
            if tensor.dim() <= 1 or tensor.numel() == tensor.shape[0]:
                tensor.uniform_(0.5, 1.5)
    return fast, decelerate(copy.deepcopy(fast))


def train_once(model: nn.Module, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Output, and every gradient and buffer by name after a backward pass through a loss without symmetries."""
    x = x.clone().requires_grad_()
    y = model.train()(x)
    (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)).mean().backward()
    found = {name: p.grad for name, p in model.named_parameters()} | {"x": x.grad} | dict(model.named_buffers())
    return y, found


def close(key: str, actual: Tensor, expected: Tensor, rtol: float, atol: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, msg=lambda text: f"{key}: {text}")


@pytest.mark.parametrize("name", list_configs())
def test_every_configuration_in_float64(name: str) -> None:
    narrow = {"width": 4, "heads": (1, 1, 2, 2), "hourglass_width": 4}
    config = get_config(name).replace(**narrow)
    fast, plain = pair(config)
    side = config.multiple
    x = torch.randn(2, 3, side, 2 * side, dtype=torch.float64)
    ours, expected = train_once(fast, x), train_once(plain, x)
    torch.testing.assert_close(ours[0], expected[0], rtol=1e-8, atol=1e-8)
    assert ours[1].keys() == expected[1].keys()
    for key, value in expected[1].items():
        if value is None or not value.is_floating_point():
            assert (ours[1][key] is None) if value is None else torch.equal(ours[1][key], value), key
        else:
            close(key, ours[1][key], value, rtol=1e-7, atol=1e-8 * value.abs().max().item() + 1e-14)
    with torch.no_grad():
        torch.testing.assert_close(fast.eval()(x), plain.eval()(x), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_float32_is_as_near_to_float64_as_the_reference(layout: torch.memory_format) -> None:
    fast, plain = pair(AMINetConfig(width=8, hourglass_width=16), torch.float32)
    exact = copy.deepcopy(plain).double()
    x = torch.randn(2, 3, 48, 32).contiguous(memory_format=layout)
    ours, eager, expected = train_once(fast, x), train_once(plain, x), train_once(exact, x.double())
    assert ours[0].stride() == x.stride()
    error = (ours[0] - expected[0]).abs().max()
    assert error <= 4 * (eager[0] - expected[0]).abs().max() + 1e-6
    for key, value in expected[1].items():
        if value.is_floating_point():
            # By the norm: where two of SKAF's channels are as good as equal, the maximum may be the other one.
            bound = 4 * (eager[1][key] - value).norm() + 1e-4 * value.norm() + 1e-9
            assert (ours[1][key] - value).norm() <= bound, key


def test_training_steps_stay_together() -> None:
    """40 steps of Adam in float64: rounding grows, but the losses stay equal to 1e-6 and the weights to 1e-4."""
    fast, plain = pair(TINY)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    target = x.roll(1, -1) * 0.5
    losses = []
    for model in (fast.train(), plain.train()):
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, betas=(0.9, 0.99), fused=True)
        run = []
        for _ in range(40):
            optimizer.zero_grad()
            loss = (model(x) - target).abs().mean()
            loss.backward()
            optimizer.step()
            run.append(loss.item())
        losses.append(run)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=0)
    assert losses[0][-1] < 0.9 * losses[0][0]
    for (key, ours), expected in zip(fast.state_dict().items(), plain.state_dict().values(), strict=True):
        close(key, ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stage", ["enc", "mid"])
def test_one_thread_and_two_give_the_same_bits(stage: str) -> None:
    """LGFI, all of it operators; between them the network has PyTorch's convolutions, which promise no such thing."""
    threads = torch.get_num_threads()
    results = []
    model, _ = pair(AMINetConfig(width=8, hourglass_width=16), torch.float32)
    lgfi = getattr(model, stage)[0]
    x = torch.randn(2, 8 if stage == "enc" else 64, 64, 32)
    torch.use_deterministic_algorithms(True)
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(train_once(copy.deepcopy(lgfi), x))
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(False)
    assert torch.equal(results[0][0], results[1][0])
    different = {key for key, value in results[0][1].items() if not torch.equal(value, results[1][1][key])}
    # PyTorch's strided convolution sums its weight's gradient by threads.
    strided = "rdfe.frm.hourglass.b2.0.conv.weight"
    assert different <= {strided}
    torch.testing.assert_close(results[0][1][strided], results[1][1][strided], rtol=1e-4, atol=1e-6)


def test_bfloat16_autocast() -> None:
    fast, plain = pair(AMINetConfig(width=8, hourglass_width=16), torch.float32)
    x = torch.randn(1, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, eager = fast.eval()(x), plain.eval()(x)
    exact = plain.double()(x.double())
    assert ours.dtype == eager.dtype
    assert (ours - exact).norm() <= 1.5 * (eager - exact).norm() + 1e-3 * exact.norm()


@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_compiled_whole(training: bool) -> None:
    model, _ = pair(TINY, torch.float32)
    model.train(training)
    x = torch.randn(1, 3, 32, 32)
    expected = copy.deepcopy(model)(x)
    compiled = torch.compile(model, fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_exported() -> None:
    model, _ = pair(TINY, torch.float32)
    model.eval()
    x = torch.randn(2, 3, 32, 32)
    batch = torch.export.Dim("batch", max=64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    other = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(program.module()(other), model(other), rtol=1e-4, atol=1e-4)
