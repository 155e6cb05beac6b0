"""The training loop: a session's steps, on which all processes agree, until its end, a stop or a divergence."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from .batches import Batch, LoaderError, guarded, to_device, train_batches
from .curves import draw_curves
from .optim import LEAST
from .recorder import Recorder
from .runs.folder import RunFolder, write_file, write_torch
from .runs.logs import RunLog, duration
from .session import Session
from .signals import StopSignals

Callback = Callable[[int, float], bool | None]


class DivergedError(RuntimeError):
    """The loss or the weights are no longer finite; the message says at which step and where the dump is."""


class Trainer:
    """Steps a session until its end or a stop; a step is the optimiser's, over ``accumulate`` batches."""

    def __init__(self, session: Session, recorder: Recorder, folder: RunFolder, log: RunLog) -> None:
        self.session, self.recorder, self.folder, self.log = session, recorder, folder, log
        self.config, self.accelerator = session.config, session.accelerator
        self.started = time.monotonic()

    def run(self, signals: StopSignals, callback: Callback | None) -> int:
        """Train to the last step, or until something asks for a stop. Returns the exit status."""
        s = self.session
        if s.world == 1:  # several cannot leave a validation alone
            self.recorder.interrupted = lambda: signals.requested is not None
        if s.owed:
            self.recorder.make_up()
            if s.owed:
                return self._farewell(signals.requested)
        elif self.config.names_checkpoint:
            self.recorder.save()  # from here on the folder stands alone, even if the process ends before a step
        if s.step >= s.total:
            self.log.say(f"{self.folder.root} is complete at step {s.step}; raise --steps or --epochs to train on")
            return int(self.recorder.save_failed)
        self._greet()
        with closing(self._batches()) as batches:
            signals.quiet_children()
            s.tick()
            reason = self._steps(batches, signals, callback)
        return self._farewell(reason)

    def _steps(self, batches: Iterator[Batch], signals: StopSignals, callback: Callback | None) -> str | None:
        """Step to the end; returns why it was not reached, or None."""
        s = self.session
        reason: str | None = None
        while s.step < s.total and reason is None:
            try:
                agreed, used = self._step(batches, signals)
            except LoaderError as error:
                return self._loader_failed(error, signals)
            self.recorder.count((agreed.loss, *agreed.parts), s.tick())
            if agreed.stop:
                reason = signals.requested or "a signal to another process"
            elif agreed.time_up:
                reason = f"stop_after_minutes {self.config.stop_after_minutes:g}"
            elif callback is not None and callback(s.step, agreed.loss):
                reason = "the callback"
            self._between(agreed, used, reason)
            if s.owed:
                reason = signals.requested
            s.tick()
        return reason

    def _loader_failed(self, error: LoaderError, signals: StopSignals) -> str:
        """Save the last whole step; returns the signal when one went to the loader's processes too, else raises."""
        s = self.session
        if s.world > 1:  # the others are in the middle of a step, and a checkpoint needs all of them
            raise error
        if s.step:
            self.recorder.save()
        if signals.requested is None:
            self.log.note(f"error: {error}")
            raise error
        return signals.requested

    def _batches(self) -> Generator[Batch, None, None]:
        s, config, accelerator = self.session, self.config, self.accelerator
        batches = train_batches(
            s.faces,
            batch_size=config.batch_size,
            seed=config.seed,
            workers=config.workers,
            accumulate=config.accumulate,
            step=s.step,
            steps=s.total,
            rank=accelerator.process_index,
            world=s.world,
            pin=accelerator.device.type == "cuda",
        )
        return guarded(batches, workers=config.workers, batch_size=config.batch_size)

    def _step(self, batches: Iterator[Batch], signals: StopSignals) -> tuple[Agreement, list[Batch]]:
        config, accelerator, s = self.config, self.accelerator, self.session
        s.objective.set_rates(s.step, s.total)
        scale = s.scale.begin()
        if config.cuda_graph:
            return self._graphed_step(next(batches), scale, signals)
        # All before the first forward pass: when one cannot be loaded, the network is still that of the last step.
        used = [next(batches) for _ in range(config.accumulate)]
        reported: list[tuple[Tensor, ...]] = []
        for batch in used:
            with accelerator.accumulate(*s.objective.networks()):
                given, wanted = (to_device(batch[k], accelerator.device, config.channels_last) for k in ("input", "hr"))
                losses = s.objective.losses(given, wanted)
                reported.append(losses.reported)
                if len(reported) == config.accumulate:
                    # Before the backward pass is queued: the CPU then waits for the forward pass alone, and a GPU has
                    # work left while the next batch is fetched.
                    agreement = exchange(accelerator, reported, scale, self._wishes(signals))
                for loss in losses.backward:
                    accelerator.backward(loss)
                s.objective.step()
        return self._stepped(agreement(), used, reported), used

    def _graphed_step(self, batch: Batch, scale: Tensor, signals: StopSignals) -> tuple[Agreement, list[Batch]]:
        """The same as one CUDA graph."""
        pictures = [to_device(batch[k], self.accelerator.device, self.config.channels_last) for k in ("input", "hr")]
        reported: list[tuple[Tensor, ...]] = [(self.session.graphed_step(pictures),)]
        agreement = exchange(self.accelerator, reported, scale, self._wishes(signals))
        return self._stepped(agreement(), [batch], reported), [batch]

    def _stepped(self, agreed: Agreement, used: list[Batch], reported: list[tuple[Tensor, ...]]) -> Agreement:
        s = self.session
        self._tell_of_a_skip(agreed.scale)  # by the step before
        s.step += 1
        names = ["loss", *(f"{part} loss" for part in s.objective.parts)]
        bad = [i for i, loss in enumerate((agreed.loss, *agreed.parts)) if not math.isfinite(loss)]
        if bad and not s.scale.forgives():
            self._diverged(names[bad[0]], used, [losses[bad[0]].item() for losses in reported])
        if agreed.scale < LEAST:
            self._diverged("gradient", used, [losses[0].item() for losses in reported])
        s.shadow.update(s.step)
        return agreed

    def _tell_of_a_skip(self, scale: float) -> None:
        step, skipped = self.session.step, self.session.objective.skipped
        if (now := self.session.scale.fell_to(scale)) is not None:
            self.log.say(f"step {step} overflowed float16 and {skipped}; the loss scale is now {now:g}")

    def _wishes(self, signals: StopSignals) -> tuple[bool, bool, bool]:
        """Told to stop, time up, checkpoint due: as this process sees it; only the main one has a clock."""
        config, now = self.config, time.monotonic()
        limit = config.stop_after_minutes
        time_up = limit is not None and now - self.started > 60 * limit
        save = config.checkpoint_minutes > 0 and now - self.recorder.saved_at > 60 * config.checkpoint_minutes
        main = bool(self.accelerator.is_main_process)
        return signals.requested is not None, main and time_up, main and save

    def _between(self, agreed: Agreement, used: list[Batch], reason: str | None) -> None:
        final = agreed.time_up or self.session.step == self.session.total
        stopping = reason is not None
        if self.recorder.needs_weights(final=final, save=agreed.save or stopping):
            self._tell_of_a_skip(self.session.scale.now())  # no step may come that would
            if not self.session.is_finite():
                self._diverged("network", used, [agreed.loss])
        self.recorder.after_step(final=final, stopping=stopping, save=agreed.save)

    def _diverged(self, what: str, used: list[Batch], losses: list[float]) -> None:
        s, rank = self.session, self.accelerator.process_index
        rate = float(s.optimizer.param_groups[0]["lr"])  # a tensor under a CUDA graph
        try:
            folder = dump_batches(self.folder.root, used, step=s.step, lr=rate, losses=losses, rank=rank)
            faces = f"its faces are in {folder}"
        except OSError as error:
            faces = f"its faces could not be written ({error})"
        message = (
            f"the {what} is not finite after step {s.step} (loss {losses}, lr {rate:g}); {faces}, and nothing of the"
            " step was saved. Start again from a checkpoint (--resume) with a lower --lr, or with --grad_clip 1"
            + (", or with --precision bf16" if self.config.precision == "fp16" else "")
        )
        self.log.note(f"error: {message}")
        raise DivergedError(message)

    def _greet(self) -> None:
        s, config = self.session, self.config
        weights = f"{sum(p.numel() for p in s.net.parameters()):,} parameters{s.objective.about()}"
        self.log.say(
            f"{config.preset}: {weights}, {len(s.faces):,} faces, {s.total:,} steps of"
            f" {s.faces_a_step} on {s.world} x {self.accelerator.device.type} ({config.precision});"
            f" run folder {self.folder.root}"
        )
        self.log.start(s.step, s.total)

    def _farewell(self, reason: str | None) -> int:
        s, folder = self.session, self.folder
        if self.recorder.save_failed:
            self.log.warn("the last checkpoint could not be written; only an earlier one can be resumed")
        if reason is None:
            took = duration(s.seconds)
            weights = " and ".join(str(path) for path in (folder.best, folder.last) if path.is_dir())
            self.log.say(f"complete: {s.total:,} steps in {took}; weights in {weights}")
        else:
            again = f"aminet train --config {shlex.quote(str(folder.config))}"
            self.log.say(f"stopped by {reason} after step {s.step:,}; go on with: {again}")
        if self.config.plot and self.accelerator.is_main_process:
            self._plot()
        return int(self.recorder.save_failed)

    def _plot(self) -> None:
        try:
            self.log.say(f"curves in {draw_curves([self.folder.root])}")
        except (ImportError, OSError, ValueError) as error:  # a picture of it is no part of a run's success
            self.log.warn(f"no plot: {error}")


