"""The static model of a GPU (benchmarks/gpu_model): counts of launches, and how it reads and counts code.

Counts are exact, and pinned as upper bounds. No time is tested: there is no GPU to compare with.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_model import compiled, costs, counted, flow, lined, report, sass, trips, ttir
from benchmarks.gpu_model.collect import collect
from benchmarks.gpu_model.floors import floors
from benchmarks.gpu_model.launches import Launch, bare

# By call (mode, batch, dtype): at most so many. Vectors: launches of torch's own that touch no image. Casts: bytes.
MOST = {
    ("train", 32, "bf16"): {"launches": 1008, "aten_on_vectors": 49, "image_cast_bytes": 18_874_368},
    ("infer", 1, "bf16"): {"launches": 214},
}


def compiler_problem() -> str:
    """Why nothing can be run on the emulator here."""
    from tests.harness.cuda import build

    if shutil.which(os.environ.get("CXX", "g++")) is None:
        return "there is no C++ compiler"
    try:
        build.cuda_headers()
    except FileNotFoundError as error:
        return str(error)
    return ""


def numbers(mode: str, batch: int, dtype: str, folder: Path, compiling: bool) -> dict[str, Any]:
    pytest.importorskip("triton.backends.nvidia")
    launches = collect(mode, batch, dtype, folder, compiling=compiling)
    return report.counts(compiled.split(launches, running=False))


@pytest.mark.gpuless
@pytest.mark.parametrize("call", MOST, ids=lambda call: "-".join(map(str, call)))
def test_counts(call: tuple[str, int, str], tmp_path: Path) -> None:
    """Only counted: no kernel is compiled for it."""
    pytest.importorskip("pybind11")
    if problem := compiler_problem():
        pytest.skip(problem)
    found = numbers(*call, tmp_path, compiling=False)
    assert {name: found[name] for name, most in MOST[call].items() if found[name] > most} == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_counts_are_those_of_what_is_compiled(tmp_path: Path) -> None:
    found = [numbers("infer", 1, "bf16", tmp_path / str(compiling), compiling) for compiling in (False, True)]
    assert found[0] == found[1]


# A loop of ten instructions with a loop of four in it, and what is straight.
CODE = [
    (0x00, "S2R R0, SR_TID.X"),
    (0x10, "LDG.E.128 R4, desc[UR4][R2.64]"),
    (0x20, "FFMA R8, R4, R5, R8"),
    (0x30, "HMMA.16816.F32.BF16 R8, R4, R6, R8"),
    (0x40, "@P1 LDS.64 R6, [R2]"),
    (0x50, "@!P0 BRA 0x30"),
    (0x60, "STS.U16 [R3], R8"),
    (0x70, "MUFU.EX2 R9, R8"),
    (0x80, "@P2 BRA 0x10"),
    (0x90, "EXIT"),
    (0xA0, "BRA 0xa0"),
    (0xB0, "NOP"),
]


def test_sass_loops_and_totals() -> None:
    code = sass.analyse(CODE)
    assert code.loops == [(0x10, 0x80), (0x30, 0x50)]
    assert (code.parent(1), code.parent(0)) == (0, None)
    assert (code.size(0), code.size(1), code.instructions) == (8, 3, 11)
    executions, part = [2.0, 10.0], 1.0
    counted_by, lsu, tensor = sass.totals(code, executions, part)
    assert counted_by == {
        "S2R": 1, "LDG": 2, "FMA": 2, "HMMA": 10, "LDS": 10, "BRA": 10 + 2 + 2, "STS": 2, "XU": 2
    }  # fmt: skip
    assert lsu == 2 * 4 + 10 * 2 + 2 * 1
    assert tensor == pytest.approx(10 * 1.7)
    assert sass.unpacked(json.loads(json.dumps(sass.packed(code)))) == code


def test_a_part_of_a_kernel_without_loops() -> None:
    """Of norm_act_conv's packing of seven weights a program runs one branch."""
    straight = sass.analyse([(0x0, "LDG.E.128 R4, desc[UR4][R2.64]"), (0x10, "FADD R4, R4, R5"), (0x20, "EXIT")])
    whole, lsu, _ = sass.totals(straight, [])
    part, part_lsu, _ = sass.totals(straight, [], trips.part_taken("_pack", {"COUNT": 7}))
    assert part == {name: pytest.approx(number / 7) for name, number in whole.items()}
    assert (lsu, part_lsu) == (4, pytest.approx(4 / 7))


