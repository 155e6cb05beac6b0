"""What the operators share: the torch library they are defined in, autocast, gradients, and who serves a call."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NoReturn

import torch
from torch import Tensor

from . import backends, dispatch
from ._devices import compiled_problem, triton_problem
from ._transforms import Refusing, inside_vmap, takes_vmap
from .extension import kernels

NAMESPACE = "aminet_fast"
# Schemas live in Python, so that they exist when nothing was compiled; compiled modules add kernels to them.
library = torch.library.Library(NAMESPACE, "FRAGMENT")
_gradients = Refusing(NAMESPACE, "FRAGMENT")
# What csrc/cuda registers: compiled for GPUs, and for the tests' emulator.
COMPILED, EMULATED = "aminet_fast_cuda", "aminet_fast_emulated"
libraries = {name: torch.library.Library(name, "FRAGMENT") for name in (COMPILED, EMULATED)}
# Operators whose kernel for CUDA tensors chooses between two: why the compiled one does not take a call, "" if it does.
_implemented: dict[str, Callable[..., str]] = {}
_told_of_tf32: set[str] = set()  # of these, whose compiled functions take `tf32`

PLAIN = "pass backend='reference', or set AMINET_FAST_BACKEND=reference"
Needs = tuple[Any, ...]  # of an operator's inputs: whether each wants a gradient, nested as they are
# Devices with an autocast. Asked once: torch.compile of torch 2.11 cannot follow the question.
AUTOCAST = {d for d in ("cpu", "cuda", "hpu", "mps", "mtia", "xla", "xpu") if torch.amp.is_autocast_available(d)}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


_autocast_keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCPU)
_autocast_keys |= torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which an operator reads and returns the image x: x's own, and under autocast autocast's.

    This is the rule of all operators on all devices. Activations and their gradients keep autocast's dtype from the
    first operator to the last; statistics, sums, softmax and the gradients of parameters are float32. An image of
    another dtype is cast as it enters, as a convolution's would be; float64 is left alone. Parameters are passed as
    they are, mostly float32: kernels read both, and a copy would round them and their gradients. (Torch's own rule
    differs for a layer norm on CUDA devices: it returns float32, and all that follows it would be float32 with it.)
    """
    device = x.device.type
    if x.dtype == torch.float64 or device not in AUTOCAST:
        return x.dtype
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def entering(x: Tensor) -> Tensor:
    """The image as an operator reads it."""
    dtype = autocast_dtype(x)
    return x if x.dtype == dtype else x.to(dtype)


def autocasts(operator: str, *images: str) -> None:
    """Give `<operator>_fwd` kernels for autocast, for calls that are not the public function's: an exported program's.

    images: the names of the arguments that are images, or lists of them; all others are passed as they are.
    """
    forward = getattr(torch.ops.aminet_fast, f"{operator}_fwd").default
    at = [n for n, argument in enumerate(forward._schema.arguments) if argument.name in images]
    assert len(at) == len(images), f"{forward._schema} does not have all of {images}"

    def cast(*arguments: Any) -> Any:
        given = list(arguments)
        for n in at:
            value = given[n]
            if value is not None:
                given[n] = [entering(x) for x in value] if isinstance(value, list) else entering(value)
        with _no_autocast():
            return forward(*given)

    for key in ("AutocastCPU", "AutocastCUDA"):
        library.impl(f"{operator}_fwd", cast, key)


def _no_autocast() -> Any:
    """A context in which autocast is off; torch.autocast's own is Python, and costs as much as a small operator."""
    return torch._C._ExcludeDispatchKeyGuard(_autocast_keys)


