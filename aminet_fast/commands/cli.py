"""The command ``aminet``: finds the subcommand, parses its options, and says in one line what is wrong."""

from __future__ import annotations

import argparse
import dataclasses
import io
import logging
import os
import sys
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from .. import __version__
from . import align, data, demo, evaluate, info, plot, profile, restore, train, upscale, web
from .command import Command
from .threads import spin_briefly

COMMANDS = {
    module.COMMAND.name: module.COMMAND
    for module in (train, evaluate, restore, upscale, web, align, data, profile, plot, info, demo)
}
# By name: their modules load torch, which --help need not wait for.
FAILURES = ("DivergedError", "LoaderError", "MemoryFullError")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``aminet`` with these arguments (None: the process's) and return the exit status.

    A wrong request is one line on standard error and status 2; AMINET_FAST_DEBUG=1 shows the traceback
    instead.
    """
    spin_briefly()
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
    if name not in COMMANDS:
        raise ValueError(f"there is no command {name!r}; it takes one of {', '.join(COMMANDS)}")
    command = COMMANDS[name]
    return int(command.run(parse(command, rest)) or 0)


def _overview() -> str:
    lines = [f"  {name:<10}{command.summary}" for name, command in COMMANDS.items()]
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


def parse(command: Command, args: list[str]) -> Any:
    """The subcommand's dataclass as these arguments say; raises ValueError for wrong ones."""
    from . import options  # jsonargparse, which the overview does without

    config_class = command.options()
    parser = options.make_parser(
        command.name, command.arguments, f"{_sentence(command.summary)} {command.details}".strip()
    )
    parser.add_argument("--config", action="config", help="YAML file of these options")
    if command.positional is not None:
        many = "+" if command.many else None
        parser.add_argument(command.positional, type=str, nargs=many, help=command.positional_help)
    parser.add_class_arguments(config_class, skip={command.positional} - {None})
    try:
        parsed = parser.parse_args(options.read_files(_spell_out_switches(args, config_class), config_class))
    except argparse.ArgumentError as error:
        what = options.in_one_line(str(error))
        raise ValueError(f"{what} (aminet {command.name} --help lists the options)") from error
    options.take_back_nulls(parsed, config_class)
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes  # its name before 4.49
    values = instantiate(parsed).as_dict()
    values.pop("config", None)
    return config_class(**values)


def _spell_out_switches(args: list[str], config_class: Any) -> list[str]:
    """``--force`` alone means ``--force true``: jsonargparse wants a value after every option."""
    switches = {f"--{field.name}" for field in dataclasses.fields(config_class) if field.type in (bool, "bool")}
    spelt = []
    for arg, after in zip_longest(args, args[1:], fillvalue=""):
        spelt.append(arg)
        if arg in switches and after.lower() not in ("true", "false", "yes", "no"):
            spelt.append("true")
    return spelt


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
