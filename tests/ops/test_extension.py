"""Loading of the compiled modules, and the choice among backends."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aminet_fast.ops import backends
from aminet_fast.ops import extension as _extension


def run(code: str, **environ: str) -> str:
    """Output of a fresh interpreter."""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.fixture
def fresh() -> None:
    """Forget what was loaded, before and after."""
    _extension.load.cache_clear()
    _extension.build_facts.cache_clear()
    yield
    _extension.load.cache_clear()
    _extension.build_facts.cache_clear()


def test_importing_the_package_loads_no_extension() -> None:
    loaded = run("import aminet_fast, sys; print([m for m in sys.modules if m == 'torch' or '_compiled' in m])")
    assert loaded == "[]"


def test_extension_registers_its_kernels() -> None:
    module, problem = _extension.load("_C")
    if module is None:
        pytest.skip(problem)
    assert module.cpu_capability() in ("portable", "avx2", "avx512")
    importlib.import_module("aminet_fast.ops")
    for name in ("layer_norm2d_fwd", "layer_norm2d_bwd"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"aminet_fast::{name}", "CPU")


def test_schemas_exist_without_the_extension() -> None:
    code = """
import sys, logging
sys.modules["aminet_fast._compiled._C"] = None
import torch
from aminet_fast.ops import layer_norm2d
print(torch.ops.aminet_fast.layer_norm2d_fwd.default._schema)
x = torch.tensor([1., 3.]).view(1, 2, 1, 1)
print(layer_norm2d(x, torch.ones(2), torch.zeros(2)).round().flatten().tolist())
"""
    schema, values = run(code).splitlines()
    assert schema.startswith("aminet_fast::layer_norm2d_fwd(Tensor x, Tensor weight, Tensor bias, float eps)")
    assert values == "[-1.0, 1.0]"


def test_missing_module_gives_the_note_of_the_build(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = tmp_path / "build.json"
    facts.write_text(json.dumps({"notes": ["CPU extension not compiled: no C++ compiler found"]}))
    monkeypatch.setattr(_extension, "BUILD_FACTS", facts)
    monkeypatch.setitem(sys.modules, "aminet_fast._compiled._C", None)
    assert _extension.load("_C") == (None, "CPU extension not compiled: no C++ compiler found")


def test_broken_module_gives_the_loader_s_words(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("libtorch_cuda.so: cannot open shared object file")

    monkeypatch.setattr(_extension.importlib, "import_module", broken)
    module, problem = _extension.load("_C_cuda")
    assert module is None
    assert problem == (
        "aminet_fast._compiled._C_cuda is there but does not load: libtorch_cuda.so: cannot open shared object file"
    )


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch) -> str:
    """An operator with a working and a broken backend on "cuda" and none on "cpu"."""
    monkeypatch.setattr(backends, "_operators", {})
    monkeypatch.delenv(backends.VARIABLE, raising=False)
    backends.register("some_op", "cuda", "cuda", lambda: "not compiled")
    backends.register("some_op", "cuda", "triton", lambda: "")
    return "some_op"


@pytest.mark.parametrize(
    ("variable", "argument", "device", "expected", "missed"),
    [
        ("", None, "cuda", "triton", False),
        ("", "auto", "cuda", "triton", False),
        ("", "triton", "cuda", "triton", False),
        ("", "cuda", "cuda", "reference", True),
        ("", None, "cpu", "reference", True),
        ("reference", None, "cuda", "reference", False),
        ("reference", "triton", "cuda", "triton", False),
        ("triton", "reference", "cuda", "reference", False),
        ("triton", None, "cpu", "reference", True),
    ],
)
def test_argument_then_variable_then_auto(
    operator: str,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    argument: str | None,
    device: str,
    expected: str,
    missed: bool,
) -> None:
    monkeypatch.setenv(backends.VARIABLE, variable)
    choice = backends.explain(operator, device, argument)
    assert (choice.backend, choice.missed) == (expected, missed)


def test_unknown_names_say_where_they_came_from(operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="backend='gpu' is unknown: use one of auto, reference, cpu, triton, cuda"):
        backends.explain(operator, "cuda", "gpu")
    monkeypatch.setenv(backends.VARIABLE, "gpu")
    with pytest.raises(ValueError, match="AMINET_FAST_BACKEND='gpu' is unknown"):
        backends.explain(operator, "cuda")


def test_auto_says_what_no_device_has_confirmed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("AMINET_FAST_BACKEND", raising=False)
    monkeypatch.setattr(backends, "_logged", set())
    for name in ("new_op", "newer_op"):
        monkeypatch.setitem(backends._operators, name, backends._Operator())
        backends.register(name, "cuda", "triton", lambda: "")
        choice = backends.explain(name, "cuda")
        assert (choice.backend, choice.missed, choice.unconfirmed) == ("triton", False, True)
        assert "no cuda device has confirmed it" in choice.reason
        assert backends.choose(name, "cuda", None) == "triton"
    (record,) = caplog.records
    assert "AMINET_FAST_BACKEND=reference avoids them" in record.getMessage()
    assert not backends.explain("new_op", "cuda", "triton").unconfirmed  # asked for


@pytest.mark.parametrize("asked", [None, "triton"])
def test_float64_goes_to_the_reference_where_a_backend_lacks_it(
    asked: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AMINET_FAST_BACKEND", raising=False)
    monkeypatch.setitem(backends._operators, "new_op", backends._Operator())
    backends.register("new_op", "cuda", "triton", lambda: "", float64=False)
    assert backends.explain("new_op", "cuda", asked, torch.float32).backend == "triton"
    choice = backends.explain("new_op", "cuda", asked, torch.float64)
    assert (choice.backend, choice.missed, choice.reason) == ("reference", True, "triton has no kernel for float64")
