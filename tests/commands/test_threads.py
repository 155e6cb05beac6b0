"""The commands choose how long waiting threads spin, before torch is loaded, unless their user has."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import torch

from aminet_fast.commands.cli import main
from aminet_fast.commands.threads import CHOICES, SPINCOUNT, SPINS, spin_briefly

NOBODYS = {name: value for name, value in os.environ.items() if name not in CHOICES}


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**NOBODYS, **variables}
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=True)


def test_openmp_has_it_when_torch_is_loaded() -> None:
    """In its own word."""
    script = "from aminet_fast.commands.cli import main; main(['--version']); import torch"
    said = run("-c", script, OMP_DISPLAY_ENV="VERBOSE").stderr
    if "GOMP_SPINCOUNT" not in said:
        pytest.skip("torch is here with another OpenMP than GNU's")
    assert re.search(r"GOMP_SPINCOUNT = '(\d+)'", said)[1] == str(SPINS)  # type: ignore[index]


def test_info_lists_the_variables(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in CHOICES:
        monkeypatch.setenv(name, "PASSIVE")
    assert main(["info", "--json"]) == 0
    environment = json.loads(capsys.readouterr().out)["environment"]
    assert {name: environment[name] for name in CHOICES} == dict.fromkeys(CHOICES, "PASSIVE")


@pytest.mark.parametrize(
    ("own", "spins"),
    [({}, str(SPINS)), ({"OMP_WAIT_POLICY": "ACTIVE"}, None), ({SPINCOUNT: "7"}, "7"), ({"KMP_BLOCKTIME": "0"}, None)],
)
def test_the_users_choice_wins_and_processes_inherit_it(own: dict[str, str], spins: str | None) -> None:
    script = (
        "import os, runpy, sys\n"
        "sys.argv = ['aminet', '--version']\n"
        "try: runpy.run_module('aminet_fast', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "os.execv(sys.executable, [sys.executable, '-c', 'import os; print(os.environ.get(\"GOMP_SPINCOUNT\"))'])"
    )
    assert run("-u", "-c", script, **own).stdout.splitlines()[-1] == str(spins)


def test_once_torch_is_loaded_it_is_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.get_num_threads() > 0
    for name in CHOICES:
        monkeypatch.delenv(name, raising=False)
    spin_briefly()
    assert SPINCOUNT not in os.environ