def plainly(x: Tensor) -> AbstractContextManager[Any]:
    """A context in which autocast is off on x's device, for the references, which torch.compile looks into."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if device in AUTOCAST else nullcontext()


def no_second_derivative(operator: str) -> NoReturn:
    """Raised by differentiating a backward operator."""
    raise NotImplementedError(f"{operator} has no second derivative; for double backward {PLAIN}")


def differentiable(
    operator: str,
    setup_context: Callable[[Any, tuple[Any, ...], Any], None],
    backward: Callable[..., tuple[Any, ...]],
    backward_operators: Sequence[str] = ("bwd",),
) -> Callable[..., Any]:
    """Give `<operator>_fwd` its gradient; what comes back calls it.

    setup_context(ctx, inputs, output) is as for torch.library.register_autograd; backward(ctx, needs, *gradients) is
    told which inputs need gradients, nested as the inputs are. The gradients' own operators raise when they are
    differentiated, and vmap takes all of them slice by slice. What comes back takes images that are `entering` already.

    The call goes to the operator as it is registered where somebody has to see it (torch.compile, export), and else
    through an autograd.Function of our own, at about half the cost: torch.library's has to be ready for more.
    """
    forward = getattr(torch.ops.aminet_fast, f"{operator}_fwd").default

    def gradients_of(ctx: Any, needs: Needs, gradients: Sequence[Any]) -> tuple[Any, ...]:
        if all(gradient is None for gradient in gradients):
            return tuple([None] * len(need) if isinstance(need, list | tuple) else None for need in needs)
        return backward(ctx, needs, *gradients)

    def registered(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        # A dispatcher leaves out trailing arguments that have their default, which then want no gradient.
        given, of_schema = len(ctx.needs_input_grad), len(forward._schema.arguments)
        return gradients_of(ctx, (*ctx.needs_input_grad, *[False] * (of_schema - given)), gradients)[:given]

    torch.library.register_autograd(
        f"{NAMESPACE}::{operator}_fwd",
        registered,
        setup_context=setup_context,
        lib=_gradients,
    )
    for suffix in backward_operators:
        torch.library.register_autograd(
            f"{NAMESPACE}::{operator}_{suffix}", lambda ctx, *_: no_second_derivative(operator), lib=_gradients
        )
    for suffix in ("fwd", *backward_operators):
        takes_vmap(library, f"{operator}_{suffix}")

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, lengths: tuple[int | None, ...], *flat: Any) -> Any:
            inputs = _nested(flat, lengths)
            with torch._C._AutoDispatchBelowAutograd(), _no_autocast():
                output = forward(*inputs)
            setup_context(ctx, inputs, output)
            ctx.lengths, ctx.listed = lengths, isinstance(output, list)
            return tuple(output) if ctx.listed else output

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
            needs = _nested(ctx.needs_input_grad[1:], ctx.lengths)
            # With create_graph the gradients' operators must be seen, so that they can refuse a second derivative.
            below = nullcontext() if torch.is_grad_enabled() else torch._C._AutoDispatchBelowAutograd()
            with below, _no_autocast():
                found = gradients_of(ctx, needs, [list(gradients)] if ctx.listed else gradients)
            return None, *_flat(found)

    def call(*inputs: Any) -> Any:
        if torch.compiler.is_compiling():
            return forward(*inputs)
        if not torch.is_grad_enabled():
            with _no_autocast():
                return forward(*inputs)
        return Direct.apply(tuple(len(x) if isinstance(x, list | tuple) else None for x in inputs), *_flat(inputs))

    return call


def _flat(values: Sequence[Any]) -> list[Any]:
    """The values, with the members of lists in their place."""
    return [member for x in values for member in (x if isinstance(x, list | tuple) else (x,))]


def _nested(flat: Sequence[Any], lengths: tuple[int | None, ...]) -> tuple[Any, ...]:
    """_flat undone; None stands for a value that is no list."""
    members = iter(flat)
    return tuple(next(members) if n is None else [next(members) for _ in range(n)] for n in lengths)


def memory_format(t: Tensor) -> torch.memory_format:
    """The layout of what an operator makes beside t [N, C, H, W].

    The kernels have the same rule: memory_format in kernels/_common.py, format_of in csrc/common/tensors.h.
    """
    return torch.channels_last if t.stride(1) == 1 else torch.contiguous_format


def laid_out(t: Tensor, layout: torch.memory_format) -> Tensor:
    """t [N, C, H, W] in that layout; inside vmap, which knows of none but the contiguous one, as views of it."""
    if layout is torch.contiguous_format or not inside_vmap(t):
        return t.contiguous(memory_format=layout)
    return t.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def empty_as(t: Tensor) -> Tensor:
    """Room for a tensor like t [N, C, H, W], in the layout that an operator gives it."""
    return torch.empty_like(t.contiguous(memory_format=memory_format(t)))


def empty_weight(weight: Tensor) -> Tensor:
    """Room for a small weight's gradient: contiguous, but on CUDA devices as the weight, or autograd would copy it."""
    return torch.empty_like(weight) if weight.is_cuda else weight.new_empty(weight.shape)


