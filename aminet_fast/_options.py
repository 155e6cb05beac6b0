"""A subcommand's parser: jsonargparse's, with help and errors that speak of options, not of Python's types."""

from __future__ import annotations

import argparse
import re
from typing import Any

import jsonargparse

_TYPE = re.compile(r" \((?:required, )?type: .*?(?:, (default: .*))?\)$", re.DOTALL)
_UNION = re.compile(r"Does not validate.*?Subtypes: \[(.*?)\]\n.*Given value: (.*)", re.DOTALL)


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
    text = re.sub(r'Parser key "([\w.]+)":', r"--\1:", message)
    text = _UNION.sub(lambda m: f"Expected {m.group(1).replace(', ', ' or ')}. Got value: {m.group(2)}", text)
    text = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text).replace("NoneType", "null")
    text = re.sub(r"a typing\.Literal\[(.*?)\]", r"one of \1", text)
    return " ".join(text.split())
