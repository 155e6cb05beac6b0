"""Compiles _C (CPU) and _C_cuda into aminet_fast/_compiled, on PyTorch's stable ABI; pyproject.toml has the rest.

AMINET_FAST_BUILD=auto|none|cpu|cuda chooses, MAX_JOBS and TORCH_CUDA_ARCH_LIST are honoured: docs/install.md.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any, ClassVar

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).resolve().parent / "build_backend"))
import build_plan
import build_toolchain

HERE = Path(__file__).resolve().parent
OTHER_COMMANDS = {"egg_info", "dist_info", "sdist", "clean"}


def sources(pattern: str) -> list[str]:
    """Files of csrc/, relative to this folder as setuptools wants them."""
    return sorted(str(path.relative_to(HERE)) for path in (HERE / "csrc").glob(pattern))


def compiled(plan: build_plan.Plan) -> tuple[list[Any], type, dict[str, Any]]:
    """(extension modules, the build_ext command, facts for `aminet info`)."""
    import torch
    from torch.utils import cpp_extension

    class BuildExtension(cpp_extension.BuildExtension):
        """Compiles csrc/cpu/kernels once per capability, each copy in a namespace of that name."""

        def run(self) -> None:
            if self.inplace:
                (HERE / "aminet_fast" / "_compiled").mkdir(exist_ok=True)
            super().run()

        def build_extension(self, ext: Any) -> None:
            for capability, flags in build_plan.CAPABILITIES.items() if ext.name.endswith("._C") else ():
                ext.extra_objects += self.compiler.compile(
                    sources("cpu/kernels/*.cpp"),
                    output_dir=str(Path(self.build_temp, capability).resolve()),
                    include_dirs=[*self.include_dirs, *ext.include_dirs],
                    extra_postargs=[*build_plan.CXX_FLAGS, *flags, f"-DAMINET_CAPABILITY={capability}"],
                )
            super().build_extension(ext)

    flags = {"cxx": [*build_plan.CXX_FLAGS, *build_plan.STABLE_ABI]}
    common: dict[str, Any] = {"py_limited_api": True, "include_dirs": [str(HERE / "csrc")]}
    common["extra_compile_args"] = flags
    modules = [cpp_extension.CppExtension("aminet_fast._compiled._C", sources("cpu/*.cpp"), **common)]
    facts: dict[str, Any] = {"torch": str(torch.__version__), "cxx_flags": flags["cxx"]}
    facts |= {"compiler": build_toolchain.compiler_version(), "cpu": list(build_plan.CAPABILITIES)}
    if plan.cuda:
        files, jobs = sources("cuda/*.cu"), int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
        flags["nvcc"] = [*build_plan.NVCC_FLAGS, *build_plan.STABLE_ABI, *build_plan.nvcc_threads(len(files), jobs)]
        modules.append(cpp_extension.CUDAExtension("aminet_fast._compiled._C_cuda", files, **common))
        os.environ["TORCH_CUDA_ARCH_LIST"] = plan.architectures
        facts |= {
            "cuda": torch.version.cuda,
            "nvcc_flags": flags["nvcc"],
            "cuda_architectures": plan.architectures,
            "cuda_sources": runpy.run_path(str(HERE / "aminet_fast" / "ops" / "sources.py"))["all_of_cuda"](
                HERE / "csrc"
            ),
        }
    return modules, BuildExtension, facts


class BuildPy(build_py):
    """Leaves this build's facts in the folder of the compiled modules, and none of an earlier build."""

    facts: ClassVar[dict[str, Any]] = {}

    def run(self) -> None:
        super().run()
        package = HERE / "aminet_fast" if self.editable_mode else Path(self.build_lib, "aminet_fast")
        for leftover in (
            *package.glob("_C*.so"),
            package / "_build.json",
        ):  # of version 0.1, which built in other places
            leftover.unlink(missing_ok=True)
        folder = package / "_compiled"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "build.json").write_text(json.dumps(self.facts, indent=2) + "\n")


def main() -> None:
    arguments: dict[str, Any] = {"ext_modules": [], "cmdclass": {"build_py": BuildPy}}
    # Metadata and source archives are also asked for where there is no torch, and need none.
    if not OTHER_COMMANDS & set(sys.argv):
        plan = build_plan.make_plan(sources("cuda/*.cu"))
        BuildPy.facts = {"notes": list(plan.notes)}
        for note in plan.notes:
            print(f"aminet_fast: {note}", file=sys.stderr)
        if plan.cpu:
            modules, command, facts = compiled(plan)
            BuildPy.facts |= facts
            arguments["ext_modules"] = modules
            arguments["cmdclass"]["build_ext"] = command
            arguments["options"] = {"bdist_wheel": {"py_limited_api": "cp310"}}
    kernels = ["aminet_fast.kernels", *(f"aminet_fast.kernels.{name}" for name in find_packages("kernels"))]
    setup(packages=[*find_packages(include=["aminet_fast", "aminet_fast.*"]), *kernels], **arguments)


try:
    main()
except build_plan.BuildError as error:
    raise SystemExit(f"error: {error}") from None
except (RuntimeError, ValueError) as error:
    remedy = "the compiler's message is above; AMINET_FAST_BUILD=cpu leaves CUDA out, none compiles nothing"
    raise SystemExit(f"error: {error}: {remedy}") from error
