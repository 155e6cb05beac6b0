"""Watches interpreted kernels: accesses outside of their arguments, races between programs, use of what was masked.

Arguments are copied into the middle of larger buffers of NaN bytes. A load's masked lanes give NaN unless the kernel
says what they give (a GPU gives anything). Programs run in a random order.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from triton.runtime.interpreter import GridExecutor, InterpreterBuilder, TensorHandle

from .interpreter import _is_bfloat16

ZONE = 1 << 16  # bytes before and after an argument


class OutOfBoundsError(AssertionError):
    """A lane that is not masked is outside of every argument."""


class RaceError(AssertionError):
    """Two programs use one address and one of them stores to it."""


class Watch:
    """The accesses of one launch."""

    def __init__(self) -> None:
        self.start: Any = None
        self.end: Any = None
        self.loads: list[tuple[Any, int]] = []
        self.stores: list[tuple[Any, int]] = []

    def begin(self, arguments: list[Tensor]) -> None:
        spans: list[list[int]] = []
        for start, end in sorted(_span(t) for t in arguments if t.numel()):
            if spans and start <= spans[-1][1]:
                spans[-1][1] = max(end, spans[-1][1])
            else:
                spans.append([start, end])
        self.start = np.array([start for start, _ in spans], np.uint64)
        self.end = np.array([end for _, end in spans], np.uint64)
        self.loads.clear()
        self.stores.clear()

    def access(self, kind: str, pointers: Any, mask: Any, program: tuple[int, int, int]) -> None:
        # The interpreter makes integers of a mask that a number took part in.
        mask = np.broadcast_to(np.asarray(mask, bool), np.shape(pointers.data))
        used = np.asarray(pointers.data)[mask].ravel()
        if not used.size or self.start is None:
            return
        size = max(1, pointers.get_element_ty().primitive_bitwidth // 8)
        at = np.searchsorted(self.start, used, side="right") - 1
        outside = (at < 0) | (used + np.uint64(size) > self.end[np.maximum(at, 0)])
        if outside.any():
            first = int(used[outside][0])
            near = min((first - int(end) for end in self.end), key=abs)
            raise OutOfBoundsError(
                f"{kind}: {int(outside.sum())} of {used.size} lanes are out of bounds in program {program}; the first "
                f"is {near:+d} bytes from the end of the nearest argument"
            )
        x, y, z = program
        if kind != "atomic":
            (self.loads if kind == "load" else self.stores).append((used, x + 65536 * (y + 65536 * z)))

    def finish(self) -> None:
        self.start = None
        if not self.stores:
            return
        stored, by = _together(self.stores)
        order = np.argsort(stored, kind="stable")
        stored, by = stored[order], by[order]
        twice = (stored[1:] == stored[:-1]) & (by[1:] != by[:-1])
        if twice.any():
            raise RaceError(f"{int(twice.sum())} addresses are stored to by two programs")
        if self.loads:
            loaded, reader = _together(self.loads)
            at = np.searchsorted(stored, loaded)
            at[at == stored.size] = 0
            raced = (stored[at] == loaded) & (by[at] != reader)
            if raced.any():
                raise RaceError(f"{int(raced.sum())} loads are from addresses that another program stores to")


def _span(t: Tensor) -> tuple[int, int]:
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    return t.data_ptr(), t.data_ptr() + (last + 1) * t.element_size()


def _together(accesses: list[tuple[Any, int]]) -> tuple[Any, Any]:
    programs = [np.full(pointers.size, program, np.int64) for pointers, program in accesses]
    return np.concatenate([pointers for pointers, _ in accesses]), np.concatenate(programs)


class Zoned:
    """Copies of a launch's arguments between red zones; views of one storage stay so."""

    def __init__(self) -> None:
        self.storages: dict[int, tuple[Tensor, int, Any]] = {}
        self.tensors: list[Tensor] = []

    def copy(self, value: Any) -> Any:
        if type(value) is tuple:
            return tuple(map(self.copy, value))
        if not isinstance(value, Tensor):
            return value
        storage = value.untyped_storage()
        if storage.data_ptr() not in self.storages:
            raw = torch.full((storage.nbytes() + 2 * ZONE + 64,), 0xFF, dtype=torch.uint8)
            offset = (-raw.data_ptr() - ZONE) % 64 + ZONE
            raw[offset : offset + storage.nbytes()].copy_(_bytes(storage))
            self.storages[storage.data_ptr()] = raw, offset, storage
        raw, offset, _ = self.storages[storage.data_ptr()]
        start = offset // value.element_size() + int(value.storage_offset())
        copied = torch.empty(0, dtype=value.dtype).set_(raw.untyped_storage(), start, value.size(), value.stride())
        self.tensors.append(copied)
        return copied

    def copy_back(self) -> None:
        for raw, offset, storage in self.storages.values():
            _bytes(storage).copy_(raw[offset : offset + storage.nbytes()])


