"""Whether a fast module's children still are what its operator computes.

An operator is given the parameters of the children, and nobody calls these. So a child has to be exactly the layer that
the reference built: no subclass and no wrapper (LoRA's), no hook (pruning, weight norm, a look at its output), no
method of its own, no parameter of another class (DTensor, a quantised weight), no other stride or padding. Layers with
parametrizations count as plain: to read their weight is to compute it. Where something else stands the module runs as
the reference, which calls its children, and one line of the log says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.nn.utils.parametrize import is_parametrized

from ..ops import backends

# Of another class only itself knows what its values are. The last two stand for parameters while somebody traces.
PLAIN = {nn.Parameter, Tensor, FakeTensor, FunctionalTensor}
_SETTINGS = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
_settings: Callable[[dict[str, Any]], tuple[Any, ...]] = itemgetter(*_SETTINGS)  # of a convolution's __dict__
_hooks = attrgetter("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


@dataclass(frozen=True)
class Layer:
    """The class of a child."""

    kind: type[nn.Module]

    def problem(self, module: nn.Module) -> str:
        """What is wrong with such a module beside its class, "" if nothing is."""
        return ""


@dataclass(frozen=True)
class Convolution(Layer):
    """A square convolution that pads by zeros, or not at all: between all channels, or of each with itself.

    kernel: its side; None: any odd one. pad: "same", or nothing.
    """

    kernel: int | None = None
    bias: bool = True
    depthwise: bool = False
    stride: int = 1
    same: bool = True

    def problem(self, module: Any) -> str:
        k = module.kernel_size[0] if self.kernel is None else self.kernel
        padding = k // 2 if self.same else 0
        groups = module.in_channels if self.depthwise else 1
        wanted = (k, k), (self.stride,) * 2, (padding,) * 2, (1, 1), groups, "zeros"
        for name, value, want in zip(_SETTINGS, _settings(module.__dict__), wanted, strict=True):
            if value != want:
                return f"has {name}={value!r}, not {want!r}"
        if k % 2 == 0:
            return f"has an even kernel of {k}"
        if self.bias != (module.bias is not None):
            return "has no bias" if self.bias else "has a bias"
        return ""


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Batch normalisation with weight and bias."""

    def problem(self, module: Any) -> str:
        return "" if module.affine else "has no weight and bias"


Child = tuple[str, nn.Module, Layer]
CONTAINER, NORM = Layer(nn.ModuleList), BatchNorm(nn.BatchNorm2d)


def conv(
    kernel: int | None, *, bias: bool = True, depthwise: bool = False, stride: int = 1, same: bool = True
) -> Layer:
    """An nn.Conv2d, as `Convolution` says."""
    return Convolution(nn.Conv2d, kernel, bias, depthwise, stride, same)


def listed(name: str, modules: Any, layer: Layer) -> Iterator[Child]:
    """A ModuleList and the modules in it."""
    yield name, modules, CONTAINER
    for i, module in enumerate(modules):
        yield f"{name}.{i}", module, layer


class Fused(nn.Module):
    """A module whose operator stands for its children."""

    def children_of_operator(self) -> Iterable[Child]:
        """Each child that is not called but read: its name, itself, and what the operator takes it for.

        A container comes before what is in it, which is not looked at where the container is another.
        """
        return ()

    @torch.compiler.assume_constant_result
    def fits(self) -> bool:
        """Whether the operator computes what the reference would. Costs a few comparisons where nothing changed."""
        verdict = self.__dict__.get("_verdict")
        if verdict is None or not verdict.holds(self._modules, self._parameters):
            verdict = self.__dict__["_verdict"] = _judge(self)
        return not verdict.problem

    @torch.compiler.assume_constant_result
    def watched(self) -> bool:
        """Whether somebody waits for the module itself to be called, or has put another forward in its place."""
        return any(_hooks(self)) or "forward" in self.__dict__

    def takes(self, x: Tensor) -> bool:
        """Whether the operator computes this call on x [N, C, H, W]; of no images only the reference makes none."""
        return self.fits() and x.shape[0] > 0


class _Verdict:
    """What was found, and what it hangs on: it holds until a child is another, or got a hook, or something else of it
    changed. Copies and pickles of the module begin without one.

    The module itself is not kept, only two dictionaries of it: it is to go when its last user does.
    """

    def __init__(self, module: nn.Module, children: list[nn.Module], problem: str) -> None:
        self.problem = problem
        self._children, self._kinds = children, [*map(type, children)]
        containers = [child._modules for child in children if child._modules]
        self._submodules = [module._modules, *containers]
        self._were = [dict(submodules) for submodules in self._submodules]
        # Of most children nothing but the number of attributes; hooks are empty, where nothing is wrong with them.
        self._attributes = [child.__dict__ for child in children]
        self._hooks = [hooks for child in children for hooks in _hooks(child)]
        self._counts = [*map(len, self._attributes)], [*map(len, self._hooks)] if problem else []
        self._convs = [child.__dict__ for child in children if isinstance(child, nn.Conv2d)]
        self._settings = [*map(_settings, self._convs)]
        self._parameters = [module._parameters, *(child._parameters for child in children if child._parameters)]
        self._classes = [*map(type, chain.from_iterable(map(dict.values, self._parameters)))]

    def holds(self, submodules: dict[str, Any], parameters: dict[str, Any]) -> bool:
        attributes, hooks = self._counts
        return (
            submodules is self._submodules[0]  # else this is the verdict on what it was copied from
            and parameters is self._parameters[0]
            and not (any(self._hooks) if not self.problem else [*map(len, self._hooks)] != hooks)
            and [*map(len, self._attributes)] == attributes
            and [*map(type, self._children)] == self._kinds
            and self._submodules == self._were
            and [*map(_settings, self._convs)] == self._settings
            and [*map(type, chain.from_iterable(map(dict.values, self._parameters)))] == self._classes
        )

    def __deepcopy__(self, memo: object) -> None:
        return None

    def __reduce__(self) -> Any:
        return type(None), ()


def _judge(module: Fused) -> _Verdict:
    seen: list[nn.Module] = []
    problem = _odd_parameter(module)
    if not problem:
        for name, child, layer in module.children_of_operator():
            if isinstance(child, nn.Module):
                seen.append(child)
            if what := _wrong(child, layer):
                problem = f"its {name} {what}"
                break
    if problem:
        backends.warn(f"{type(module).__name__} runs as the reference: {problem}", "the numbers are its own")
    return _Verdict(module, seen, problem)


def _wrong(child: nn.Module, layer: Layer) -> str:
    kind = type(child)
    if kind is not layer.kind and not (is_parametrized(child) and kind.__mro__[1] is layer.kind):
        alike = kind.__name__ == layer.kind.__name__  # torch.ao.quantization's have the names of torch.nn's
        return f"is a {f'{kind.__module__}.' if alike else ''}{kind.__name__}, not a {layer.kind.__name__}"
    return untouched(child) or layer.problem(child) or _odd_parameter(child)


def untouched(module: nn.Module) -> str:
    """Why a module has to be called, and is not just what its class computes; "" if it need not be."""
    if any(_hooks(module)):
        return "has hooks"
    if own := [name for name in module.__dict__ if callable(getattr(type(module), name, None))]:
        return f"has a {own[0]} of its own"
    return ""


def _odd_parameter(module: nn.Module) -> str:
    for name, parameter in module._parameters.items():
        if parameter is not None and type(parameter) not in PLAIN:
            return f"has a {type(parameter).__name__} as its {name}"
    return ""
