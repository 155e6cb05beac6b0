"""Every launch of a training step or of an inference call, from the project's own Python on fake CUDA tensors.

Triton's kernels are compiled for sm_90 as they would be launched; compiled CUDA C++ operators and torch's own are noted
with what they read and write. Nothing runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from .fake_gpu import ARCH, as_on_a_gpu, compile_only, laid_out
from .launches import Described, Launch, described, size_of, stand_ins, tensors_in

SIDE = 128  # of the network's images
# Of aten's operators, those that launch nothing.
SHAPES = {"view", "_unsafe_view", "view_as", "reshape", "_reshape_alias", "flatten", "squeeze", "unsqueeze", "expand"}
STRIDES = {"permute", "t", "transpose", "slice", "select", "diagonal", "as_strided", "unfold", "detach", "alias"}
PARTS = {"unbind", "split", "split_with_sizes", "chunk"}
ROOM = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}
QUESTIONS = {"is_pinned", "lift_fresh", "sym_size", "prim_layout", "device"}
NO_LAUNCH = SHAPES | STRIDES | PARTS | ROOM | QUESTIONS


class Collector(TorchDispatchMode):
    """Lists launches, and runs the project's own function for CUDA of every operator that has one."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.launches: list[Launch] = []
        self.phase = "forward"
        self.operator, self.size = "torch", ""
        self.faking = False  # while a compiled operator's fake kernel makes its outputs

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
        """kernel: what was compiled; None where launches are only counted."""
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
        about = {"constants": constants, "scalars": scalars} | (self._kept(kernel) if kernel is not None else {})
        self.add("triton", function.__name__, tensors, grid=size + (1,) * (3 - len(size)), **about)

    def _kept(self, kernel: Any) -> dict[str, Any]:
        """Files of what was compiled, and what it takes of a multiprocessor."""
        from tests.harness.triton.resources import resources

        cubin, ttir = (self.folder / f"{kernel.hash}.{kind}" for kind in ("cubin", "ttir"))
        if not cubin.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            ttir.write_text(str(kernel.asm["ttir"]))
            cubin.write_bytes(kernel.asm["cubin"])
        used = resources(kernel, ARCH)
        about = {"warps": kernel.metadata.num_warps, "registers": used.registers, "blocks": used.blocks}
        return about | {"cubin": cubin, "ttir": ttir}


def collect(
    mode: str,
    batch: int,
    dtype: str,
    folder: Path,
    *,
    every_configuration: bool = False,
    record: bool = True,
    prefer_compiled: bool = False,
    compiling: bool = True,
) -> list[Launch]:
    """Launches of one call, in order.

    mode: "train" (forward, L1, backward) or "infer" (frozen). dtype: "bf16" (autocast in training, the weights' own
    type in inference) or "fp32". folder: for what was compiled.

    every_configuration: of autotuned kernels too. record: False where only Triton's cache is to be filled.
    prefer_compiled: CUDA C++ wherever an operator has it, whatever the table of dispatch says. compiling: False where
    Triton's launches are only counted, which takes seconds.
    """
    from aminet_fast import AMINet, freeze
    from tests.harness.triton.backward import gradients

    half = torch.bfloat16 if dtype == "bf16" else None
    collector = Collector(folder)
    launching = compile_only(collector.triton_call if record else None, every_configuration, compiling=compiling)
    with launching, as_on_a_gpu(collector.compiled_call, prefer_compiled), FakeTensorMode(), collector:
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