@pytest.mark.parametrize(
    ("instruction", "kind", "lsu", "tensor"),
    [
        ("@!P0 LDG.E.U16.CONSTANT R4, desc[UR4][R2.64]", "LDG", 1, None),
        ("LDGSTS.E.BYPASS.128 [R5], desc[UR4][R2.64]", "LDGSTS", 4, None),
        ("LDGSTS.E.64 [R5], desc[UR4][R2.64]", "LDGSTS", 4, None),
        ("LDSM.16.M88.4 R4, [R2]", "LDS", 4, None),
        ("LDSM.16.MT88.2 R4, [R2]", "LDS", 2, None),
        ("UIADD3 UR4, UR4, 0x1, URZ", "UNI", 0, None),
        ("HMMA.1688.F32.TF32 R8, R4, R6, R8", "HMMA", 0, 1.7),
        ("HGMMA.64x32x16.F32.BF16 R24, gdesc[UR4], R24", "HGMMA", 0, 4.0),
        ("PRMT R4, R4, 0x5410, R5", "ALU", 0, None),
    ],
)
def test_sass_units(instruction: str, kind: str, lsu: float, tensor: float | None) -> None:
    assert sass.kind(instruction) == kind
    assert sass.lsu_cycles(instruction) == lsu
    if tensor is not None:
        assert sass.tensor_cycles(instruction) == pytest.approx(tensor)


# Programs of x take `parts` in strides; a loop with a bound from memory follows.
TTIR = """
module {
  tt.func public @kernel(%x: !tt.ptr<f32> loc("x"), %parts: i32 loc("parts"), %from: !tt.ptr<i32>) {
    %c1 = arith.constant 1 : i32
    %c4 = arith.constant 4 : i32
    %cst = arith.constant dense<0.0> : tensor<32xf32>
    %pid = tt.get_program_id x : i32
    %grid = tt.get_num_programs x : i32
    %acc = scf.for %n = %pid to %parts step %grid iter_args(%a = %cst) -> (tensor<32xf32>)  : i32 {
      %inner = scf.for %k = %c1 to %c4 step %c1 iter_args(%b = %a) -> (tensor<32xf32>)  : i32 {
        scf.yield %b : tensor<32xf32>
      }
      scf.yield %inner : tensor<32xf32>
    }
    %end = tt.load %from : !tt.ptr<i32>
    %rest = scf.for %m = %c1 to %end step %c1 iter_args(%d = %acc) -> (tensor<32xf32>)  : i32 {
      scf.yield %d : tensor<32xf32>
    }
    tt.return
  }
}
"""


def test_ttir_passes(tmp_path: Path) -> None:
    path = tmp_path / "kernel.ttir"
    path.write_text(TTIR)
    outer, inner, rest = ttir.loops(path, {"parts": 10}, (4, 1, 1))
    assert (outer.depth, outer.executions, outer.known, outer.fixed) == (0, pytest.approx(2.5), True, None)
    assert (inner.depth, inner.executions, inner.known, inner.fixed) == (1, pytest.approx(7.5), True, 3)
    assert not rest.known


def test_trips_find_unrolled_loops_and_report_unknown_ones() -> None:
    code = sass.analyse(CODE)  # two loops, one in the other
    loops = [ttir.Loop(0, 5.0), ttir.Loop(1, 20.0, fixed=4), ttir.Loop(1, 60.0)]
    found = trips.trips(code, loops)
    assert found == trips.Trips([5.0, 60.0], 0)  # that of four passes was unrolled
    loops[2].known = False
    assert trips.trips(code, loops).unknown == 1
    assert trips.trips(code, loops[:1]).unknown == 2  # the machine code has more loops: guesses


def launch(**about: Any) -> Launch:
    given = {"kind": "triton", "name": "kernel", "operator": "rdfe_front_fwd", "size": "24@128", "phase": "forward"}
    return Launch(**(given | {"tensors": {"x": ((32, 24, 128, 128), "bfloat16")}} | about))


