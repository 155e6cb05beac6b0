"""The table that chooses between Triton's kernels and compiled ones, and what a call asks for by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from aminet_fast import ops
from aminet_fast.commands.cli import main
from aminet_fast.ops import _devices, _library, backends, dispatch
from aminet_fast.ops.extension import load
from tests.harness.triton.case import first_case, tf32_products
from tests.harness.triton.checks import check_numbers

assert ops.__all__
Write = Callable[..., None]
ROW = {"operator": "some_op", "backend": "cuda", "reason": "twice as fast", "measured_by": "G1"}
ESTIMATED = {"operator": "some_op", "backend": "cuda", "reason": "a model says so", "estimated": True}
CHOOSING = sorted(
    name
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith("aminet_fast::") and _library._chooses(name.removeprefix("aminet_fast::"))
)


def forget() -> None:
    for cached in (dispatch.table, dispatch._of_operator, dispatch.decide):
        cached.cache_clear()


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """write(row, ...): the table has these rows for this test."""
    monkeypatch.setattr(dispatch, "TABLE", tmp_path / "dispatch.json")

    def written(*rows: dict[str, Any]) -> None:
        dispatch.TABLE.write_text(json.dumps({"rows": rows}))
        forget()

    yield written
    forget()


def decide(name: str = "some_op_fwd", dtype: torch.dtype = torch.float32, channels: int = 24, pixels: int = 100) -> str:
    return dispatch.decide("some_op", name, dtype, channels, pixels, (8, 6))


def test_the_table_that_is_there() -> None:
    """Its rows name operators, passes and dtypes that exist, and bounds that something is between."""
    for row in dispatch.table():
        registered = [backend for backend, _ in backends._operators[row.operator].backends["cuda"]]
        assert row.backend in registered
        for suffix in row.passes:
            assert f"{row.operator}_{suffix}" in _library._implemented
        assert set(row.dtypes) <= {"float32", "bfloat16", "float16"}
        assert len(row.capability) == 2
        for least, most in (row.channels, row.pixels):
            assert least is None or most is None or least <= most
        assert not row.estimated or "static model" in row.reason


@pytest.mark.parametrize(
    ("name", "dtype", "kernels"),
    [
        ("rdfe_front_fwd", torch.bfloat16, "cuda"),
        ("rdfe_front_bwd", torch.float16, "cuda"),
        ("rdfe_front_fwd", torch.float32, "triton"),
        ("skaf_descriptor_fwd", torch.bfloat16, "cuda"),
        ("skaf_descriptor_bwd_input", torch.bfloat16, "triton"),
        ("skaf_descriptor_bwd_parameters", torch.bfloat16, "triton"),
        ("channel_attention_fwd", torch.bfloat16, "triton"),
    ],
)
def test_what_runs_by_estimate(name: str, dtype: torch.dtype, kernels: str) -> None:
    operator = name.rpartition("_fwd")[0] or name.partition("_bwd")[0]
    for capability in ((8, 0), (9, 0)):
        assert dispatch.decide(operator, name, dtype, 24, 2**19, capability) == kernels
    assert dispatch.decide(operator, name, dtype, 24, 2**19, (7, 5)) == "triton"


def test_an_estimate_that_decides_is_said_once(write: Write, caplog: pytest.LogCaptureFixture) -> None:
    backends._logged.discard(dispatch.ESTIMATE)
    write({**ESTIMATED, "channels": [48, None]}, {**ESTIMATED, "operator": "other_op"}, ROW)
    assert decide(channels=24) == "cuda"
    assert not caplog.records
    assert decide(channels=48) == decide(channels=49) == "cuda"
    (record,) = caplog.records
    assert record.getMessage().startswith(dispatch.ESTIMATE)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chanels": [1, 2]}, r"unknown fields \['chanels'\]"),
        ({"backend": "cpu"}, "backend must be triton or cuda"),
        ({"reason": ""}, "with a reason"),
        ({"operator": ""}, "no operator"),
        ({"measured_by": ""}, "either measured_by, the device's name, or estimated, true"),
        ({"estimated": True}, "either measured_by"),
        ({"measured_by": "", "estimated": "yes"}, "either measured_by"),
    ],
)
def test_what_is_no_row_raises(change: dict[str, Any], words: str, write: Write) -> None:
    write(ROW | change)
    with pytest.raises(ValueError, match=words):
        dispatch.table()


def test_the_first_row_that_fits_decides(write: Write) -> None:
    write()
    assert decide() == "triton"
    write({**ROW, "operator": "other_op"}, {**ROW, "channels": [48, None], "backend": "triton"}, ROW)
    assert (decide(), decide(channels=48)) == ("cuda", "triton")


@pytest.mark.parametrize(
    ("bounds", "fit", "unfit"),
    [
        ({"passes": ["bwd"]}, {"name": "some_op_bwd"}, {"name": "some_op_fwd"}),
        ({"dtypes": ["bfloat16", "float16"]}, {"dtype": torch.float16}, {"dtype": torch.float32}),
        ({"channels": [24, 48]}, {"channels": 24}, {"channels": 23}),
        ({"channels": [24, 48]}, {"channels": 48}, {"channels": 49}),
        ({"pixels": [None, 100]}, {"pixels": 100}, {"pixels": 101}),
        ({"pixels": [100, None]}, {"pixels": 100}, {"pixels": 99}),
    ],
)
def test_bounds_are_inclusive(bounds: dict[str, Any], fit: dict[str, Any], unfit: dict[str, Any], write: Write) -> None:
    write(ROW | bounds)
    assert (decide(**fit), decide(**unfit)) == ("cuda", "triton")


@pytest.mark.parametrize(("least", "chosen"), [((8, 0), "cuda"), ((8, 6), "cuda"), ((9, 0), "triton")])
def test_capability_is_a_least_one(least: tuple[int, int], chosen: str, write: Write) -> None:
    write({**ROW, "capability": list(least)})
    assert decide() == chosen


def test_info_prints_the_table(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    bounded = {"passes": ["fwd"], "dtypes": ["float16"], "channels": [None, 48], "pixels": [7, 7], "capability": [9, 0]}
    write({**ROW, **bounded}, {**ESTIMATED, "channels": [3, None], "backend": "triton"})
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dispatch"] == {
        "1. some_op_fwd, float16, up to 48 channels, 7 pixels, sm_90 or newer": "cuda, measured on G1: twice as fast",
        "2. some_op, 3 channels or more": "triton, estimated: a model says so",
        "every other call on CUDA devices": "triton",
    }
    write()
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dispatch"] == {"every other call on CUDA devices": "triton"}


@pytest.fixture
def launch(write: Write, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Which kernel a call of some_op_fwd on a CUDA device of capability 8.6 runs."""
    compiled = SimpleNamespace(some_op_fwd=lambda x: "cuda")
    triton = SimpleNamespace(some_op_fwd=lambda x: "triton")
    monkeypatch.setattr(_library.torch.ops, "aminet_fast_cuda", compiled)
    monkeypatch.setattr(_library, "kernels", lambda operator: triton)
    monkeypatch.setattr(_library, "compiled_problem", lambda: "")
    monkeypatch.setattr(_library, "triton_problem", lambda: "")
    monkeypatch.setattr(dispatch, "_capability", lambda index: (8, 6))
    monkeypatch.setattr(backends, "_logged", set())
    write(ROW)

    def launched(*backend: str, refuses: str = "") -> str:
        about, refusal = (lambda x: (x, x.shape[1])), lambda x: refuses
        return _library._launch("some_op", "some_op_fwd", about, refusal, torch.zeros(1, 24, 2, 2), *backend)

    return launched


