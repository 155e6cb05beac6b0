"""Every launch of a training step or of an inference call, from the project's own Python on fake CUDA tensors.

Triton's kernels are compiled for sm_90 as they would be launched; compiled CUDA C++ operators and torch's own are noted
with what they read and write. Nothing runs. The project's tests/ folder must be on sys.path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from .fake_gpu import ARCH, as_on_a_gpu, compile_only, laid_out

SIDE = 128  # of the network's images
# Of aten's operators, those that launch nothing.
NO_LAUNCH = set(
    """view _unsafe_view permute t transpose expand slice select unbind split split_with_sizes reshape detach alias
    as_strided squeeze unsqueeze empty empty_like new_empty empty_strided new_empty_strided flatten is_pinned lift_fresh
    sym_size prim_layout device diagonal chunk view_as _reshape_alias unfold""".split()
)
Described = tuple[tuple[int, ...], str]  # shape, dtype


@dataclass
class Launch:
    kind: str  # "triton", "cuda" (compiled; one entry a call of an operator, until cuda.py splits it) or "aten"
    name: str  # of the kernel, of the operator, of aten's function
    operator: str  # aminet_fast's that it is part of, or "torch"
    size: str  # of the operator's data: "24@128", "24->64@128"
    phase: str  # "forward" or "backward"
    tensors: dict[str, Described]  # arguments; of aten also results
    grid: tuple[int, ...] = (1, 1, 1)
    warps: int = 0
    registers: int = 0
    blocks: int = 0  # that fit on a multiprocessor
    constants: dict[str, Any] = field(default_factory=dict)
    scalars: dict[str, int | float] = field(default_factory=dict)
    cubin: Path | None = None
    ttir: Path | None = None
    arguments: Any = None  # "cuda": what the compiled function is given, to find its launches

    @property
    def bytes(self) -> int:
        return sum(nbytes(t) for t in self.tensors.values())

    @property
    def on_images(self) -> bool:
        return any(is_image(shape) for shape, _ in self.tensors.values())

    @property
    def cast_bytes(self) -> int:
        """Bytes of a change of dtype of an image, 0 for everything else."""
        if self.kind != "aten" or self.name not in ("_to_copy", "copy_") or not self.on_images:
            return 0
        return self.bytes if len({dtype for _, dtype in self.tensors.values()}) > 1 else 0


def is_image(shape: tuple[int, ...]) -> bool:
    """[N, C, H, W] of at least 8x8 pixels: weights have at most 7x7 taps."""
    return len(shape) == 4 and shape[2] * shape[3] >= 64


def nbytes(described: Described) -> int:
    shape, dtype = described
    return torch.Size(shape).numel() * getattr(torch, dtype).itemsize


def described(t: Tensor) -> Described:
    return tuple(t.shape), str(t.dtype).removeprefix("torch.")


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for member in value:
            yield from tensors_in(member)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


class Collector(TorchDispatchMode):
    """Lists launches, and runs the project's own function for CUDA of every operator that has one."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.launches: list[Launch] = []
        self.phase = "forward"
        self.operator, self.size = "torch", ""
        self.faking = False  # while a compiled operator's fake kernel makes its outputs
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, kind: str, name: str, tensors: dict[str, Described], **about: Any) -> None:
        self.launches.append(Launch(kind, name, self.operator, self.size, self.phase, tensors, **about))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, func._schema.name
        if self.faking:
            return func(*args, **kwargs)
        space, _, bare = name.partition("::")
        if space == "aminet_fast" and torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA"):
            before = self.operator, self.size
            self.operator, self.size = bare, size_of(bare, args)
            self._fake = func, args, kwargs
            try:
                with self:
                    return func._op_dk(torch._C.DispatchKey.CUDA, *args, **kwargs)
            finally:
                self.operator, self.size = before
        found = func(*args, **kwargs)
        if space == "aten" and bare not in NO_LAUNCH:
            self._aten(bare, [*tensors_in(args), *tensors_in(kwargs)], list(tensors_in(found)))
        return found

    def _aten(self, name: str, given: list[Tensor], made: list[Tensor]) -> None:
        in_place = name.endswith("_")
        views = not in_place and any(torch._C._is_alias_of(a, b) for a in made for b in given)
        if (given or made) and not views:
            tensors = {f"in{n}": described(t) for n, t in enumerate(given)}
            self.add("aten", name, tensors | {f"out{n}": described(t) for n, t in enumerate(made)})

    def compiled_call(self, namespace: str, name: str, given: Any) -> Any:
        """In the place of the project's call of a compiled operator: its outputs are as its fake kernel promises."""
        func, args, kwargs = self._fake
        self.faking = True
        try:
            found = func(*args, **kwargs)
        finally:
            self.faking = False
        tensors = {f"in{n}": described(t) for n, t in enumerate(tensors_in(list(given)))}
        tensors |= {f"out{n}": described(t) for n, t in enumerate(tensors_in(found))}
        self.add("cuda", name, tensors, arguments=stand_ins(given))
        return found

    def triton_call(self, function: Any, kernel: Any, given: dict[str, Any], grid: Any) -> None:
        size = tuple(grid(given) if callable(grid) else grid)
        tensors, scalars, constants = {}, {}, {}
        for parameter in function.params:
            name, value = parameter.name, given.get(parameter.name)
            if parameter.is_constexpr:
                constants[name] = getattr(value, "value", value)
            elif isinstance(value, (int, float)):
                scalars[name] = value
            for n, t in enumerate(tensors_in(value)):
                tensors[f"{name}[{n}]" if type(value) is tuple else name] = described(t)
        cubin, ttir = (self.folder / f"{kernel.hash}.{kind}" for kind in ("cubin", "ttir"))
        if not cubin.exists():
            cubin.write_bytes(kernel.asm["cubin"])
            ttir.write_text(str(kernel.asm["ttir"]))
        from triton_harness.resources import resources

        used = resources(kernel, ARCH)
        about = {"constants": constants, "scalars": scalars, "cubin": cubin, "ttir": ttir}
        about |= {"warps": kernel.metadata.num_warps, "registers": used.registers, "blocks": used.blocks}
        self.add("triton", function.__name__, tensors, grid=size + (1,) * (3 - len(size)), **about)


