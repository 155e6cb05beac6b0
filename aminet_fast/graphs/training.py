"""A whole training step as one CUDA graph: forward, loss, backward, clipping, Adam, and what the caller adds."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Adam, AdamW

from ..network.inference import device_of
from ..ops._library import describe
from . import capture as graph_capture
from .capture import Recorder
from .state import Addresses, Snapshot, make_capturable, settings_of


class GraphedStep:
    """What `graph_step` returns.

    Attributes:
        graphed: Whether calls replay a graph; False on devices that have none.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_fn: Callable[..., Tensor],
        example_inputs: Sequence[Tensor],
        autocast: torch.dtype | None,
        scaler: torch.amp.GradScaler | None,
        max_norm: float | None,
        after_step: Callable[[], object] | None,
        restored: Iterable[Tensor],
    ) -> None:
        self._model, self._optimizer, self._loss_fn = model, optimizer, loss_fn
        self._autocast, self._scaler, self._max_norm, self._after = autocast, scaler, max_norm, after_step
        modules = [module for module in (model, loss_fn) if isinstance(module, nn.Module)]
        self._optimized = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self._parameters = list(dict.fromkeys([*(p for m in modules for p in m.parameters()), *self._optimized]))
        self._lock = threading.Lock()
        self._loss: Tensor | None = None
        with torch.inference_mode(False), torch.no_grad():
            self._inputs = [torch.empty_like(x).copy_(x) for x in example_inputs]
        device = self._inputs[0].device
        self._recorder = graph_capture.recorder_on(device, "graph_step")
        self.graphed = self._recorder is not None
        if self._recorder is not None:
            buffers = (buffer for module in modules for buffer in module.buffers())
            changed = dict.fromkeys([*self._parameters, *buffers, *restored])
            self._rates = make_capturable(optimizer, device)
            self._capture(self._recorder, Snapshot(changed, optimizer, scaler), device)
            self._addresses = Addresses(*modules)
            self._state, self._settings = optimizer.state, settings_of(optimizer)

    def _capture(self, recorder: Recorder, before: Snapshot, device: torch.device) -> None:
        devices = [device.index] if device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices), warnings.catch_warnings():
                # These steps are not captured, and are meant not to be.
                warnings.filterwarnings("ignore", message="This instance was constructed with capturable=True")
                recorder.warm(self._run)
        finally:
            before.restore()
            self._drop_gradients()
        captured, self._loss = recorder.capture(self._run)
        self._replay: Callable[[], None] = captured.replay

    def _drop_gradients(self) -> None:
        # None, not zeros: backward then writes gradients where it would add to them.
        for parameter in self._parameters:
            parameter.grad = None

    def _run(self) -> Tensor:
        """The step, on what the static inputs hold."""
        self._drop_gradients()
        kind, scaler = self._inputs[0].device.type, self._scaler
        # Whatever the caller's modes are: backward and the optimizer run in none.
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(kind, enabled=False, cache_enabled=False):
            with torch.autocast(kind, self._autocast, enabled=self._autocast is not None, cache_enabled=False):
                loss = self._loss_fn(self._model(self._inputs[0]), *self._inputs[1:])
            (loss if scaler is None else scaler.scale(loss)).backward()
            if self._max_norm is not None:
                if scaler is not None:
                    scaler.unscale_(self._optimizer)
                clip_grad_norm_(self._optimized, self._max_norm)
            if scaler is None:
                self._optimizer.step()
            else:
                scaler.step(self._optimizer)
                scaler.update()
            if self._after is not None:
                with torch.no_grad():
                    self._after()
        return loss.detach()

    def __call__(self, *inputs: Tensor) -> Tensor:
        """One training step on inputs of the examples' shapes, dtypes and device.

        Returns:
            The loss before the step, detached. The next call overwrites it: take `.item()` or a copy to keep it.

        Raises:
            TypeError, ValueError: the inputs are not as the examples were.
            RuntimeError: what was captured was replaced: a tensor of the model, the optimizer's state, or a setting of
                it that is not the learning rate. Nothing was launched in any of these cases.
        """
        self._check(inputs)
        with self._lock, torch.no_grad():
            if self._recorder is None:
                return self._eager(inputs)
            self._check_captured()
            with self._recorder.turn():
                self._follow_rates()
                self._load(inputs)
                self._replay()
            assert self._loss is not None
            return self._loss

    def _eager(self, inputs: Sequence[Tensor]) -> Tensor:
        self._load(inputs)
        loss = self._run()
        self._loss = loss.clone() if self._loss is None else self._loss.copy_(loss)
        return self._loss

    def _load(self, inputs: Sequence[Tensor]) -> None:
        for mine, given in zip(self._inputs, inputs, strict=True):
            mine.copy_(given)

    def _follow_rates(self) -> None:
        """Takes learning rates that were put in the place of the tensors which the graph reads."""
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            if group["lr"] is not rate:
                rate.fill_(group["lr"])
                group["lr"] = rate

    def _check_captured(self) -> None:
        self._addresses.check("graph_step")
        if self._optimizer.state is not self._state:
            raise RuntimeError("graph_step: the optimizer's state was loaded since the capture: call graph_step again")
        if (settings := settings_of(self._optimizer)) != self._settings:
            raise RuntimeError(
                "graph_step: of the optimizer's settings only lr may change after the capture; they were "
                f"{self._settings} and are {settings}: call graph_step again"
            )

    def _check(self, inputs: Sequence[Tensor]) -> None:
        if len(inputs) != len(self._inputs):
            raise TypeError(f"graph_step: the step takes {len(self._inputs)} inputs, as the example, got {len(inputs)}")
        for i, (mine, given) in enumerate(zip(self._inputs, inputs, strict=True)):
            if not isinstance(given, Tensor) or given.dtype != mine.dtype:
                raise TypeError(f"graph_step: input {i} must be {describe(mine)}, got {describe(given)}")
            if given.shape != mine.shape or given.device != mine.device:
                raise ValueError(f"graph_step: input {i} must be {describe(mine)}, got {describe(given)}")

    def memory(self) -> int:
        """Bytes of the device's memory that the graph holds for activations and gradients; 0 without a graph."""
        return 0 if self._recorder is None else self._recorder.memory()


