"""Triton's interpreter, put right where it is wrong: bfloat16, numbers as indices, and autotuning without a GPU.

It keeps bfloat16 as the 16 bits of the number and does integer arithmetic with them, multiplies them as integers in
tl.dot, and cuts digits off where a GPU rounds. TRITON_INTERPRET=1 has to be set before kernels are imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.autotuner import Autotuner
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

COMPARISONS = (np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal)


def widened(bits: Any) -> Any:
    """bfloat16's bits -> float32."""
    return (np.asarray(bits).astype(np.uint32) << 16).view(np.float32)


def rounded(values: Any) -> Any:
    """float32 -> bfloat16's bits, to the nearest, to even on ties."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    bits = values.view(np.uint32)
    near = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), near).reshape(values.shape)


def _is_bfloat16(handle: Any) -> bool:
    return isinstance(handle, TensorHandle) and handle.dtype.scalar == tl.bfloat16


def _float32(handle: Any) -> Any:
    return TensorHandle(widened(handle.data), tl.float32) if _is_bfloat16(handle) else handle


def correct_bfloat16() -> None:
    """Arithmetic in float32, rounded once."""
    builder: Any = InterpreterBuilder
    plain = {name: getattr(builder, name) for name in ("binary_op", "unary_op", "cast_impl", "create_dot")}
    to_other_float = builder.create_fp_to_fp

    def binary_op(self: Any, left: Any, right: Any, op: Any) -> Any:
        if not (_is_bfloat16(left) and _is_bfloat16(right)):
            return plain["binary_op"](self, left, right, op)
        found = op(widened(left.data), widened(right.data))
        if op in COMPARISONS:
            return TensorHandle(found, tl.int1)
        return TensorHandle(rounded(found), tl.bfloat16)

    def unary_op(self: Any, value: Any, op: Any) -> Any:
        if not _is_bfloat16(value):
            return plain["unary_op"](self, value, op)
        return TensorHandle(rounded(op(widened(value.data))), tl.bfloat16)

    def cast_impl(self: Any, value: Any, to: Any) -> Any:
        pair = value.dtype.scalar, to.scalar
        if pair == (tl.bfloat16, tl.float32):
            return _float32(value)
        if pair == (tl.float32, tl.bfloat16):
            return TensorHandle(rounded(value.data), tl.bfloat16)
        return plain["cast_impl"](self, value, to)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return plain["create_dot"](self, _float32(a), _float32(b), *rest)

    def create_fp_to_fp(self: Any, value: Any, to: Any, rounding: Any) -> Any:
        if {value.dtype.scalar, to.scalar} == {tl.bfloat16, tl.float32}:
            return self.cast_impl(value, to)
        return to_other_float(self, value, to, rounding)

    for function in (binary_op, unary_op, cast_impl, create_dot, create_fp_to_fp):
        setattr(builder, function.__name__, function)


def correct_scalars() -> None:
    """Numbers as indices: before Triton 3.7 they are arrays of one element, no index to NumPy from 2.4 on."""
    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))

    interpreter._patch_lang_tensor = patched


def try_every_configuration() -> None:
    """Autotuned kernels run once with each configuration, so that each one's numbers are those that count once."""

    def benchmark(function: Callable[[], Any], quantiles: Any = None, **_: Any) -> list[float]:
        function()
        return [0.0] * 3

    def tune(self: Any, key: Any, configs: Any, run_all: Callable[[], None]) -> bool:
        run_all()
        return False

    Autotuner.do_bench = property(lambda self: benchmark)
    Autotuner.check_disk_cache = tune
