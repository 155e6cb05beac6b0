"""Inference by CUDA graphs: a forward pass is one launch, where batch 1 would wait for the host to make hundreds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn

from ..network.inference import device_of, evaluating
from ..ops._library import describe
from . import capture as graph_capture
from .capture import Recorder
from .state import Addresses


@dataclass(frozen=True)
class _Captured:
    """One graph: what it reads, what it writes, and how to make it do so."""

    input: Tensor  # [size, ...]
    output: Tensor  # [size, ...]
    replay: Callable[[], None]


class GraphedModel:
    """What `graph` returns.

    Attributes:
        model: The network that was captured.
        batches: The captured sizes, ascending.
        graphed: Whether calls replay graphs; False on devices that have none.
    """

    def __init__(self, model: nn.Module, example: Tensor, batches: tuple[int, ...], static_output: bool) -> None:
        self.batches, self.model, self._static = batches, model, static_output
        self._like, self._lock = example[:0].detach(), threading.Lock()
        kind = example.device.type
        self._autocast = torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        self._recorder = graph_capture.recorder_on(example.device, "graph")
        self.graphed = self._recorder is not None
        self._captured: dict[int, _Captured] = {}
        if self._recorder is not None:
            self._addresses = Addresses(model)
            # A tensor made in inference mode could not be written to outside of it.
            with torch.inference_mode(False), evaluating(model):
                inputs = _rows_like(example, batches[-1]).zero_()
                # The largest first: the others fit into the memory that it took.
                for size in reversed(batches):
                    self._captured[size] = self._capture(self._recorder, inputs[:size])

    def _capture(self, recorder: Recorder, x: Tensor) -> _Captured:
        recorder.warm(lambda: self._checked_output(x))
        captured, output = recorder.capture(lambda: self._forward(x))
        return _Captured(x, output, captured.replay)

    def _forward(self, x: Tensor) -> Tensor:
        dtype, enabled = self._autocast
        # The cache would lend the weights that one graph cast to the next, which may be replayed without the first.
        with torch.autocast(x.device.type, dtype=dtype, enabled=enabled, cache_enabled=False):
            return self.model(x)

    def _checked_output(self, x: Tensor) -> None:
        y = self._forward(x)
        if not isinstance(y, Tensor) or y.dim() == 0 or y.shape[0] != x.shape[0]:
            raise TypeError(f"graph: model must return one tensor with a row for each of x's, got {describe(y)}")

    def __call__(self, x: Tensor) -> Tensor:
        """model(x) in eval mode and without gradients: [N, ...] -> [N, ...], N >= 0.

        Raises:
            TypeError, ValueError: x is not on the example's device, of its dtype, or of its sizes but for N; with
                static_output, or N is larger than the largest batch. Nothing was launched.
            RuntimeError: the model's tensors were replaced since they were captured.
        """
        self._check(x)
        with self._lock, torch.no_grad():
            if self._recorder is None:
                with evaluating(self.model):
                    pieces = [self._forward(piece) for piece in x.split(self.batches[-1])]
                return pieces[0] if len(pieces) == 1 else torch.cat(pieces)
            with self._recorder.turn():
                y = self._replay(x)
            self._addresses.check("graph")  # while the device works
            return y

    def _replay(self, x: Tensor) -> Tensor:
        y = None
        for start, count, size in cut(len(x), self.batches):
            captured = self._captured[size]
            captured.input[:count].copy_(x[start : start + count])
            captured.replay()
            found = captured.output[:count]
            if self._static:
                return found
            y = _rows_like(captured.output, len(x)) if y is None else y
            y[start : start + count].copy_(found)
        return _rows_like(self._captured[self.batches[0]].output, 0) if y is None else y

    def __reduce__(self) -> NoReturn:
        """Asked for by copy and pickle."""
        raise TypeError(
            "graph: captured graphs can be neither copied nor pickled; do it with the model, call graph again"
        )

    def _check(self, x: Tensor) -> None:
        like = self._like
        if not isinstance(x, Tensor) or x.dtype != like.dtype:
            raise TypeError(f"graph: x must be a {_name(like.dtype)} tensor, as the example was, got {describe(x)}")
        if x.shape[1:] != like.shape[1:] or x.dim() != like.dim():
            sizes = ", ".join(map(str, like.shape[1:]))
            raise ValueError(
                f"graph: x must be [N, {sizes}], as the example was, got {describe(x)}; "
                "call graph once more for images of another size"
            )
        if x.device != like.device:
            raise ValueError(f"graph: x must be on {like.device}, as the example was, got {describe(x)}")
        if self._static and len(x) > self.batches[-1]:
            most = self.batches[-1]
            raise ValueError(f"graph: with static_output x must have {most} images at most, got {describe(x)}")

    def memory(self) -> int:
        """Bytes of the device's memory that the graphs hold for activations and outputs; 0 without graphs."""
        return 0 if self._recorder is None else self._recorder.memory()