def graph_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: Callable[..., Tensor],
    example_inputs: Sequence[Tensor],
    *,
    autocast: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
    max_norm: float | None = None,
    after_step: Callable[[], object] | None = None,
    restored: Iterable[Tensor] = (),
) -> GraphedStep:
    """Capture a training step in one CUDA graph, and return what replays it.

    The step is: gradients dropped, ``loss_fn(model(inputs[0]), *inputs[1:])`` under autocast, backward, clipping,
    ``optimizer.step()``, ``after_step()``. Some steps are run before the capture and undone again, so the first call
    is the first step. Afterwards the optimizer is capturable and its learning rates are tensors; a new one may be
    assigned to a group's "lr", or come from a scheduler. See docs/graphs.md for what a graph fixes for good.

    Args:
        model: Takes one tensor; in the mode that it is to train in.
        optimizer: `torch.optim.Adam` or `AdamW`, of the model's parameters; ``fused=True`` is the fastest.
        loss_fn: Takes the model's output and the other inputs, returns a scalar; may be a module.
        example_inputs: What a step takes, on the model's device; all steps will have these shapes and dtypes.
        autocast: float16 or bfloat16 for forward and loss; None: as the parameters are.
        scaler: For float16, which wants one; the optimizer must then be fused.
        max_norm: Clip the norm of the optimizer's gradients to it.
        after_step: Called with nothing at the end of each step without gradients, say to average weights in place.
        restored: Tensors beside those of the model that a step changes, as the averages of after_step.

    Returns:
        A `GraphedStep`: call it with the inputs, get the loss. On a device that is not CUDA's it runs the same step,
        and one line of the log says so.

    Raises:
        TypeError, ValueError: an argument is not as above; the message names it.
        RuntimeError: the step cannot be captured, because it waits for the device or copies from the host.
    """
    example_inputs = _checked(model, optimizer, loss_fn, example_inputs)
    if autocast not in (None, torch.bfloat16, torch.float16):
        raise ValueError(f"graph_step: autocast must be torch.bfloat16, torch.float16 or None, got {autocast}")
    if autocast == torch.float16 and scaler is None:
        raise ValueError("graph_step: autocast in float16 loses small gradients; pass a scaler, or bfloat16")
    fused = getattr(optimizer, "_step_supports_amp_scaling", False)
    if scaler is not None and not (fused and all(group["fused"] for group in optimizer.param_groups)):
        raise ValueError("graph_step: with a scaler the optimizer must be fused=True; others ask the host each step")
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"graph_step: max_norm must be above 0 or None, got {max_norm}")
    return GraphedStep(
        model, optimizer, loss_fn, example_inputs, autocast, scaler, max_norm, after_step, list(restored)
    )


def _checked(
    model: nn.Module, optimizer: torch.optim.Optimizer, loss_fn: object, example_inputs: Sequence[Tensor]
) -> list[Tensor]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"graph_step: model must be a torch.nn.Module, got {describe(model)}")
    if not isinstance(optimizer, Adam | AdamW):
        raise TypeError(f"graph_step: optimizer must be torch.optim.Adam or AdamW, got {type(optimizer).__name__}")
    if not callable(loss_fn):
        raise TypeError(f"graph_step: loss_fn must be callable, got {describe(loss_fn)}")
    if not isinstance(example_inputs, list | tuple) or not example_inputs:
        raise TypeError(f"graph_step: example_inputs must be a list of tensors, got {describe(example_inputs)}")
    for i, x in enumerate(example_inputs):
        if not isinstance(x, Tensor):
            raise TypeError(f"graph_step: example_inputs[{i}] must be a tensor, got {describe(x)}")
        if x.device != (device := device_of(model)):
            raise ValueError(f"graph_step: example_inputs[{i}] must be on {device} as the model, got {describe(x)}")
    return list(example_inputs)