def test_factors_are_found_by_kernel_constants_bound_and_blocks() -> None:
    assert all(row.factor >= 1 for row in costs.factors())
    by_kernel = [costs.factor(launch(name=name), "issue").factor for name in ("kernel", "fuse_gradient", "gram_kernel")]
    assert by_kernel == [2.0, 3.4, 1.6]
    shared = [
        costs.factor(launch(name="_filter_kernel", constants={"SHARED": s}), "issue").factor for s in (True, False)
    ]
    assert shared == [1.2, 1.7]
    assert costs.factor(launch(), "bytes").factor == 1.3
    compiled_kernels = {
        (bound, blocks): costs.factor(launch(kind="cuda", blocks=blocks), bound).factor
        for bound in ("bytes", "tensor", "issue", "lsu")
        for blocks in (1, 2)
    }
    assert compiled_kernels == {
        ("bytes", 1): 1.3, ("bytes", 2): 1.3, ("tensor", 1): 1.3, ("tensor", 2): 1.3,
        ("issue", 1): 2.0, ("issue", 2): 1.6, ("lsu", 1): 2.0, ("lsu", 2): 1.6,
    }  # fmt: skip
    assert bare("rdfe::back<bf16, 8, true>") == bare("back") == "back"


def test_the_busiest_unit_bounds_a_launch() -> None:
    code = sass.analyse(CODE)
    units = costs.unit_times(code, [100.0, 1000.0], programs=264, warps=4, part=1.0)
    assert units["tensor"] == pytest.approx(1000 * 1.7 * 4 * 2 / costs.CLOCK * 1e6)
    found = costs.bounded(launch(), units | {"bytes": costs.bytes_time(launch())})
    assert found.bound == "lsu"
    assert found.us == pytest.approx(costs.GAP + 2.0 * units["lsu"])
    few = costs.bounded(launch(), {"issue": 0.01})
    assert few.us == costs.GAP + costs.SHORTEST


# Two copies of line 12 in a loop and one in the loop for what is left; a loop of which nothing is counted.
LINED = r"""
	.section	.text.kernel,"ax",@progbits
.text.kernel:
	//## File "/x/csrc/cuda/rdfe_front_fuse.cuh", line 10
        /*0000*/                   S2R R0, SR_TID.X ;
        /*0010*/              @P0 BRA `(.L_x_2) ;
.L_x_1:
	//## File "/x/csrc/cuda/mma.h", line 40 inlined at "/x/csrc/cuda/rdfe_front_fuse.cuh", line 12
	//## File "/x/csrc/cuda/rdfe_front_fuse.cuh", line 12
        /*0020*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;
        /*0030*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;
        /*0040*/              @P1 BRA `(.L_x_1) ;
.L_x_2:
        /*0050*/              @P2 BRA `(.L_x_4) ;
.L_x_3:
        /*0060*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;
        /*0070*/                   IADD3 R1, R1, 0x1, RZ ;
        /*0080*/                   IADD3 R1, R1, 0x1, RZ ;
        /*0090*/              @P3 BRA `(.L_x_3) ;
.L_x_4:
	//## File "/x/csrc/cuda/rdfe_front_fuse.cuh", line 20
        /*00a0*/                   LDG.E.64 R2, desc[UR4][R2.64] ;
.L_x_5:
	//## File "/x/csrc/cuda/rdfe_front_fuse.cuh", line 21
        /*00b0*/                   IADD3 R1, R1, 0x1, RZ ;
        /*00c0*/              @P4 BRA `(.L_x_5) ;
        /*00d0*/                   EXIT ;
.L_x_6:
        /*00e0*/                   BRA `(.L_x_6);
"""
AT = "rdfe_front_fuse.cuh"


def lined_kernel() -> list[lined.Instruction]:
    return lined.parsed(LINED.splitlines(), frozenset({AT, "mma.h"}))["kernel"]


def test_lines_of_machine_code() -> None:
    code = lined_kernel()
    assert [i.text.split()[0] for i in code[:3]] == ["S2R", "@P0", "HMMA.16816.F32.BF16"]
    assert code[2].place == ((AT, 12),)  # where the helper was called
    assert (code[2].labels, code[1].target, code[1].guarded) == ([".L_x_1"], ".L_x_2", True)
    assert lined._unpacked(json.loads(json.dumps(lined._packed(code)))) == code