def triton_kernels(operator: str, suffixes: Sequence[str] = ("fwd", "bwd"), *, float64: bool = False) -> None:
    """Let kernels/<operator>.py serve the operator on CUDA devices.

    Its functions <operator>_<suffix> take and return what the schemas say, but for an argument `backend`. It is
    imported at the first call.
    """
    backends.register(operator, "cuda", "triton", triton_problem, float64=float64)
    for suffix in suffixes:
        name = f"{operator}_{suffix}"
        if name not in _implemented:
            library.impl(name, partial(_launch_triton, operator, name, _chooses(name)), "CUDA")


def cuda_kernels(
    operator: str,
    suffixes: Sequence[str] = ("fwd", "bwd"),
    *,
    about: Callable[..., tuple[Tensor, int]],
    refuses: Callable[..., str] = lambda *_: "",
    tf32: Sequence[str] = (),
) -> None:
    """Let csrc/cuda/<operator>.cu serve the operator on CUDA devices too; call it before `triton_kernels`.

    The schemas of these suffixes end in an argument `backend`: "cuda", "triton", or "auto", where the table in
    aminet_fast/ops/dispatch.json decides, call by call. The compiled functions have the other arguments, and are
    aminet_fast_cuda::<operator>_<suffix>.

    about: (the arguments) -> the data, whose dtype and pixels the table looks at, and the channels.
    refuses: (the arguments) -> why the compiled functions do not take them, "" if they do. Triton's do then.
    tf32: suffixes whose compiled functions also take `*, bool tf32=False`: whether products of float32 may be in TF32,
        as those of torch's own matrix products may.
    """
    backends.register(operator, "cuda", "cuda", compiled_problem, float64=False)
    for suffix in suffixes:
        name = f"{operator}_{suffix}"
        schema = str(getattr(torch.ops.aminet_fast, name).default._schema).removeprefix(f"{NAMESPACE}::")
        instead = ", *, bool tf32=False)" if suffix in tf32 else ")"
        without, found = re.subn(r', str backend="auto"\)', instead, schema)
        assert found == 1, f"{schema} does not end in an argument `backend`"
        for namespace in (COMPILED, EMULATED):
            libraries[namespace].define(without)
        _implemented[name] = refuses
        _told_of_tf32.update([name] if suffix in tf32 else [])
        library.impl(name, partial(_launch, operator, name, about, refuses), "CUDA")


def _chooses(name: str) -> bool:
    """Whether the operator's last argument says which kernels are to serve it."""
    return getattr(torch.ops.aminet_fast, name).default._schema.arguments[-1].name == "backend"


def _without_backend(chooses: bool, arguments: tuple[Any, ...]) -> tuple[tuple[Any, ...], str]:
    """The arguments and `backend`, which a dispatcher leaves out where it has its default."""
    if chooses and isinstance(arguments[-1], str):
        return arguments[:-1], arguments[-1]
    return arguments, "auto"


def _launch_triton(operator: str, name: str, chooses: bool, *arguments: Any) -> Any:
    return getattr(kernels(operator), name)(*_without_backend(chooses, arguments)[0])


def _launch(
    operator: str, name: str, about: Callable[..., tuple[Tensor, int]], refuses: Callable[..., str], *arguments: Any
) -> Any:
    """By Triton's kernel or the compiled one."""
    given, backend = _without_backend(True, arguments)
    problem = compiled_problem() or refuses(*given)
    absent = triton_problem()
    if backend in ("auto", "cuda") and not problem:
        data, channels = about(*given)
        if backend == "cuda" or absent or dispatch.choose(operator, name, data, channels) == "cuda":
            return call_compiled(COMPILED, name, given)
    elif problem and absent:
        raise RuntimeError(f"{name}: no CUDA kernel for this ({problem}), and none of Triton's ({absent}); {PLAIN}")
    elif backend == "cuda":
        backends.warn(f"{name} runs on Triton's kernels: {problem}")
    return getattr(kernels(operator), name)(*given)


def call_compiled(namespace: str, name: str, given: Sequence[Any]) -> Any:
    """Of csrc/cuda, with the arguments but for `backend`; the first is data of the call's dtype."""
    function = getattr(getattr(torch.ops, namespace), name)
    if name in _told_of_tf32:
        tf32 = given[0].dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
        return function(*given, tf32=tf32)
    return function(*given)


def describe(value: object) -> str:
    """What came, for an error message: "float32 [2, 3]" for a tensor, else the type."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)} on {value.device}"
    return type(value).__name__
