"""``aminet info`` in words and as JSON."""

from __future__ import annotations

import json

import pytest
import torch

from aminet_fast.commands import installation as info
from aminet_fast.commands.cli import main
from aminet_fast.ops import backends


def collected(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    assert main(["info", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_has_every_section(capsys: pytest.CaptureFixture[str]) -> None:
    sections = collected(capsys)
    assert sections["versions"]["torch"] == torch.__version__
    described = ["versions", "devices", "compiled", "operators", "dispatch", "confirmed", "networks", "extras"]
    described += ["environment"]
    assert list(sections) == described
    assert set(sections["extras"]) == set(info.EXTRAS)
    assert "layer_norm2d on cpu" in sections["operators"]
    assert sections["networks"]["aminet-tiny"] == "width 12, hourglass_width 16"


def test_no_gpu_is_said_not_raised(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert collected(capsys)["devices"]["cuda"].startswith("none: ")


def test_table_shows_why_a_module_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    why = "aminet_fast._compiled._C is there but does not load: undefined symbol [bold]"
    monkeypatch.setattr(info, "load", lambda name: (None, why))
    assert main(["info"]) == 0
    assert why in " ".join(capsys.readouterr().out.split())


def test_reason_follows_the_environment(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.VARIABLE, "reference")
    sections = collected(capsys)
    assert sections["operators"]["layer_norm2d on cpu"] == "reference (AMINET_FAST_BACKEND=reference)"
    assert sections["environment"]["AMINET_FAST_BACKEND"] == "reference"


def test_unknown_backend_is_an_error(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.VARIABLE, "gpu")
    assert main(["info"]) == 2
    assert "AMINET_FAST_BACKEND='gpu' is unknown" in capsys.readouterr().err


def test_facts_of_the_build_are_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {
        "compiler": "g++ 12",
        "torch": "2.13.0",
        "cxx_flags": ["-O3", "-Wall"],
        "cuda_architectures": "8.0;9.0",
    }
    monkeypatch.setattr(info, "build_facts", lambda: facts)
    compiled = collected(capsys)["compiled"]
    assert compiled["built with compiler"] == "g++ 12"
    assert compiled["built with cxx_flags"] == "-O3 -Wall"
    assert compiled["built with cuda_architectures"] == "8.0;9.0"
    assert set(compiled) >= {"_C", "_C_cuda"}
