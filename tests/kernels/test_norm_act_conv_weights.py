"""norm_act_conv's packed weights, by Triton's interpreter: each sum of rows and columns in its place, in one launch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.harness import ROOT

pytest.importorskip("triton", reason="Triton is not installed")

SETUP = """
import torch

from aminet_fast.ops.extension import kernels
from aminet_fast.ops.norm_act_conv import packed_taps
from tests.harness.triton.cases_norm_act_conv import OPTIONS, packed_by_hand
from tests.harness.triton.interpreter import correct_bfloat16, correct_scalars

correct_bfloat16()
correct_scalars()
pack = kernels("norm_act_conv").norm_act_conv_prepack
options = [option for option in OPTIONS if option[1] == "zeros"]
generator = torch.Generator().manual_seed(0)
strides, upsamples = [o[0] for o in options], [int(o[2]) for o in options]
"""

SUMS = """
sizes = [(5, 3), (2, 3), (18, 36), (3, 1)]  # less and more than a program's
weights = [torch.randn(*size, 3, 3, generator=generator) for size in sizes]
weights[1] = weights[1].contiguous(memory_format=torch.channels_last)
kinds = [
    (torch.float32, torch.float32, 1e-6),
    (torch.bfloat16, torch.bfloat16, 2**-8),
    (torch.float32, torch.bfloat16, 2**-8),
    (torch.float16, torch.float16, 2**-11),
]
for held, dtype, tolerance in kinds:
    given = [w.to(held) for w in weights]
    whole = pack(given, strides, upsamples, dtype, True)
    ahead = pack(given, strides, upsamples, dtype, False)
    for weight, option, both, forward in zip(given, options, whole, ahead, strict=True):
        wanted, matrix = packed_by_hand(weight, option), weight.shape[0] * weight.shape[1]
        assert both.dtype == dtype and both.numel() == packed_taps(option[0], option[2], True) * matrix, option
        torch.testing.assert_close(both.float(), wanted, rtol=tolerance, atol=1e-6, msg=lambda m: f"{option}: {m}")
        assert torch.equal(forward, both[: packed_taps(option[0], option[2], False) * matrix]), option
"""

STRIDED = """
layouts = {
    "channels_last": lambda w: w.contiguous(memory_format=torch.channels_last),
    "outputs innermost": lambda w: w.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    "rows and columns exchanged": lambda w: w.transpose(2, 3).contiguous().transpose(2, 3),
    "every second of each": lambda w: w.repeat_interleave(2, 0).repeat_interleave(2, 1)[1::2, ::2],
    "part of a larger one": lambda w: torch.nn.functional.pad(w, (2, 1, 1, 3, 4, 2, 1, 5))[1:-5, 4:-2, 1:-3, 2:-1],
    "expanded": lambda w: w[:1].expand(w.shape),
}
weights = [torch.randn(*size, 3, 3, generator=generator) for size in ((20, 17), (33, 5), (4, 18), (16, 16))]
for name, layout in layouts.items():
    given = [layout(w) for w in weights]
    assert not any(w.is_contiguous() for w in given), name
    for dtype in (torch.float32, torch.float16):
        found = pack(given, strides, upsamples, dtype, True)
        wanted = pack([w.contiguous() for w in given], strides, upsamples, dtype, True)
        assert all(map(torch.equal, found, wanted)), name
        by_hand = packed_by_hand(given[0], options[0]).to(dtype)
        assert torch.equal(found[0], by_hand), name
"""

SIGNS = """
weights = [torch.full((2, 3, 3, 3), -0.0)] * len(options)
for packed in pack(weights, strides, upsamples, torch.float32, True):
    assert not packed.signbit().any()  # a tap is a sum that begins with zero, that of one weight too
"""


@pytest.mark.gpuless
@pytest.mark.parametrize("script", [SUMS, STRIDED, SIGNS], ids=["sums", "strided", "signs"])
def test_packed_weights(script: str) -> None:
    environ = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SETUP + script]
    result = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