@pytest.mark.parametrize(
    ("rows", "backend", "ran"),
    [
        ([ROW], (), "cuda"),
        ([ROW], ("auto",), "cuda"),
        ([ROW], ("triton",), "triton"),
        ([], (), "triton"),
        ([], ("auto",), "triton"),
        ([], ("cuda",), "cuda"),
    ],
)
def test_the_argument_goes_before_the_table(
    launch: Callable[..., str], write: Write, rows: list[dict[str, Any]], backend: tuple[str, ...], ran: str
) -> None:
    write(*rows)
    assert launch(*backend) == ran


def test_a_refused_call_is_triton_s_and_said_once(launch: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    assert launch("auto", refuses="too many channels") == "triton"
    assert not caplog.records  # the table does not promise anything
    assert [launch("cuda", refuses="too many channels") for _ in range(2)] == ["triton", "triton"]
    (record,) = caplog.records
    assert "some_op_fwd runs on Triton's kernels: too many channels" in record.getMessage()


def test_without_the_compiled_module_triton_s_run(
    launch: Callable[..., str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_library, "compiled_problem", lambda: "CUDA extension not compiled: no nvcc")
    assert launch() == launch("auto") == "triton"
    assert not caplog.records
    assert launch("cuda") == "triton"
    assert "CUDA extension not compiled: no nvcc" in caplog.text


def test_without_triton_the_compiled_kernels_run_or_nothing_does(
    launch: Callable[..., str], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container without a C compiler, which Triton needs to launch."""
    monkeypatch.setattr(_library, "triton_problem", lambda: "there is no C compiler")
    write()
    assert launch("auto") == launch("cuda") == "cuda"
    with pytest.raises(RuntimeError, match=r"for this \(too many channels\).*\(there is no C compiler\).*reference"):
        launch("cuda", refuses="too many channels")


@pytest.mark.parametrize(
    ("compiled", "capability", "runs"),
    [
        ("8.0;8.6;8.9;9.0;10.0+PTX", (8, 0), True),
        ("8.0;8.6;8.9;9.0;10.0+PTX", (8, 7), True),  # 8.6's image
        ("8.0;8.6;8.9;9.0;10.0+PTX", (12, 0), True),  # 10.0's PTX
        ("8.0;8.6;8.9;9.0;10.0+PTX", (7, 5), False),
        ("9.0", (8, 0), False),
        ("9.0", (10, 0), False),
        ("8.6", (8, 0), False),
        ("9.0a", (9, 0), True),
        ("10.0a 8.0", (10, 3), False),
        ("Ampere", (9, 0), True),  # not read: may be
        ("", (7, 0), True),
    ],
)
def test_which_gpus_a_build_has_images_for(compiled: str, capability: tuple[int, int], runs: bool) -> None:
    assert _devices.serves(compiled, capability) == runs


def test_a_gpu_without_an_image_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_devices.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(_devices.torch.cuda, "get_device_capability", lambda: (7, 5))
    monkeypatch.setattr(_devices, "build_facts", lambda: {"cuda_architectures": "8.0;9.0+PTX"})
    monkeypatch.setattr(_devices, "load", lambda name: (object(), ""))
    _devices._image_problem.cache_clear()
    try:
        assert "compiled for 8.0;9.0+PTX, and this GPU is of compute capability 7.5" in _devices.compiled_problem()
    finally:
        _devices._image_problem.cache_clear()


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_who_asks_is_told_of_tf32(
    launch: Callable[..., str], dtype: torch.dtype, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_library, "_told_of_tf32", {"some_op_fwd"})
    told: list[bool] = []
    monkeypatch.setattr(torch.ops.aminet_fast_cuda, "some_op_fwd", lambda x, *, tf32: told.append(tf32))
    x = torch.zeros(1, 24, 2, 2, dtype=dtype)
    with tf32_products(allowed):
        _library._launch("some_op", "some_op_fwd", lambda x: (x, 24), lambda x: "", x)
    assert told == [allowed and dtype == torch.float32]


class Asked(TorchDispatchMode):
    """Every operator that can be asked for a backend is, and has to answer as without."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func._schema.name in CHOOSING:
            self.asked.add(func._schema.name)
            given = _library._without_backend(True, args)[0]
            other = func(*given, **(kwargs or {}), backend="cuda")
            torch.testing.assert_close(other, found, rtol=0, atol=0, equal_nan=True)
        return found


@pytest.mark.skipif(load("_C")[0] is None, reason=f"needs the CPU extension: {load('_C')[1]}")
def test_on_the_cpu_the_argument_says_nothing() -> None:
    with Asked() as asked:
        for operator in ("channel_attention", "multiscale_dwconv", "norm_act_conv", "rdfe_front", "skaf_descriptor"):
            check_numbers(first_case(operator), torch.float32, backend="cpu")
    # There weights are packed for forward alone.
    assert asked.asked == set(CHOOSING) - {"aminet_fast::skaf_descriptor_bwd_packed"}


def test_auto_among_two_says_what_no_device_has_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backends.VARIABLE, raising=False)
    monkeypatch.setitem(backends._operators, "new_op", backends._Operator())
    backends.register("new_op", "cuda", "cuda", lambda: "")
    backends.register("new_op", "cuda", "triton", lambda: "")
    confirmed = {"triton": {"bfloat16"}, "cuda": set()}
    monkeypatch.setattr(backends.confirmation, "dtypes", lambda operator, backend: confirmed[backend])
    for dtype, names in ((None, "cuda"), (torch.bfloat16, "cuda"), (torch.float32, "cuda and triton")):
        choice = backends.explain("new_op", "cuda", dtype=dtype)
        assert (choice.backend, choice.missed, choice.unconfirmed) == ("auto", False, True)
        assert choice.reason.endswith(f"; no cuda device has confirmed {names} yet")
    confirmed["cuda"] = {"bfloat16"}
    assert not backends.explain("new_op", "cuda", dtype=torch.bfloat16).unconfirmed
