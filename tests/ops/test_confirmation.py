"""What a GPU has confirmed: counted while the kernels are those that ran."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from aminet_fast import ops
from aminet_fast.commands.cli import main
from aminet_fast.ops import backends, confirmation
from aminet_fast.ops import sources as _sources
from tests.harness import ROOT

assert ops.__all__
Write = Callable[..., None]


def entry(**changes: Any) -> dict[str, Any]:
    source = confirmation.source("skaf_gate", "triton")
    about = {"operator": "skaf_gate", "backend": "triton", "dtype": "bfloat16", "source": source, "device": "GPU 1"}
    return {**about, "versions": {"torch": "2.11", "triton": "3.6"}, **changes}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """write(entry, ...): the table has these for this test."""
    monkeypatch.setattr(confirmation, "TABLE", tmp_path / "confirmed.json")

    def written(*entries: dict[str, Any]) -> None:
        confirmation.TABLE.write_text(json.dumps({"entries": entries}))
        confirmation.forget()

    yield written
    confirmation.forget()


def test_the_table_that_is_there() -> None:
    for found in confirmation.table():
        registered = {name for name, _ in backends._operators[found.operator].backends["cuda"]}
        assert found.backend in registered
        assert hasattr(torch, found.dtype)
        assert len(found.source) == _sources.LENGTH
        assert {"torch", "triton"} <= dict(found.versions).keys()


def test_an_entry_counts_while_the_kernels_are_those(write: Write) -> None:
    write(entry(), entry(dtype="float32", source="0" * _sources.LENGTH))
    assert confirmation.dtypes("skaf_gate", "triton") == {"bfloat16"}
    assert confirmation.dtypes("skaf_gate", "cuda") == frozenset()
    assert not backends.explain("skaf_gate", "cuda", "auto", torch.bfloat16).unconfirmed
    choice = backends.explain("skaf_gate", "cuda", "auto", torch.float32)
    assert choice.unconfirmed
    assert "no cuda device has confirmed it yet" in choice.reason
    assert not backends.explain("skaf_gate", "cpu", "auto", torch.float32).unconfirmed


def test_info_prints_what_counts_and_what_does_not(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write(entry(), entry(dtype="float32", source="0" * _sources.LENGTH))
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["confirmed"] == {
        "skaf_gate, triton, bfloat16": "GPU 1, torch 2.11, triton 3.6",
        "skaf_gate, triton, float32": "GPU 1, torch 2.11, triton 3.6: of other kernels than are here, which no GPU has "
        "confirmed",
    }


@pytest.mark.parametrize("changes", [{"device": ""}, {"more": 1}, {"source": "unknown"}, {"dtype": 3}])
def test_what_is_no_entry_raises(changes: dict[str, Any], write: Write) -> None:
    write(entry(**changes))
    with pytest.raises(ValueError, match=r"confirmed\.json"):
        confirmation.table()


def test_a_hash_is_of_a_file_and_all_that_it_names(tmp_path: Path) -> None:
    files = {
        "op.py": "from .op_parts import (\n    part,\n)\nx = part\n",
        "op_parts.py": "from ._common import y\npart = y\n",
        "_common.py": "y = 1\n",
        "other.py": "z = 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    before = _sources.of_triton("op", tmp_path)
    (tmp_path / "other.py").write_text("z = 2\n")
    (tmp_path / "op.py").write_text("# a comment\n\n" + files["op.py"])
    assert _sources.of_triton("op", tmp_path) == before
    (tmp_path / "_common.py").write_text("y = 2\n")
    assert _sources.of_triton("op", tmp_path) != before
    assert _sources.of_triton("no_op", tmp_path) == ""


def test_a_hash_of_cuda_follows_its_includes(tmp_path: Path) -> None:
    cuda = tmp_path / "cuda"
    cuda.mkdir()
    (cuda / "op.cu").write_text('#include <tuple>\n#include "cuda/op.cuh"\n')
    (cuda / "op.cuh").write_text("// says\nint f();\n")
    before = _sources.all_of_cuda(tmp_path)
    (cuda / "op.cuh").write_text("// says more\nint f();\n")
    assert _sources.all_of_cuda(tmp_path) == before
    (cuda / "op.cuh").write_text("int g();\n")
    assert _sources.all_of_cuda(tmp_path)["op"] != before["op"]


def test_every_kernel_names_others_as_the_hash_reads_it() -> None:
    for path in (ROOT / "kernels").glob("*.py"):
        assert "from . import" not in path.read_text(), path.name
    operators = backends.operators()
    hashes = {confirmation.source(operator, "triton") for operator in operators}
    assert confirmation.UNKNOWN not in hashes
    assert len(hashes) == len(operators)


def test_without_sources_the_build_says_what_it_compiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(confirmation, "__file__", str(tmp_path / "aminet_fast" / "ops" / "confirmation.py"))
    monkeypatch.setattr(confirmation, "build_facts", lambda: {"cuda_sources": {"rdfe_front": "ab12"}})
    confirmation.forget()
    try:
        assert confirmation.source("rdfe_front", "cuda") == "ab12"
        assert confirmation.source("skaf_gate", "cuda") == confirmation.source("skaf_gate", "triton") == "unknown"
    finally:
        confirmation.forget()