def stand_ins(value: Any) -> Any:
    """The arguments with a description for each tensor."""
    if isinstance(value, Tensor):
        return {"shape": tuple(value.shape), "stride": tuple(value.stride()), "dtype": str(value.dtype)[6:]}
    if isinstance(value, (list, tuple)):
        return [stand_ins(member) for member in value]
    return value


def size_of(operator: str, args: Any) -> str:
    """Channels and side of the first image among an operator's arguments, and of a convolution's result."""
    given = list(tensors_in(list(args)))
    images = [t for t in given if is_image(tuple(t.shape))]
    if not images:
        return ""
    image = next((t for t in images if t.shape[1] > 2), images[0])  # maps have two channels
    if operator.startswith("norm_act_conv"):
        weight = next((t for t in given if t.dim() == 4 and tuple(t.shape[2:]) == (3, 3)), None)
        if weight is not None:
            x = next((t for t in given if is_image(tuple(t.shape)) and t.shape[1] == weight.shape[1]), image)
            return f"{weight.shape[1]}->{weight.shape[0]}@{x.shape[2]}"
    return f"{image.shape[1]}@{image.shape[2]}"


def collect(
    mode: str,
    batch: int,
    dtype: str,
    folder: Path,
    *,
    every_configuration: bool = False,
    record: bool = True,
    prefer_compiled: bool = False,
) -> list[Launch]:
    """Launches of one call, in order.

    mode: "train" (forward, L1, backward) or "infer" (frozen). dtype: "bf16" (autocast in training, the weights' own
    type in inference) or "fp32". folder: for what was compiled.

    every_configuration: of autotuned kernels too. record: False where only Triton's cache is to be filled.
    prefer_compiled: CUDA C++ wherever an operator has it, whatever dispatch.json says.
    """
    os.environ.pop("AMINET_FAST_BACKEND", None)
    from triton_harness.backward import gradients

    from aminet_fast import AMINet, freeze

    half = torch.bfloat16 if dtype == "bf16" else None
    collector = Collector(folder)
    compiling = compile_only(collector.triton_call if record else None, every_configuration)
    with compiling, as_on_a_gpu(collector.compiled_call, prefer_compiled), FakeTensorMode(), collector:
        with torch.device("cuda"):
            model = AMINet()
            x = torch.empty(batch, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
        laid_out(model, half if mode == "infer" else None)
        if mode == "infer":
            freeze(model)
            x = x if half is None else x.to(half)
            collector.launches.clear()
            with torch.no_grad():
                model(x)
            return collector.launches
        model.train()
        collector.launches.clear()
        with torch.autocast("cuda", torch.bfloat16, enabled=half is not None):
            y = model(x)
        loss = torch.nn.functional.l1_loss(y.float(), torch.empty_like(y).float())
        collector.phase = "backward"
        gradients([loss], list(model.parameters()), [torch.empty_like(loss)])
    return collector.launches
