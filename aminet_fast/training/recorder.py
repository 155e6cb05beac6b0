"""What happens between steps: rows, validation, panels, checkpoints, and the weights for users."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from .runs.checkpoint import save_checkpoint
from .runs.folder import RunFolder, write_folder
from .runs.logs import MetricsCSV, RunLog, duration, tensorboard_writer
from .session import Session
from .validation import Scores, Validator


class Recorder:
    """Writes the run folder of a session; only the main process writes."""

    def __init__(self, session: Session, folder: RunFolder, log: RunLog, validator: Validator | None) -> None:
        self.session, self.folder, self.log, self.validator = session, folder, log, validator
        self.config, self.main = session.config, bool(session.accelerator.is_main_process)
        self.csv = MetricsCSV(folder.metrics)
        self.board: Any = self._open_board() if self.config.tensorboard and self.main else None
        self.save_failed = False
        self.interrupted: Callable[[], bool] = lambda: False  # whether a validation is to be broken off
        self.saved_at = time.monotonic()
        self.scores: Scores | None = None  # the latest
        self._steps, self._seconds = 0, 0.0  # since the last regular row, in this process
        self._pace = 0.0
        if validator is not None:
            self._choose_best(validator.faces.fingerprint)
        if self.main:
            self.csv.open(session.step)

    def _choose_best(self, faces: str) -> None:
        """Forget the best score when it was won on other faces, or its weights are not in this folder."""
        session = self.session
        if session.val_faces not in (None, faces) or not self.folder.best.is_dir():
            session.best = -math.inf
        session.val_faces = faces

    def _open_board(self) -> Any:
        # What an earlier process wrote after the checkpoint comes again: TensorBoard drops those points.
        purge = self.session.step + 1 if self.session.step else None
        return tensorboard_writer()(str(self.folder.root / "events"), purge_step=purge)

    def _reopen_board(self) -> None:
        self.board = self._open_board()

    def count(self, losses: Sequence[float], seconds: float) -> None:
        """Take a step into the next row: its loss and the objective's parts, and its duration.

        Of a step that float16's scaler skipped for a loss that is not finite, the duration alone.
        """
        if all(map(math.isfinite, losses)):
            self.session.loss_sum += losses[0]
            self.session.part_sums = [a + b for a, b in zip(self.session.part_sums, losses[1:], strict=True)]
            self.session.loss_count += 1
        self._steps, self._seconds = self._steps + 1, self._seconds + seconds

    def needs_weights(self, *, final: bool, save: bool) -> bool:
        """Whether `after_step` will validate or save, so that the weights have to be checked first."""
        return final or save or any(map(self._due, ("val_every", "panel_every", "checkpoint_every")))

    def after_step(self, *, final: bool, stopping: bool, save: bool) -> None:
        """Everything due after the session's step.

        Args:
            final: The run is complete, or its time is up: validate, too.
            stopping: This is the last step of this process: save.
            save: A checkpoint is due by the clock.
        """
        regular = self._due("log_every")
        scores = None
        if self.validator is not None and self.config.val_every and (final or self._due("val_every")):
            scores = self._validate(self.validator)
            if scores is None:
                self.save()
                return
            self.scores = scores
        if regular or scores is not None:
            self._row(scores, regular)
        elif self.main:
            self.log.progress(self.session.step, self._line(), row=False)
        if self.main and self.validator is not None and self.config.panel_every and (final or self._due("panel_every")):
            self._try("panel", self._panel)
        # The PSNR of a GAN falls as its faces grow sharper: the best would be the one that learned least.
        rated = self.main and self.config.gan is None
        if rated and scores is not None and scores.psnr > self.session.best:
            written = self._try("best/", lambda: self._weights("best"))
            self.session.best = scores.psnr if written else self.session.best
        if final or stopping or save or self._due("checkpoint_every"):
            self.save()

    def make_up(self) -> None:
        """The validation of the session's step that a signal broke off, and all that was to follow it."""
        s = self.session
        s.owed = False  # and owed again when this one is broken off, too
        # One that no `val_every` had asked for came because the time was up.
        asked = s.step < s.total and (not self.config.val_every or self._due("val_every"))
        self.after_step(final=not asked, stopping=False, save=True)

    def _validate(self, validator: Validator) -> Scores | None:
        """Scores, or None when a signal came meanwhile: what matters then is the checkpoint, and the resumed run makes
        up for the validation. It does, too, when a face cannot be read; that is raised.
        """
        try:
            scores = validator.score(self.session.shadow.model(), self.interrupted)
        except OSError:
            if self.session.world == 1:
                self.session.owed = True
                self.save()
            raise
        self.session.owed = scores is None
        return scores

    def save(self) -> None:
        """A checkpoint and last/. On a full disk the earlier ones stay whole, and the training goes on."""
        state = self.session.state()
        self.saved_at = time.monotonic()
        if self.main:
            self._try("metrics.csv", self.csv.sync)
            written = self._try("checkpoint", lambda: save_checkpoint(self.folder.checkpoints, state, self.config.keep))
            self.save_failed = not (self._try("last/", lambda: self._weights("last")) and written)
            if self.config.tensorboard and self.board is None and not self.save_failed:  # there is room again
                self._try("TensorBoard's events", self._reopen_board)

    def close(self) -> None:
        """Write out what TensorBoard still holds back."""
        if self.board is not None:
            self._try("TensorBoard's events", self.board.close)

    def _due(self, name: str) -> bool:
        every = getattr(self.config, name)
        return bool(every) and self.session.step % every == 0

    def _row(self, scores: Scores | None, regular: bool) -> None:
        """Only a row at every ``log_every``-th step starts a new mean: the others leave these as they are."""
        s = self.session
        self._pace = self._seconds / self._steps if self._steps else self._pace
        row: dict[str, Any] = {
            "step": s.step,
            "epoch": round(s.step * s.faces_a_step / len(s.faces), 4),
            "images": s.step * s.faces_a_step,
            "seconds": round(s.seconds, 3),
            "lr": s.objective.rate(s.step - 1, s.total),
            "loss": s.loss_sum / s.loss_count if s.loss_count else None,
            "images_per_s": round(s.faces_a_step / self._pace, 3) if self._pace else None,
        }
        if s.loss_count:
            row |= {name: value / s.loss_count for name, value in zip(s.objective.parts, s.part_sums, strict=True)}
        if scores is not None:
            row |= {f"val_{name}": value for name, value in dataclasses.asdict(scores).items()}
        if self.main:
            self._try("metrics.csv", lambda: self.csv.write(row))
            if self.board is not None and not self._try("TensorBoard's events", lambda: self._show(row)):
                self.board = None  # its thread has ended
            self.log.progress(s.step, self._line(row), row=True)
        if regular:
            s.loss_sum, s.part_sums, s.loss_count = 0.0, [0.0] * len(s.part_sums), 0
            self._steps, self._seconds = 0, 0.0

    def _show(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if value is not None and name != "step":
                self.board.add_scalar(name, value, row["step"])

    def _line(self, row: dict[str, Any] | None = None) -> str:
        s = self.session
        pace = self._seconds / self._steps if self._steps else self._pace
        mean = row["loss"] if row else s.loss_sum / s.loss_count if s.loss_count else None
        parts = [f"step {s.step}/{s.total}", f"epoch {s.step * s.faces_a_step / len(s.faces):.2f}"]
        if mean is not None:
            parts.append(f"loss {mean:.4f}")
        if pace:
            parts += [f"{s.faces_a_step / pace:.1f} images/s", f"ETA {duration((s.total - s.step) * pace)}"]
        if self.scores is not None:
            parts.append(f"PSNR {self.scores.psnr:.2f} dB (bicubic {self.scores.bicubic_psnr:.2f})")
        return "  ".join(parts)

    def _panel(self) -> None:
        assert self.validator is not None
        name = f"step-{self.session.step:08d}.png"
        self.validator.panel(self.session.shadow.model(), self.folder.panels / name)

    def _weights(self, name: str) -> None:
        write_folder(self.folder.root / name, self.session.shadow.model().save_pretrained)

    def _try(self, what: str, write: Callable[[], object]) -> bool:
        """Report a failing disk, and go on: hours of training are worth more than one picture."""
        try:
            write()
        except OSError as error:
            self.log.warn(f"could not write {what} at step {self.session.step}: {error}; training goes on")
            return False
        return True