class Agreement(NamedTuple):
    """The step's mean losses over all processes, its loss scale, and whether any of them asked for something."""

    loss: float
    parts: tuple[float, ...]  # the objective's
    scale: float
    stop: bool
    time_up: bool
    save: bool


def exchange(
    accelerator: Accelerator, losses: list[tuple[Tensor, ...]], scale: Tensor, wishes: tuple[bool, bool, bool]
) -> Callable[[], Agreement]:
    """Start to combine losses and wishes; the result waits for them.

    A signal, or the clock, reaches processes at different steps; one that stopped alone would leave the
    others waiting for its gradients for ever. A loss that is not finite on one process is not finite on all.

    Args:
        losses: Of each batch, scalars: the network's loss, and the objective's parts.
    """
    asked = torch.tensor(wishes).double().to(scale.device)
    means = [torch.stack(batches).mean().double() for batches in zip(*losses, strict=True)]
    numbers = torch.stack([*means, scale.double(), *asked])
    if accelerator.num_processes > 1:
        numbers = accelerator.reduce(numbers, reduction="sum")
    ready = None
    if numbers.is_cuda:
        numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True).copy_(numbers, non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()

    def wait() -> Agreement:
        if ready is not None:
            ready.synchronize()
        *sums, stop, time_up, save = numbers.tolist()
        loss, *parts, scale = (value / accelerator.num_processes for value in sums)
        return Agreement(loss, tuple(parts), scale, stop > 0, time_up > 0, save > 0)

    return wait


def dump_batches(root: Path, batches: list[Batch], *, step: int, lr: float, losses: list[float], rank: int) -> Path:
    """Write a step's faces to ``root/nan-step-XXXXXXXX``: names and numbers as JSON, pictures as .pt."""
    folder = root / f"nan-step-{step:08d}"
    folder.mkdir(exist_ok=True)
    facts = {"step": step, "lr": lr, "losses": losses, "names": [list(b["name"]) for b in batches]}
    text = json.dumps(facts, indent=2) + "\n"
    write_file(folder / f"rank-{rank}.json", lambda file: file.write(text.encode()))
    tensors = {k: torch.cat([b[k].cpu() for b in batches]) for k in ("input", "hr")}
    write_torch(folder / f"rank-{rank}.pt", tensors)
    return folder
