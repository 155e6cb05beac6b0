"""Runs the Python that launches kernels on fake CUDA tensors, and compiles every launch for a GPU that is not here.

A driver that answers Triton's questions stands in for CUDA's. Of autotuned kernels every configuration is compiled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.autotuner import Autotuner
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction, MockTensor

from .resources import Resources, resources

FEW = 16  # bytes stored and loaded: two values that ptxas keeps in memory, for the sake of one block more or for none
LARGEST_GRID = (2**31 - 1, 65535, 65535)


@dataclass(frozen=True)
class Launch:
    kernel: str
    grid: tuple[int, ...]
    options: dict[str, Any]  # its constexprs
    used: Resources
    key: str  # of what was compiled: the same for the same code
    idle: int = 0  # products with a constant zero

    def problems(self, one_block: dict[str, str], strict: bool = True) -> list[str]:
        """What is wrong with it, in words; strict: not even a few bytes may be spilled."""
        found = []
        if any(not 0 < size <= most for size, most in zip(self.grid, LARGEST_GRID, strict=True)):
            found.append(f"illegal grid {self.grid}")
        tuned = self.used.blocks > 0  # not for AMD
        if tuned and self.used.spilled > (0 if strict else FEW):
            found.append(f"spills {self.used.spilled} bytes at {self.used.registers} registers")
        if strict and self.idle:
            # In a loop, Triton takes a variable for constant that began as the same value as another and is set to it:
            # `a = b = zeros; for ...: use(a); a = b; b = new`. Two calls of tl.zeros are two values.
            found.append(f"multiplies {self.idle} times by zero: a variable that a loop carries was taken for constant")
        if self.used.shared > self.used.limit:
            found.append(f"takes {self.used.shared} bytes of shared memory, {self.used.limit} at most")
        if self.used.blocks == 1 and self.kernel not in one_block:
            found.append(f"only one block fits on a multiprocessor: {self.used}")
        return [f"{self.kernel} {self.options}: {problem}" for problem in found]


class Driver:
    """What Triton asks of a driver until it has compiled."""

    def __init__(self, arch: int | str) -> None:
        self.arch = arch
        self.target = GPUTarget("hip" if isinstance(arch, str) else "cuda", arch, 64 if str(arch)[:4] == "gfx9" else 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int | str:
        return self.arch  # Triton keeps what it compiled apart by device

    def set_current_device(self, device: int) -> None:
        pass

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)

    def get_benchmarker(self) -> Callable[..., list[float]]:
        def benchmark(function: Callable[[], Any], quantiles: Any = None, **_: Any) -> list[float]:
            function()
            return [0.0] * 3

        return benchmark

    def get_device_interface(self) -> Any:
        return torch.cuda


class Pointer(MockTensor):
    """A fake tensor as an argument: its offset says how it is aligned."""

    def __init__(self, t: Tensor) -> None:
        super().__init__(t.dtype, t.shape)
        self.offset = t.storage_offset() * t.element_size()

    def data_ptr(self) -> int:  # type: ignore[override]
        return self.offset


def products_with_zero(ttir: str) -> int:
    """How many products of tiles have a factor that is the constant zero."""
    zeros = set(re.findall(r"(%\w+) = arith\.constant dense<0\.0+e\+00>", ttir))
    return sum(not zeros.isdisjoint(factors) for factors in re.findall(r"= arith\.mulf (%\w+), (%\w+) ", ttir))


def _argument(value: Any) -> Any:
    if isinstance(value, Tensor):
        return Pointer(value)
    return tuple(map(_argument, value)) if type(value) is tuple else value


def _named(kernel: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    defaults = {p.name: p.default for p in kernel.params if p.has_default}
    return defaults | dict(zip((p.name for p in kernel.params), args, strict=False)) | kwargs


@contextmanager
def compiled_launches(arch: int | str) -> Iterator[list[Launch]]:
    """Every launch inside is compiled for `arch`, not run, and listed."""
    launches: list[Launch] = []
    run, tune, check_cache, active = JITFunction.run, Autotuner.run, Autotuner.check_disk_cache, driver._active
    hip = torch.version.hip

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        converted = {name: _argument(value) for name, value in kwargs.items()}
        kernel = run(self, *map(_argument, args), grid=grid, warmup=True, **converted)
        given = _named(self, args, kwargs)
        size = tuple(grid(given) if callable(grid) else grid)
        chosen = {p.name: given[p.name] for p in self.params if p.is_constexpr}
        chosen["num_warps"] = kernel.metadata.num_warps
        used = resources(kernel, arch)
        idle = products_with_zero(kernel.asm["ttir"])
        launches.append(Launch(self.__name__, size + (1,) * (3 - len(size)), chosen, used, kernel.hash, idle))
        return kernel

    def tune_afresh(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.cache.clear()
        self.__dict__.pop("do_bench", None)
        return tune(self, *args, **kwargs)

    def tune_all(self: Any, key: Any, configs: Any, benchmark: Callable[[], None]) -> bool:
        benchmark()
        return False

    JITFunction.run, Autotuner.run, Autotuner.check_disk_cache = compile_only, tune_afresh, tune_all
    driver.set_active(Driver(arch))
    torch.version.hip = "0" if isinstance(arch, str) else None  # type: ignore[assignment]
    try:
        yield launches
    finally:
        JITFunction.run, Autotuner.run, Autotuner.check_disk_cache = run, tune, check_cache
        driver._active, torch.version.hip = active, hip