def test_passes_that_explain_what_was_counted() -> None:
    sites = [
        flow.Site(((AT, 12),), "product", 1, 41.0, 41.0),
        flow.Site(((AT, 19),), "load global", 4, 1.0, 1.0),  # half of what one instruction loads; a line beside
        flow.Site(((AT, 19),), "load global", 4, 1.0, 1.0),
    ]
    found = flow.flow(lined_kernel(), sites)
    twice, rest = (found.passes[n] for n, b in enumerate(found.blocks) if "HMMA" in b.instructions[0].text)
    assert 2 * twice + rest == pytest.approx(41, rel=1e-4)
    assert twice >= 20  # the copy with fewer instructions a product
    assert found.explained == pytest.approx(1)
    assert found.unknown == 1  # of line 21: nothing there is counted
    counts, lsu, tensor = flow.totals(found)
    assert counts["HMMA"] == pytest.approx(41, rel=1e-4)
    assert tensor == pytest.approx(41 * 1.7, rel=1e-4)
    assert lsu == pytest.approx(2, rel=1e-4)


def test_a_count_at_no_known_place_makes_loops_unknown() -> None:
    """What was counted there may have been done in any of them."""
    found = flow.flow(lined_kernel(), [flow.Site((("other.cuh", 3),), "product", 1, 8.0, 8.0)])
    assert found.unknown == 3


PRODUCT = "HMMA.16816.F32.BF16 R4, R4, R8, R4"


def test_calls_that_are_folded_into_one() -> None:
    """One product before a loop and ten in it, to nine of which nvcc gave the line of another call."""
    code = [
        lined.Instruction(PRODUCT, ((AT, 12), (AT, 30)), []),
        lined.Instruction(PRODUCT, ((AT, 12), (AT, 40)), [".L_x_1"]),
        lined.Instruction("@P1 BRA `(.L_x_1)", (), [], ".L_x_1"),
        lined.Instruction("EXIT", (), []),
    ]
    sites = [
        flow.Site(((AT, 12), (AT, 30)), "product", 1, 9.0, 9.0),
        flow.Site(((AT, 12), (AT, 40)), "product", 1, 2.0, 2.0),
    ]
    found = flow.flow(code, sites)
    assert found.passes == pytest.approx([1, 10, 1], rel=1e-4)
    assert found.explained == pytest.approx(1)


def test_what_is_predicated_is_passed_by_threads_that_do_not_do_it() -> None:
    """A quarter of the threads store, in a block that all of them pass."""
    code = [
        lined.Instruction("@P0 BRA `(.L_x_1)", (), [], ".L_x_1"),
        lined.Instruction(PRODUCT, ((AT, 12),), []),
        lined.Instruction("@P1 STS [R2], R4", ((AT, 14),), []),
        lined.Instruction("@P2 STS.64 [R2], R4", ((AT, 14),), []),
        lined.Instruction("STS [R3], R4", ((AT, 14),), []),
        lined.Instruction("EXIT", (), [".L_x_1"]),
    ]
    sites = [
        flow.Site(((AT, 12),), "product", 1, 1.0, 1.0),
        flow.Site(((AT, 14),), "store shared", 16, 1.0, 0.25),
    ]
    found = flow.flow(code, sites)
    assert found.passes[1] == pytest.approx(1, rel=1e-4)
    assert found.explained == pytest.approx(1)


def test_what_never_runs_costs_the_load_store_unit_nothing() -> None:
    assert sass.lsu_cycles("@!PT LDS RZ, [RZ]") == 0
    assert sass.lsu_cycles("@!P1 LDS R4, [R2]") == 1
    assert flow.event("@!PT LDS RZ, [RZ]") is None


def test_the_type_that_a_call_is_counted_in() -> None:
    """Parameters are float32 beside images of 16 bits, and an argmax has no say."""
    image, weight, argmax = ({"shape": [1], "stride": [1], "dtype": d} for d in ("bfloat16", "float32", "int8"))
    assert counted.item_bytes([weight, [argmax, weight], True, None, 1.0]) == 4
    assert counted.item_bytes([weight, [image, weight], [], None]) == 2


