"""The command ``aminet``: each subcommand is a dataclass of options and a function; this file joins them."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import io
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from .. import __version__


@dataclass(frozen=True)
class Command:
    """A subcommand whose options are ``module.config`` and whose work is ``runner.function(config)``."""

    summary: str
    module: str
    config: str
    runner: str
    function: str
    positional: str | None = None  # the option that is given without its name
    positional_help: str = ""
    many: bool = False  # it takes one or more


COMMANDS = {
    "train": Command("train AMINet on faces", "..training", "TrainConfig", "..training", "train"),
    "evaluate": Command(
        "score weights against bicubic: PSNR, SSIM, VIF, LPIPS, FID",
        "..evaluate",
        "EvaluateConfig",
        "..evaluate",
        "evaluate",
    ),
    "upscale": Command(
        "super-resolve pictures of faces x8",
        "..restoration.upscale",
        "UpscaleConfig",
        "..restoration.upscale",
        "upscale",
        "inputs",
        "pictures, folders or globs",
        True,
    ),
    "data": Command(
        "check a folder of faces and say what is in it",
        "..data.check",
        "CheckConfig",
        "..data.check",
        "check",
        "root",
        "folder of faces",
    ),
    "profile": Command(
        "say what bounds a training step", "..profiling.profile", "ProfileConfig", "..profiling.profile", "profile"
    ),
    "plot": Command(
        "draw runs' loss and PSNR",
        "..training.curves",
        "PlotConfig",
        "..training.curves",
        "plot",
        "runs",
        "run folders, or metrics.csv files",
        True,
    ),
}
INFO = "print versions, devices, and what was compiled for what"
# By name: their modules load torch, which --help need not wait for.
FAILURES = ("DivergedError", "LoaderError", "MemoryFullError")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``aminet`` with these arguments (None: the process's) and return the exit status.

    A wrong request is one line on standard error and status 2; AMINET_FAST_DEBUG=1 shows the traceback
    instead.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names need not be text of the terminal's encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        return _dispatch(args)
    except KeyboardInterrupt:
        print("aminet: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, head for one, has gone
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (it has to outlive us: Python flushes it at exit)
        return 0
    except Exception as error:
        if os.environ.get("AMINET_FAST_DEBUG", "0") not in ("", "0") or not _is_request_error(error):
            raise
        print(f"aminet: error: {error or type(error).__name__}", file=sys.stderr)
        return 1 if type(error).__name__ in FAILURES else 2


def _is_request_error(error: Exception) -> bool:
    """Errors that speak to the user; any other is a fault of the program and shows where it happened."""
    return isinstance(error, (ValueError, OSError, ImportError)) or type(error).__name__ in FAILURES


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if args else 2
    if args[0] == "--version":
        print(f"aminet_fast {__version__}")
        return 0
    name, rest = args[0], args[1:]
    if name == "info":
        return int(importlib.import_module(".info", __package__).main(rest) or 0)
    if name not in COMMANDS:
        raise ValueError(f"there is no command {name!r}; it takes one of {', '.join([*COMMANDS, 'info'])}")
    return run_command(name, COMMANDS[name], rest)


def _overview() -> str:
    summaries = {**{name: command.summary for name, command in COMMANDS.items()}, "info": INFO}
    lines = [f"  {name:<10}{summary}" for name, summary in summaries.items()]
    return "\n".join(
        [
            "usage: aminet COMMAND [options]",
            "",
            "AMINet face super-resolution.",
            "",
            *lines,
            "",
            "aminet COMMAND --help lists a command's options. Options may come from a YAML file",
            "(--config FILE), and those given beside it change it. AMINET_FAST_DEBUG=1 shows where an error",
            "came from.",
        ]
    )


def run_command(name: str, command: Command, args: list[str]) -> int:
    """Parse a subcommand's arguments and run its function."""
    config = parse(name, command, args)
    function = getattr(importlib.import_module(command.runner, __package__), command.function)
    return int(function(config) or 0)


def parse(name: str, command: Command, args: list[str]) -> Any:
    """The subcommand's dataclass as these arguments say; raises ValueError for wrong ones."""
    # Imported here, as the commands' modules are: the overview needs none of them.
    from .options import in_one_line, make_parser

    config_class = getattr(importlib.import_module(command.module, __package__), command.config)
    parser = make_parser(name, _arguments(command), _sentence(command.summary))
    parser.add_argument("--config", action="config", help="YAML file of these options")
    if command.positional:
        _add_positional(parser, command)
    parser.add_class_arguments(config_class, skip={command.positional} if command.positional else set())
    try:
        parsed = parser.parse_args(_spell_out_switches(args, config_class))
    except argparse.ArgumentError as error:
        raise ValueError(f"{in_one_line(str(error))} (aminet {name} --help lists the options)") from error
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # its name before 4.49
    values = instantiate(parsed).as_dict()
    values.pop("config", None)
    return config_class(**values)


def _arguments(command: Command) -> str:
    """What follows the command's name in its usage."""
    if command.positional is None:
        return "[options]"
    name = command.positional.upper()
    return f"{name} [{name} ...] [options]" if command.many else f"{name} [options]"


def _spell_out_switches(args: list[str], config_class: Any) -> list[str]:
    """``--force`` alone means ``--force true``: jsonargparse wants a value after every option."""
    switches = {f"--{field.name}" for field in dataclasses.fields(config_class) if field.type in (bool, "bool")}
    spelt = []
    for arg, after in zip_longest(args, args[1:], fillvalue=""):
        spelt.append(arg)
        if arg in switches and after.lower() not in ("true", "false", "yes", "no"):
            spelt.append("true")
    return spelt


def _add_positional(parser: Any, command: Command) -> None:
    assert command.positional is not None
    parser.add_argument(
        command.positional,
        type=str,
        nargs="+" if command.many else None,
        help=command.positional_help,
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
