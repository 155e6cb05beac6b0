"""The build's decisions, and (slow) real installs into fresh environments."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.harness import ROOT


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module build_plan of the source tree."""
    monkeypatch.syspath_prepend(str(ROOT / "build_backend"))
    monkeypatch.delenv("AMINET_FAST_BUILD", raising=False)
    import build_plan

    yield build_plan
    sys.modules.pop("build_plan", None)


@pytest.fixture
def toolchain(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module build_toolchain of the source tree."""
    monkeypatch.syspath_prepend(str(ROOT / "build_backend"))
    import build_toolchain

    yield build_toolchain
    sys.modules.pop("build_toolchain", None)


@pytest.mark.parametrize(
    ("request_", "compiler", "cuda", "cpu_built", "cuda_built", "note"),
    [
        ("auto", "", "", True, True, ""),
        ("auto", "", "no nvcc", True, False, "CUDA extension not compiled: no nvcc"),
        ("auto", "no g++", "", False, False, "CPU extension not compiled: no g++"),
        ("none", "no g++", "no nvcc", False, False, "nothing compiled: AMINET_FAST_BUILD=none"),
        ("cpu", "", "", True, False, "CUDA extension not compiled: AMINET_FAST_BUILD=cpu"),
        ("cuda", "", "", True, True, ""),
    ],
)
def test_what_is_compiled(
    plan: ModuleType, request_: str, compiler: str, cuda: str, cpu_built: bool, cuda_built: bool, note: str
) -> None:
    decided = plan.decide(request_, compiler, cuda)
    assert (decided.cpu, decided.cuda, " ".join(decided.notes)) == (cpu_built, cuda_built, note)


def test_cuda_is_compiled_for_the_gpus_that_are_here(plan: ModuleType) -> None:
    assert plan.for_gpus([(9, 0), (8, 0), (9, 0), (7, 5)]) == ("8.0;9.0", "")
    assert plan.for_gpus([(12, 0)]) == ("12.0", "")
    old, none = plan.for_gpus([(7, 5)]), plan.for_gpus([])
    assert old[0] == none[0] == ""
    assert old[1].startswith("the GPUs here are of 7.5, and the kernels need 8.0 or newer; TORCH_CUDA_ARCH_LIST=")
    assert none[1].startswith("no GPU is here; TORCH_CUDA_ARCH_LIST=")


@pytest.mark.parametrize(
    ("request_", "asked", "gpus", "cuda", "architectures"),
    [
        ("auto", "", [], False, ""),
        ("auto", "", [(9, 0)], True, "9.0"),
        ("auto", "8.6", [], True, "8.6"),
        ("auto", "8.6", [(9, 0)], True, "8.6"),
        ("cuda", "", [], True, "8.0;8.6;8.9;9.0;10.0+PTX"),
        ("cuda", "9.0", [], True, "9.0"),
        ("cpu", "9.0", [(9, 0)], False, ""),
    ],
)
def test_which_architectures(
    plan: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    request_: str,
    asked: str,
    gpus: list[tuple[int, int]],
    cuda: bool,
    architectures: str,
) -> None:
    """A toolkit that lies around is no reason to compile CUDA."""
    import torch

    monkeypatch.setenv("AMINET_FAST_BUILD", request_)
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", asked)
    monkeypatch.setenv("CUDA_HOME", "/toolkit")
    monkeypatch.setattr(plan, "compiler_problem", lambda command: "")
    monkeypatch.setattr(plan, "cuda_problem", lambda *arguments: "")
    monkeypatch.setattr(plan, "toolkit", lambda: "/toolkit")
    monkeypatch.setattr(plan, "toolkit_version", lambda home: "13.0")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(gpus))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: gpus[index])
    made = plan.make_plan(["a.cu"])
    assert (made.cpu, made.cuda, made.architectures) == (True, cuda, architectures)


@pytest.mark.parametrize(
    ("request_", "compiler", "cuda"), [("cpu", "no g++", ""), ("cuda", "no g++", ""), ("cuda", "", "no g++")]
)
def test_an_order_that_cannot_be_met_is_one_line(plan: ModuleType, request_: str, compiler: str, cuda: str) -> None:
    with pytest.raises(plan.BuildError) as error:
        plan.decide(request_, compiler, cuda)
    assert str(error.value) == f"AMINET_FAST_BUILD={request_} cannot be met: no g++"


@pytest.mark.parametrize(("value", "expected"), [("", "auto"), ("auto", "auto"), (" CPU ", "cpu"), ("none", "none")])
def test_request_is_read(plan: ModuleType, value: str, expected: str) -> None:
    assert plan.requested({"AMINET_FAST_BUILD": value}) == expected
    assert plan.requested({}) == "auto"


def test_unknown_request_lists_the_known(plan: ModuleType) -> None:
    with pytest.raises(plan.BuildError, match="'gpu' is unknown: use one of auto, none, cpu, cuda"):
        plan.requested({"AMINET_FAST_BUILD": "gpu"})


@pytest.mark.parametrize(
    ("request_", "torch", "problem", "expected"),
    [
        ("auto", "2.13.0+cpu", "", ["ninja"]),
        ("auto", "2.11.0", "", ["ninja"]),
        ("auto", "3.0.0a0+git123", "", ["ninja"]),
        ("auto", "2.10.1", "", ["ninja", "torch>=2.11"]),
        ("auto", None, "", ["ninja", "torch>=2.11"]),
        ("cpu", None, "", ["ninja", "torch>=2.11"]),
        ("auto", None, "no g++", []),
        ("none", None, "", []),
    ],
)
def test_torch_is_required_only_where_it_is_missing(
    plan: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    request_: str,
    torch: str | None,
    problem: str,
    expected: list[str],
) -> None:
    monkeypatch.setenv("AMINET_FAST_BUILD", request_)
    assert plan.build_requirements(lambda: (torch, []), lambda: problem) == expected


def test_backend_refuses_before_anything_is_fetched(plan: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import aminet_build

    monkeypatch.setenv("AMINET_FAST_BUILD", "cpu")
    monkeypatch.setenv("CXX", "/nowhere/c++")
    with pytest.raises(SystemExit, match=r"error: AMINET_FAST_BUILD=cpu cannot be met: .*'/nowhere/c\+\+'.*set CXX"):
        aminet_build.get_requires_for_build_editable()
    assert aminet_build.get_requires_for_build_sdist() == []


def test_environment_is_seen_through_pip_s_isolation(
    plan: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip hides site-packages by a sitecustomize on PYTHONPATH; the target's torch is found all the same."""
    hiding = "import sys\nsys.path[:] = [p for p in sys.path if 'site-' not in p]\n"
    (tmp_path / "sitecustomize.py").write_text(hiding)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    import torch

    version, paths = plan.target_environment()
    assert version is not None
    assert version.split("+")[0] == torch.__version__.split("+")[0]
    assert str(Path(torch.__file__).parent.parent) in paths
    assert str(tmp_path) not in paths


def test_compiler_is_probed(toolchain: ModuleType, tmp_path: Path) -> None:
    assert "no C++ compiler found" in toolchain.compiler_problem(None)
    old = tmp_path / "c++"
    old.write_text("#!/bin/sh\necho 'error: unrecognized option -std=c++20' >&2\nexit 1\n")
    old.chmod(0o755)
    assert "install g++ 10 or newer" in toolchain.compiler_problem([str(old)])
    old.write_text("#!/bin/sh\necho 'fatal error: Python.h: No such file or directory' >&2\nexit 1\n")
    assert "python3-dev" in toolchain.compiler_problem([str(old)])
    assert toolchain.compiler_command({"CXX": "ccache g++"}) == ["ccache", "g++"]


def test_pythons_and_torches_that_cannot_be_compiled_for(
    plan: ModuleType, toolchain: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    plan.reach_torch()
    monkeypatch.setattr(torch, "__version__", "2.8.0+cu128")
    with pytest.raises(plan.BuildError, match=r"torch is needed to compile and 2\.8\.0\+cu128 is installed"):
        plan.reach_torch()
    monkeypatch.setattr(toolchain.sysconfig, "get_config_var", lambda name: 1 if name == "Py_GIL_DISABLED" else None)
    assert "free-threaded Python has no stable ABI" in toolchain.compiler_problem(["c++"])


def test_cuda_is_probed(toolchain: ModuleType, tmp_path: Path) -> None:
    assert "no CUDA kernels to compile" in toolchain.cuda_problem([], "/usr/local/cuda", "13.0")
    assert "CPU build" in toolchain.cuda_problem(["a.cu"], str(tmp_path), None)
    assert "set CUDA_HOME" in toolchain.cuda_problem(["a.cu"], str(tmp_path), "13.0")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").touch()
    assert "no include/cuda_runtime.h" in toolchain.cuda_problem(["a.cu"], str(tmp_path), "13.0")
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "cuda_runtime.h").touch()
    assert toolchain.cuda_problem(["a.cu"], str(tmp_path), "13.0") == ""
    assert toolchain.cuda_problem(["a.cu"], str(tmp_path), "13.0", "13.2") == ""
    wrong = toolchain.cuda_problem(["a.cu"], str(tmp_path), "13.0", "12.8")
    old = toolchain.cuda_problem(["a.cu"], str(tmp_path), "13.0", "", "7.5 8.0;Turing")
    assert old == "TORCH_CUDA_ARCH_LIST has 7.5, Turing, and the kernels need 8.0 or newer; take that out"
    assert toolchain.cuda_problem(["a.cu"], str(tmp_path), "13.0", "", "8.0;9.0a;10.0+PTX;Hopper") == ""
    assert wrong == "nvcc is of CUDA 12.8 and torch of 13.0; set CUDA_HOME to a toolkit of CUDA 13"


def test_toolkit_is_a_whole_one(toolchain: ModuleType, tmp_path: Path) -> None:
    """A script that starts another nvcc is no toolkit; CUDA_HOME is taken as it is."""
    home = tmp_path / "cuda"
    for folder in (tmp_path / "bin", home / "bin", home / "include"):
        folder.mkdir(parents=True)
    for nvcc in (tmp_path / "bin" / "nvcc", home / "bin" / "nvcc"):
        nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.1, V13.1.5'\n")
        nvcc.chmod(0o755)
    (home / "include" / "cuda_runtime.h").touch()
    assert toolchain.toolkit({"PATH": str(tmp_path / "bin")}) in (None, "/usr/local/cuda")
    assert toolchain.toolkit({"PATH": str(home / "bin")}) == str(home)
    assert toolchain.toolkit({"PATH": str(home / "bin"), "CUDA_HOME": "/elsewhere"}) == "/elsewhere"
    assert toolchain.toolkit_version(str(home)) == "13.1"


def test_nvcc_takes_more_threads_where_files_are_few(plan: ModuleType) -> None:
    assert plan.nvcc_threads(9, 2) == plan.nvcc_threads(9, 9) == []
    assert plan.nvcc_threads(4, 9) == ["--threads=2"]


def test_lower_bounds_of_torch_agree(plan: ModuleType) -> None:
    assert f'"{plan.TORCH_REQUIREMENT}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (major, minor), requirement, target = plan.OLDEST_TORCH, plan.TORCH_REQUIREMENT, plan.STABLE_ABI
    assert requirement == f"torch>={major}.{minor}"
    assert target == [f"-DTORCH_TARGET_VERSION=0x{major:02x}{minor:02x}{0:012x}"]


PROBE = """
import aminet_fast.kernels
from aminet_fast.ops.extension import load, build_facts
print(load("_C")[0] is not None, build_facts().get("torch"))
"""


def install(tmp_path: Path, *arguments: str, **environ: str) -> tuple[Path, str]:
    """A fresh environment with a copy of the tree installed into it: (its python, the log of pip)."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    source = tmp_path / "source"
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, tracked.stdout.split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((ROOT / name).read_bytes())
    command = [str(python), "-m", "pip", "install", "-v", *arguments, str(source)]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(command, env={**clean, **environ}, capture_output=True, text=True, check=False)
    log = result.stdout + result.stderr
    assert result.returncode == 0, log[-4000:]
    return python, log


def probe(python: Path) -> list[str]:
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), "-c", PROBE]
    result = subprocess.run(command, env=clean, cwd="/", capture_output=True, text=True, check=True)
    return result.stdout.split()


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("-e",), (), ("--no-build-isolation", "-e")], ids=str)
def test_install_beside_torch_fetches_no_second_one(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A venv that sees this interpreter's torch through a .pth file, as system site-packages do."""
    import torch

    site = Path(torch.__file__).parent.parent
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    folder = next(venv.glob("lib/python*/site-packages"))
    (folder / "beside.pth").write_text(f"{site}\n")
    if "--no-build-isolation" in arguments:
        setuptools = [str(venv / "bin" / "python"), "-m", "pip", "install", "-q", "setuptools>=77"]
        subprocess.run(setuptools, check=True)
    python, log = install(tmp_path, "--no-deps", *arguments)
    assert "Collecting torch" not in log
    assert probe(python) == ["True", torch.__version__]


@pytest.mark.slow
def test_install_without_compiling(tmp_path: Path) -> None:
    python, log = install(tmp_path, "--no-deps", "-e", AMINET_FAST_BUILD="none")
    assert "aminet_fast: nothing compiled: AMINET_FAST_BUILD=none" in log
    assert "Collecting torch" not in log
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), "-c", "import aminet_fast.kernels as kernels; print(kernels.__name__)"]
    found = subprocess.run(command, env=clean, cwd="/", capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "aminet_fast.kernels"


@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get("AMINET_TEST_DOWNLOADS"), reason="downloads a torch: set AMINET_TEST_DOWNLOADS=1"
)
def test_install_into_an_empty_environment(tmp_path: Path) -> None:
    python, log = install(tmp_path, "-e")
    assert "Collecting torch" in log
    assert probe(python)[0] == "True"


def test_make_clean_keeps_trained_networks_and_another_torch_is_installed(tmp_path: Path) -> None:
    def make(*arguments: str) -> str:
        command = ["make", "-C", str(ROOT), "--no-print-directory", f"VENV={tmp_path / 'venv'}", *arguments]
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "TORCH"))
        }
        return subprocess.run(command, capture_output=True, text=True, check=True, env=inherited).stdout

    assert not {"runs", "runs/"} & set(make("-n", "clean").split())
    python, log = tmp_path / "venv" / "bin" / "python", tmp_path / "log"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\necho "$*" >> {log}\n')
    python.chmod(0o755)

    def installs(*arguments: str) -> list[str]:
        log.write_text("")
        make("install", *arguments)
        return [line for line in log.read_text().splitlines() if line.startswith("-m pip")]

    assert len(installs()) == 3
    assert installs() == []
    assert all("torch==2.11.*" in line for line in installs("TORCH=torch==2.11.*"))
    assert installs("TORCH=torch==2.11.*") == []
    assert len(installs()) == 3
