"""FRM by the operators against the reference module: values, gradients, running statistics."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from aminet_fast.network.fast_frm import FastFeatureRefinement
from aminet_fast.reference.config import AMINetConfig
from aminet_fast.reference.rdfe import FeatureRefinement


def pair(channels: int, dtype: torch.dtype, **config: Any) -> tuple[FeatureRefinement, FastFeatureRefinement]:
    """The reference in float64 and ours, with the same parameters, none of them as initialised."""
    torch.manual_seed(0)
    ours = FastFeatureRefinement(channels, AMINetConfig(**config)).to(memory_format=torch.channels_last)
    for bn in ours.modules():
        if isinstance(bn, nn.BatchNorm2d):
            nn.init.uniform_(bn.weight, 0.5, 1.5)
            nn.init.normal_(bn.bias)
            nn.init.normal_(bn.running_mean)
            nn.init.uniform_(bn.running_var, 0.5, 2)
    ours = ours.to(dtype)
    reference = FeatureRefinement(channels, AMINetConfig(**config)).double()
    reference.load_state_dict(ours.state_dict())
    return reference, ours


def check(
    reference: FeatureRefinement, ours: FastFeatureRefinement, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    # Numbers of which none comes so near to zero before an activation that float32 takes its other branch.
    generator = torch.Generator().manual_seed(2)
    z, dy = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    one, other = z.double().requires_grad_(), z.contiguous(memory_format=torch.channels_last).requires_grad_()
    expected, y = one + reference(one), ours.add_to(other)
    wanted = torch.autograd.grad(expected, [one, *reference.parameters()], dy.double())
    found = torch.autograd.grad(y, [other, *ours.parameters()], dy)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-3
    names = ["y", "z", *(name for name, _ in ours.named_parameters())]
    for name, got, want in zip(names, [y, *found], [expected, *wanted], strict=True):
        assert got.dtype == dtype
        scale = want.abs().max().item()
        torch.testing.assert_close(
            got.double(), want, rtol=0, atol=tolerance * scale + 1e-12, msg=lambda text, name=name: f"{name}: {text}"
        )
    for (name, want), (_, got) in zip(reference.named_buffers(), ours.named_buffers(), strict=True):
        torch.testing.assert_close(got.double(), want.double(), rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 2, 2), (1, 5, 6, 10), (3, 24, 18, 38), (2, 96, 8, 8)], ids=str)
def test_values_gradients_and_buffers(shape: tuple[int, ...], dtype: torch.dtype, training: bool) -> None:
    reference, ours = pair(shape[1], dtype)
    check(reference.train(training), ours.train(training), shape, dtype)


@pytest.mark.parametrize("convs", [1, 3])
def test_other_numbers_of_convolutions(convs: int) -> None:
    check(*pair(6, torch.float64, frm_convs=convs), (2, 6, 6, 4), torch.float64)


def test_other_depths_run_as_the_reference() -> None:
    check(*pair(6, torch.float64, hourglass_depth=2), (2, 6, 8, 4), torch.float64)


@pytest.mark.parametrize("momentum", [None, 0.3])
@pytest.mark.parametrize("track", ["always", "never", "no more"])
def test_running_statistics_over_steps(momentum: float | None, track: str) -> None:
    reference, ours = pair(5, torch.float64)
    for module in (*reference.modules(), *ours.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
            module.track_running_stats = track == "always"
            if track == "never":
                module.running_mean = module.running_var = module.num_batches_tracked = None
    for _ in range(3):
        check(reference, ours, (2, 5, 4, 6), torch.float64)
    check(reference.eval(), ours.eval(), (2, 5, 4, 6), torch.float64)


def test_forward_is_frm_without_the_residual() -> None:
    reference, ours = pair(5, torch.float64)
    z = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    torch.testing.assert_close(ours(z), reference(z))


def test_one_value_a_channel_is_refused_in_training() -> None:
    _, ours = pair(5, torch.float32)
    with pytest.raises(ValueError, match="more than one value"):
        ours.add_to(torch.randn(1, 5, 1, 1))


@pytest.mark.parametrize("training", [True, False])
def test_autocast(training: bool) -> None:
    reference, ours = pair(24, torch.float32)
    reference = reference.float().train(training)
    ours.train(training)
    z = torch.randn(2, 24, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected, y = z + reference(z), ours.add_to(z)
    assert y.dtype == torch.bfloat16  # where batch normalisation of a float32 image returns float32
    torch.testing.assert_close(y, expected, rtol=0.1, atol=0.25, check_dtype=False)
    y.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in ours.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_compiles_whole(training: bool) -> None:
    torch._dynamo.reset()
    _, ours = pair(5, torch.float64)
    ours.train(training)
    other = copy.deepcopy(ours)
    compiled = torch.compile(ours.add_to, fullgraph=True, backend="aot_eager")
    z = torch.randn(2, 5, 6, 4, dtype=torch.float64)
    for _ in range(2):
        torch.testing.assert_close(compiled(z), other.add_to(z))
    for one, two in zip(ours.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(one, two)


def test_keeps_far_less_for_backward() -> None:
    """Bytes that autograd saves, each storage once, parameters aside."""
    kept = []
    reference, ours = pair(24, torch.float32)
    for module, run in ((reference.float(), None), (ours, ours.add_to)):
        own = {p.untyped_storage().data_ptr() for p in module.parameters()}
        saved: dict[int, int] = {}

        def pack(t: torch.Tensor, own: set[int] = own, saved: dict[int, int] = saved) -> torch.Tensor:
            storage = t.untyped_storage()
            if storage.data_ptr() not in own:
                saved[storage.data_ptr()] = storage.nbytes()
            return t

        z = torch.randn(1, 24, 32, 32).contiguous(memory_format=torch.channels_last)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = run(z) if run else z + module(z)
        kept.append(sum(saved.values()))
        del y
    assert kept[1] < 0.45 * kept[0], kept
