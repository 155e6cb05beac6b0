"""AMINet with norm_act_conv's CUDA kernels in it, on the emulator: output and every gradient by the reference."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict

import pytest
import torch
from torch import Tensor

from aminet_fast import AMINet, AMINetConfig
from aminet_fast.network.fast_frm import FastFeatureRefinement
from tests.harness.cuda import build
from tests.harness.cuda.emulated import Emulated
from tests.harness.triton.cases_norm_act_conv import packed_by_hand
from tests.network.test_autocast_network import error, results, role, typical
from tests.network.test_model_parity import pair, train_once

if reason := build.problem():
    pytest.skip(reason, allow_module_level=True)


pytestmark = pytest.mark.gpuless
# At 32x32 the maps of FRM are 32, 16, 8 and 4 pixels wide, in its hourglass half as wide; channels are by the eight.
CONFIG = AMINetConfig(width=8, hourglass_width=16)
LAYERS = 6  # of FRM, by norm_act_conv
ONE_PIXEL = "maps of one row or one column"


@pytest.fixture(autouse=True)
def _loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_EMU_SMEM_LIMIT", str(99 * 1024))  # what sm_86 and sm_89 have, the least of all
    torch.ops.load_library(build.library(build.ROOT / "csrc" / "cuda" / "norm_act_conv.cu"))


def layers(model: AMINet) -> int:
    return LAYERS * sum(isinstance(module, FastFeatureRefinement) for module in model.modules())


def drawn(seed: int, side: int = 32) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_training_in_float32_is_as_near_to_float64_as_the_reference() -> None:
    """Of numbers none of which is so near to LeakyReLU's bend that rounding puts it on the other side."""
    fast, plain = pair(CONFIG, torch.float32)
    exact, x = copy.deepcopy(plain).double(), drawn(0)
    with Emulated("norm_act_conv") as emulated:
        y, ours = train_once(fast, x)
    (eager, reference), (wanted, expected) = train_once(plain, x), train_once(exact, x.double())
    assert Counter(emulated.ran) == {"norm_act_conv_fwd": layers(fast), "norm_act_conv_bwd": layers(fast)}
    assert (y - wanted).norm() <= 2 * (eager - wanted).norm()
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        if value.is_floating_point():  # a gradient, or a running mean or variance
            bound = 4 * (reference[name] - value).norm() + 2e-5 * value.norm()
            assert (ours[name] - value).norm() <= bound, name


def test_training_in_bfloat16_is_as_near_to_float64_as_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their roles in the network, with weights that are packed as the network packs them on a GPU."""

    def packed(frm: FastFeatureRefinement, weights: list[Tensor], z: Tensor) -> list[Tensor | None]:
        options = [(conv.stride[0], "", False) for conv in frm._convolutions()]
        options[-1] = (1, "", True)
        return [packed_by_hand(w, option).to(z.dtype) for w, option in zip(weights, options, strict=True)]

    fast, plain = pair(CONFIG, torch.float32)
    exact, x = copy.deepcopy(plain).double(), drawn(0)
    with monkeypatch.context() as patched, Emulated("norm_act_conv") as emulated:
        patched.setattr(FastFeatureRefinement, "_packed", packed)
        ours = results(fast, x, torch.bfloat16)
    assert Counter(emulated.ran) == {"norm_act_conv_fwd": layers(fast), "norm_act_conv_bwd": layers(fast)}
    eager, expected = results(plain, x, torch.bfloat16, cudas=True), results(exact, x.double(), None)
    assert ours.keys() == expected.keys()
    errors: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    numbers = [name for name, value in expected.items() if value.numel() == 1]  # together: any may be near to zero
    for found in (ours, eager, expected):
        found["numbers"] = torch.stack([found.pop(name).flatten() for name in numbers])
    for name, value in expected.items():
        for list_, found in zip(errors[role(name)], (ours, eager), strict=True):
            list_.append(error(found[name], value))
    ratios = {name: typical(of_ours) / typical(of_eager) for name, (of_ours, of_eager) in errors.items()}
    assert ratios["y"] < 1.25
    assert typical(list(ratios.values())) < 1.25
    assert not {name: ratio for name, ratio in ratios.items() if ratio > 2}


def test_maps_of_one_pixel_are_all_that_is_refused() -> None:
    """At 16x16 the deepest hourglasses have them: two layers in each of the middle blocks."""
    fast, plain = pair(CONFIG, torch.float32)
    x, deepest = drawn(0, 16), 2 * len(fast.mid)
    with torch.no_grad(), Emulated("norm_act_conv") as emulated:
        y = fast.eval()(x)
    wanted = {"norm_act_conv_fwd": layers(fast) - deepest, f"norm_act_conv_fwd refused: {ONE_PIXEL}": deepest}
    assert Counter(emulated.ran) == wanted
    torch.testing.assert_close(y.double(), plain.double().eval()(x.double()), rtol=1e-4, atol=1e-4)
