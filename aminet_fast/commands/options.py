"""A subcommand's parser: jsonargparse's, with help and errors that speak of options, not of Python's types."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

import jsonargparse

from ..reference.options_file import read_checked

_TYPE = re.compile(r" \((?:required, )?type: .*?(?:, (default: .*))?\)$", re.DOTALL)
_UNION = re.compile(r"Does not validate.*?Subtypes: \[(.*?)\]\n.*Given value: (.*)", re.DOTALL)

# A group of options that may be left out: what is wrong in it stands among the reasons why it is no group and not null.
_GROUP = re.compile(
    r"Parser key \"([\w.]+)\":\n.*?Problem with given class_path [^\n]*\n(.*?)\n *- Expected a <class 'NoneType'>.*",
    re.DOTALL,
)


class Formatter(jsonargparse.DefaultHelpFormatter):
    """What an option does and its default: choices stand beside its name already, and no default is no news."""

    def _expand_help(self, action: argparse.Action) -> str:
        text = _TYPE.sub(lambda m: f" ({m.group(1)})" if m.group(1) else "", super()._expand_help(action))
        text = re.sub(r"Show the help for \w+ and exit", "List its options and exit", text)
        return text.removesuffix(" (default: null)").removesuffix(" (default: {})").replace("``", "")


def make_parser(command: str, arguments: str, description: str) -> Any:
    """A parser for ``aminet command arguments``; it raises argparse.ArgumentError instead of ending the process."""
    return jsonargparse.ArgumentParser(
        prog=f"aminet {command}",
        usage=f"aminet {command} {arguments}",
        description=description,
        formatter_class=Formatter,
        exit_on_error=False,
    )


def in_one_line(message: str) -> str:
    """jsonargparse's error as a user would say it: option names, plain type names, no line breaks."""
    text = _GROUP.sub(lambda m: _in_group(m.group(1), m.group(2).strip()), message)
    text = re.sub(r'Parser key "([\w.]+)":', r"--\1:", text)
    text = _UNION.sub(lambda m: f"Expected {m.group(1).replace(', ', ' or ')}. Got value: {m.group(2)}", text)
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text).replace("NoneType", "null")
    text = re.sub(r"a typing\.Literal\[(.*?)\]", r"one of \1", text)
    return " ".join(text.split())


def _in_group(group: str, problem: str) -> str:
    """The problem with one option of a group, under the option's whole name."""
    unknown = re.fullmatch(r"Option '(\w+)' is not accepted", problem)
    if unknown is not None:
        return f"unrecognized arguments: --{group}.{unknown.group(1)}"
    return re.sub(r'^Parser key "', f'Parser key "{group}.', problem)


def read_files(args: Sequence[str], config_class: type) -> list[str]:
    """Arguments in which the text of each file of options stands in place of its name.

    Files are read by us, strictly and in any Unicode, and jsonargparse gets text: of a key that stands twice it would
    take the last. Files are given to --config and to the groups of options (--data FILE). Raises as `read_checked`.
    """
    groups = [name for name, hint in get_type_hints(config_class).items() if _is_group(hint)]
    told: list[str] = []
    waiting = list(args)
    while waiting:
        arg = waiting.pop(0)
        name, equals, value = arg.partition("=")
        takes = name in [f"--{group}" for group in groups] or (len(name) > 3 and "--config".startswith(name))
        if not takes or not (equals or waiting):
            told.append(arg)
            continue
        value = value if equals else waiting.pop(0)
        file = os.path.expanduser(value)
        if os.path.exists(file):  # else it may be YAML itself, longer than any name
            text, options = read_checked(file)
            value = text if options else "{}"
        told.append(f"{name}={value}")  # in one piece: YAML may begin with a dash
    return told


def _is_group(hint: Any) -> bool:
    return any(dataclasses.is_dataclass(part) for part in (hint, *get_args(hint)))