def _bytes(storage: Any) -> Tensor:
    return torch.empty(0, dtype=torch.uint8).set_(storage)


def _garbage(pointers: Any) -> Any:
    """What masked lanes load."""
    kind = pointers.get_element_ty()
    if _is_bfloat16(TensorHandle(np.zeros(1, np.uint16), kind)) if kind.primitive_bitwidth == 16 else False:
        return TensorHandle(np.full_like(pointers.data, 0x7FC0, dtype=np.uint16), kind)
    if kind.is_floating() and kind.primitive_bitwidth >= 16:
        number = {16: np.float16, 32: np.float32, 64: np.float64}[kind.primitive_bitwidth]
        return TensorHandle(np.full_like(pointers.data, np.nan, dtype=number), kind)
    return None


@contextmanager
def watched(seed: int = 0) -> Iterator[None]:
    """Kernels that are interpreted inside raise OutOfBoundsError or RaceError."""
    watch, order = Watch(), random.Random(seed)
    builder: Any = InterpreterBuilder
    executor: Any = GridExecutor
    before: list[tuple[Any, str, Any]] = []

    def patch(owner: Any, name: str, function: Callable[..., Any]) -> None:
        before.append((owner, name, getattr(owner, name)))
        setattr(owner, name, function)

    load, store, update = builder.create_masked_load, builder.create_masked_store, builder.create_atomic_rmw
    set_size, set_place = builder.set_grid_dim, builder.set_grid_idx

    def init(self: Any, args: Any, kwargs: Any) -> tuple[list[Any], dict[str, Any]]:
        self.zoned = Zoned()
        copied = [self.zoned.copy(a) for a in args], {name: self.zoned.copy(a) for name, a in kwargs.items()}
        watch.begin(self.zoned.tensors)
        return copied

    def restore(self: Any, *_: Any) -> None:
        self.zoned.copy_back()
        watch.finish()

    def masked_load(self: Any, pointers: Any, mask: Any, other: Any, *rest: Any) -> Any:
        watch.access("load", pointers, mask.data, self.grid_idx)
        return load(self, pointers, mask, _garbage(pointers) if other is None else other, *rest)

    def masked_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        watch.access("store", pointers, mask.data, self.grid_idx)
        return store(self, pointers, value, mask, *rest)

    def atomic(self: Any, op: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        watch.access("atomic", pointers, mask.data, self.grid_idx)
        return update(self, op, pointers, value, mask, *rest)

    def shuffled_size(self: Any, *size: int) -> None:
        set_size(self, *size)
        places = list(np.ndindex(*size))
        order.shuffle(places)
        self.places = iter(places)

    patch(executor, "_init_args_hst", init)
    patch(executor, "_restore_args_dev", restore)
    patch(builder, "create_masked_load", masked_load)
    patch(builder, "create_masked_store", masked_store)
    patch(builder, "create_atomic_rmw", atomic)
    patch(builder, "set_grid_dim", shuffled_size)
    patch(builder, "set_grid_idx", lambda self, *place: set_place(self, *next(self.places)))
    try:
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)