@pytest.mark.gpuless
def test_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel of which every count is known, on the emulator: tests/harness/cuda/counted.cu."""
    pytest.importorskip("pybind11")
    if problem := compiler_problem():
        pytest.skip(problem)
    tensors = [
        {"shape": [5, 64, 8], "stride": [512, 8, 1], "dtype": "float16"},
        {"shape": [5, 64], "stride": [64, 1], "dtype": "float32"},
    ]
    made = counted.library(counted.EMULATOR / "counted.cu")
    launches, wrong = counted.launches_of(
        made, [("counted", [*tensors, 3]), ("counted", [tensors[0]])], frozenset({"counted.cu"})
    )
    assert isinstance(wrong, counted.CountingError)
    assert isinstance(launches, list)
    (one,) = launches
    assert (one.name, one.grid, one.threads, one.shared) == ("counted", (5, 1, 1), 64, 1024)
    assert one.bytes == 5 * 64 * 8 * 2 + 5 * 64 * 4  # x once, though it is read twice
    found: dict[str, float] = {}
    for site in one.sites:
        assert site.place
        found[site.event] = found.get(site.event, 0.0) + site.warps * site.unit
    assert found == {
        "copy": 1, "barrier": 4, "matrices": 3, "product": 6, "shuffle": 5,
        "load global": 3 * 16, "store shared": 3 * 16, "store global": 4,
    }  # fmt: skip
    (some,) = [site for site in one.sites if site.event == "store shared"]
    assert (some.warps, some.threads) == (3, 0.75)  # eight of 32 lanes; the others wait


def test_a_kernel_that_is_not_explained_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = flow.blocks_of(lined_kernel())
    found = flow.Flow(blocks, [1.0] * len(blocks), 0, explained=0.2)
    monkeypatch.setattr(compiled, "_flow", lambda source, counted: found)
    monkeypatch.setattr(compiled, "source_of", lambda name: Path("rdfe_front.cu"))
    given = counted.Counted("front", "symbol", (1, 1, 1), 32, 0, (), 4.2e6)
    one = launch(
        kind="cuda", name="front", constants={"counted": given, "call": "rdfe_front_fwd"}, grid=(1, 1, 1), warps=1
    )
    estimate = compiled.estimate(one)
    assert (estimate.bound, estimate.static) == ("not modelled", pytest.approx(1.0))
    said = report.summary([one], [estimate], {})
    assert said["not_modelled"] == ["rdfe_front_fwd front (CUDA C++)"]
    found.explained = 0.9
    assert compiled.estimate(one).bound != "not modelled"


def test_report() -> None:
    """Operators that the floors do not know are listed without one; loops of unknown passes are named."""
    known = floors(32, "train")
    assert {"rdfe_front_fwd", "norm_act_conv_bwd"} <= set(known)
    assert not any(name.endswith("_bwd") for name in floors(1, "infer"))
    vector = {"in0": ((24,), "float32")}
    cast = {"in0": ((1, 24, 16, 16), "float32"), "out0": ((1, 24, 16, 16), "bfloat16")}
    launches = [
        launch(),
        launch(operator="nobody_knows", name="other"),
        launch(kind="aten", operator="torch", name="mul", tensors=vector),
        launch(kind="aten", operator="torch", name="_to_copy", tensors=cast),
    ]
    estimates = [costs.Estimate(3e3, 2.0, "issue", {}, unknown=2), *[costs.Estimate(1e3, 1.0, "aten", {})] * 3]
    call = {"mode": "train", "batch": 32, "dtype": "bf16", "torch": torch.__version__, "triton": "3.8.0"}
    found = call | report.summary(launches, estimates, known)
    assert (found["launches"], found["aten_on_vectors"], found["image_cast_bytes"]) == (4, 1, 24 * 256 * 6)
    assert found["estimated_ms"] == 6
    assert found["operator_ms"]["nobody_knows"] == 1
    assert "floor_us" not in found["operators"]["nobody_knows"]
    assert found["operators"]["rdfe_front_fwd"]["floor_us"] > 0
    printed = report.text(found)
    assert "trip count unknown: 2" in printed
    assert "2 rdfe_front_fwd 24@128 kernel" in printed


@pytest.mark.gpuless
def test_launches_of_a_compiled_operator(tmp_path: Path) -> None:
    """Found whether the module is built or not; each is one of its source's kernels."""
    pytest.importorskip("triton.backends.nvidia")
    pytest.importorskip("pybind11")
    if problem := compiler_problem():
        pytest.skip(problem)
    calls = collect("infer", 1, "bf16", tmp_path, prefer_compiled=True, compiling=False)
    of_skaf = [call for call in calls if call.name == "skaf_descriptor_fwd"]
    assert len(of_skaf) == 11
    found = compiled.split(of_skaf[:1], running=False)
    # Weights are packed by freeze; 64 large tiles do not fill a GPU, so that small ones serve, in groups of outputs.
    assert [(one.kind, bare(one.name)) for one in found] == [("cuda", "tiles_kernel"), ("cuda", "join_kernel")]
    assert all(one.operator == "skaf_descriptor_fwd" for one in found)
