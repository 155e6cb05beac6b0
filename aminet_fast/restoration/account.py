"""What became of the pictures of a command, and how that is said: at its end, and where it had to stop."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from ..data.formats import in_words
from ..output.listing import first_few
from ..pretrained import notice, shipped
from .plan import Job


@dataclass
class Account:
    """What became of the pictures."""

    done: int = 0
    existing: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    panel: str | None = None  # what is to be said of it


class StopError(Exception):
    """Going on makes no sense; the message says why and what to do."""


def written(account: Account, target: Path, write: Callable[[], None]) -> bool:
    """Writes a result by `write` and counts it; False where its format cannot hold it, which is one that failed.

    Raises:
        StopError: the system refuses, as for a full disk: the next would fare no better.
    """
    try:
        write()
    except (OSError, ValueError, MemoryError) as error:
        if getattr(error, "errno", None) is not None:
            raise StopError(f"cannot write {target}: {reason_of(error)}") from error
        account.failed.append(f"{target}: cannot be written ({error or type(error).__name__})")
        return False
    account.done += 1
    return True


def keeps_panel(panel: str, account: Account, *, skip_existing: bool) -> bool:
    """Whether a panel that exists is kept, as other results are; the account says so then."""
    if not skip_existing or not Path(panel).exists():
        return False
    account.panel = f"the panel {panel} was there already, and is kept"
    return True


def how_to_go_on(jobs: Sequence[Job], *, force: bool, skip_existing: bool) -> str:
    """What the same command does when it is repeated; it may need another option for that."""
    if force and any(job.target.exists() for job in jobs):
        return " starts anew; --skip_existing would keep the older results, too"
    return f"{with_skip_existing(force=force, skip_existing=skip_existing)} goes on"


def with_skip_existing(*, force: bool, skip_existing: bool) -> str:
    """The option that the same command needs to go on, if it has it not."""
    return "" if skip_existing else f" with --skip_existing{' in place of --force' if force else ''}"


def tell_stop(error: BaseException, account: Account, total: int, out: str, on: str, errors: Console) -> None:
    """Says why the work stops, how far it had come, and how it goes on."""
    if not isinstance(error, (KeyboardInterrupt, BrokenPipeError)):
        errors.print(f"error: {reason_of(error)}", markup=False, style="red", soft_wrap=True)
    so_far = f"{account.done} of {total} pictures had been written to {out}" if total else there(account)
    print_line(errors, f"{so_far}; the same command{on}")


def report(
    account: Account, total: int, *, done: str, out: str, weights: str, console: Console, errors: Console
) -> None:
    """The summary at the end.

    Args:
        account: of all pictures.
        total: how many there were to do.
        done: what was done with them, as "upscaled".
        out: the folder of the results.
        weights: those of the package have a notice.
        console: where it is printed.
        errors: where failures are printed.
    """
    kept = f"; {there(account)}, and {'is' if account.existing == 1 else 'are'} kept" if account.existing else ""
    finished = f"{account.done} of {total} pictures {done} to {out}{kept}"
    print_line(console, finished if total else f"nothing left to do: {there(account)}, in {out}")
    if account.panel:
        print_line(console, account.panel)
    if shipped(weights):
        print_line(console, f"weights of the package, {notice(weights)}")
    report_rest(account, total, "pictures", console, errors)


def report_rest(account: Account, total: int, what: str, console: Console, errors: Console) -> None:
    """Prints what was left out, notes, and those of `total` that failed; `what` names them."""
    if account.left_out:
        print_line(console, f"left out, as Pillow opens none of them: {in_words(account.left_out)}")
    for note, count in account.notes.items():
        print_line(console, f"note: {count} x {note}")
    if account.failed:
        named = first_few(account.failed, "\n  ")
        errors.print(
            f"warning: {len(account.failed)} of {total} {what} failed:\n  {named}", markup=False, soft_wrap=True
        )


def print_line(console: Console, line: str) -> None:
    """Prints a line as it is, whatever brackets and numbers it has."""
    console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


def there(account: Account) -> str:
    """How many results were there already."""
    were = "1 result was" if account.existing == 1 else f"{account.existing} results were"
    return f"{were} there already"


def reason_of(error: BaseException) -> str:
    """The error in words; a full disk by that name."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
        return f"the disk is full ({error.strerror}); free some space first"
    return str(error)


def is_full_memory(error: BaseException) -> bool:
    """Whether the memory, the machine's or a GPU's, did not suffice."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error).lower())