def graph(
    model: nn.Module, example: Tensor, *, batches: Iterable[int] | None = None, static_output: bool = False
) -> GraphedModel:
    """Capture the model's forward pass in CUDA graphs, one for each of a few batch sizes, and return what replays them.

    It is captured in eval mode, without gradients and under the autocast state of this moment; the model's own modes
    are as before afterwards. All sizes are captured here, not at the first call that needs one: that takes seconds,
    may fail for want of memory, and wants no other work on the device. Calls with any number of images then take the
    smallest size that holds them (the rows in excess are computed and dropped), or several pieces of the largest.
    See docs/graphs.md for weights that change, streams, threads and memory.

    Args:
        model: Takes one tensor and returns one, row by row: no image may depend on another of its batch.
        example: [N, ...] on the model's device, of the dtype, layout and sizes that x will have; its values are not
            used. N is the largest size unless batches are given.
        batches: Sizes to capture; None: the powers of two up to N, and N.
        static_output: Calls return the graph's own output, which the next call overwrites, not a copy of it.

    Returns:
        A `GraphedModel`: call it with x. On a device that is not CUDA's it runs the model, and one line of the log
        says so; its outputs are the caller's own there.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
        RuntimeError: the model cannot be captured, because it waits for the device or copies from the host.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"graph: model must be a torch.nn.Module, got {describe(model)}")
    if not isinstance(example, Tensor) or not example.is_floating_point():
        raise TypeError(f"graph: example must be a floating point tensor, got {describe(example)}")
    if example.dim() < 2 or example.numel() == 0:
        raise ValueError(f"graph: example must be [N, ...] with every size at least 1, got {describe(example)}")
    if (device := device_of(model)) != example.device:
        raise ValueError(f"graph: example must be on the model's device {device}, got {describe(example)}")
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ValueError(f"graph: model's {name} normalises by its batch, which the rows in excess would change")
    return GraphedModel(model, example, _sizes(batches, len(example)), static_output)


def cut(count: int, batches: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Pieces of `count` images: the first one, how many there are, and the smallest of the sizes that holds them."""
    starts = range(0, count, batches[-1])
    pieces = [(start, min(batches[-1], count - start)) for start in starts]
    return [(start, images, next(size for size in batches if size >= images)) for start, images in pieces]


def _sizes(batches: Iterable[int] | None, most: int) -> tuple[int, ...]:
    if batches is None:
        return tuple(sorted({*(1 << i for i in range(most.bit_length())), most}))
    sizes = tuple(sorted(set(batches)))
    if not sizes or not all(isinstance(size, int) and size >= 1 for size in sizes):
        raise ValueError(f"graph: batches must be one or more whole numbers from 1 up, got {sizes}")
    return sizes


def _rows_like(t: Tensor, rows: int) -> Tensor:
    """Room for [rows, ...] in t's layout."""
    last = t.dim() == 4 and t.is_contiguous(memory_format=torch.channels_last) and not t.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty((rows, *t.shape[1:]), dtype=t.dtype, device=t.device, memory_format=layout)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
