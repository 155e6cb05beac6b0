"""One operator has one name in every folder: each has its files, and each file has its operator."""

from __future__ import annotations

import re

import pytest

from aminet_fast import ops
from aminet_fast.ops import backends
from tests.harness import ROOT

assert ops.__all__
OPERATORS = backends.operators()
HEAVY = ("channel_attention", "norm_act_conv", "rdfe_front", "skaf_descriptor")
FILES = (
    "aminet_fast/ops/{}.py",
    "kernels/{}.py",
    "csrc/cpu/{}.cpp",
    "csrc/cuda/{}.cu",
    "tests/ops/test_{}.py",
    "tests/harness/triton/cases_{}.py",
    "benchmarks/bench_{}.py",
)
# What an operator does not have, and why.
ABSENT = {
    **dict.fromkeys(
        [f"csrc/cuda/{name}.cu" for name in ("batch_norm_affine", "channel_moments", "hourglass_gate", "layer_norm2d")],
        "light: on GPUs Triton's is its only form",
    ),
    "csrc/cuda/skaf_gate.cu": "light: on GPUs Triton's is its only form",
    "csrc/cuda/multiscale_dwconv.cu": "the network calls rdfe_front, which has these convolutions inside",
    "tests/ops/test_channel_moments.py": "tests/ops/test_norm_act_conv.py has its tests",
    "benchmarks/bench_batch_norm_affine.py": "too short to time alone: a training step has it",
    "benchmarks/bench_channel_moments.py": "a training step has it",
}
# Files in these places that are no operator's.
OTHERS = {
    "csrc/cuda/module.cu": "the module that the operators' files are linked into",
    "benchmarks/bench_ceilings.py": "what the machine can do at all",
    "benchmarks/bench_loader.py": "reading faces",
    "benchmarks/bench_model.py": "the whole network",
}


PATHS = [
    *(path.format(name) for name in OPERATORS for path in FILES),
    *(f"docs/kernels/{name}.md" for name in HEAVY),
]


@pytest.mark.parametrize("path", PATHS)
def test_each_operator_has_its_files(path: str) -> None:
    assert (ROOT / path).exists() != (path in ABSENT)


def test_what_is_absent_is_wanted() -> None:
    assert set(ABSENT) <= set(PATHS)


@pytest.mark.parametrize("name", OPERATORS)
def test_each_operator_has_a_reference_and_is_documented(name: str) -> None:
    reference = "\n".join(path.read_text() for path in (ROOT / "aminet_fast" / "reference").glob("*.py"))
    assert re.search(rf"^def {name}_ref\(", reference, re.MULTILINE)
    assert f"`{name}" in (ROOT / "docs" / "operators.md").read_text()


def test_each_file_has_its_operator() -> None:
    found = [*ROOT.glob("kernels/[!_]*.py"), *ROOT.glob("csrc/cuda/*.cu"), *ROOT.glob("benchmarks/bench_*.py")]
    found += [*ROOT.glob("tests/harness/triton/cases_*.py")]
    paths = {str(path.relative_to(ROOT)) for path in found}
    # kernels/skaf_gate_maps.py is a part of skaf_gate's.
    own = rf"(.*/)(bench_|cases_)?({'|'.join(OPERATORS)})(_\w+)?\.(py|cu)"
    assert {path for path in paths if not re.fullmatch(own, path)} == set(OTHERS)
