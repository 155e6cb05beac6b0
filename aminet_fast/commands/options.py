"""A subcommand's parser: jsonargparse's, with help and errors that speak of options, not of Python's types."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import jsonargparse
import yaml

from ..reference.options_file import read_checked, refuse_duplicates

_TYPE = re.compile(r" \((?:required, )?type: .*?(?:, (default: .*))?\)$", re.DOTALL)
_UNION = re.compile(r"Does not validate.*?Subtypes: \[(.*?)\]\n.*Given value: (.*)", re.DOTALL)

# A group of options that may be left out: what is wrong in it stands among the reasons why it is no group and not null.
_GROUP = re.compile(
    r"Parser key \"([\w.]+)\":\n.*?Problem with given class_path [^\n]*\n(.*?)\n *- Expected a <class 'NoneType'>.*",
    re.DOTALL,
)


# A group of options is given what is neither a file nor a mapping, which jsonargparse says twice.
_NO_FILE = re.compile(r"Unable to load config (['\"])(.*)\1\s+- .*Unable to load config .*", re.DOTALL)


class Formatter(jsonargparse.DefaultHelpFormatter):
    """What an option does and its default: choices stand beside its name already, and no default is no news."""

    def _expand_help(self, action: argparse.Action) -> str:
        text = _TYPE.sub(lambda m: f" ({m.group(1)})" if m.group(1) else "", super()._expand_help(action))
        text = re.sub(r"Show the help for \w+ and exit", "List its options and exit", text)
        return text.removesuffix(" (default: null)").removesuffix(" (default: {})").replace("``", "")


def _load_strictly(text: str) -> Any:
    """jsonargparse's own reading of a file or an argument, which takes the last of a key that stands twice."""
    values = jsonargparse.get_loader("yaml")(text)
    if isinstance(values, (dict, list)):
        try:
            refuse_duplicates(text, "it")
        except ValueError as error:
            raise yaml.YAMLError(str(error)) from error
    return values


jsonargparse.set_loader("aminet", _load_strictly, (yaml.YAMLError,))


def make_parser(command: str, arguments: str, description: str) -> Any:
    """A parser for ``aminet command arguments``; it raises argparse.ArgumentError instead of ending the process."""
    return jsonargparse.ArgumentParser(
        prog=f"aminet {command}",
        usage=f"aminet {command} {arguments}",
        description=description,
        formatter_class=Formatter,
        exit_on_error=False,
        parser_mode="aminet",
    )


def in_one_line(message: str) -> str:
    """jsonargparse's error as a user would say it: option names, plain type names, no line breaks."""
    text = _NO_FILE.sub(lambda m: f"there is no file {m.group(2)!r}, and it is no {{OPTION: VALUE}}", message)
    text = _GROUP.sub(lambda m: _in_group(m.group(1), m.group(2).strip()), text)
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
    """Arguments in which the text of each file of options stands in place of its name, before all others.

    Files are read by us, strictly and in any Unicode, and jsonargparse gets text. They are given to --config and to the
    groups of options (--data FILE), and what is said beside them changes them: jsonargparse takes the last. Raises as
    `read_checked`.
    """
    groups, hints = _groups(config_class), get_type_hints(config_class).items()
    mappings = [name for name, hint in hints if any(get_origin(part) is dict for part in (hint, *get_args(hint)))]
    files: list[str] = []
    told: list[str] = []
    waiting = list(args)
    while waiting and waiting[0] != "--":
        arg = waiting.pop(0)
        name, equals, value = arg.partition("=")
        is_config, option = len(name) > 3 and "--config".startswith(name), name.removeprefix("--")
        if not (is_config or option in groups or option in mappings) or not (equals or waiting):
            told.append(arg)
            continue
        value = value if equals else waiting.pop(0)
        file = os.path.expanduser(value)
        is_file = option not in mappings and os.path.exists(file)  # else it may be YAML itself, longer than any name
        if is_file:
            text, options = read_checked(file)
            _check_nested(options, groups, Path(), [Path(file)])
            nothing = all(option is None for option in options.values())  # which jsonargparse takes for a name
            value = json.dumps(dict.fromkeys(map(str, options))) if nothing else text
        else:
            with suppress(yaml.YAMLError):
                refuse_duplicates(value, name)
        (files if is_config or is_file else told).append(f"{name}={value}")  # in one piece: YAML may begin with a dash
    return files + told + waiting


def _check_nested(options: dict[str, Any], groups: Iterable[str], folder: Path, chain: Sequence[Path]) -> None:
    """Reads strictly, and tells by name, what jsonargparse will read itself: files that a file of options names.

    Raises as `read_checked`, and for a circle of files.
    """
    for name in ("config", *groups):
        value = options.get(name)
        file = folder / os.path.expanduser(value) if isinstance(value, str) else None
        if file is None or not os.path.isfile(file):
            continue
        if any(file.samefile(other) for other in chain):
            raise ValueError(f"{file} leads back to itself by {name}; drop it there")
        inner = read_checked(file)[1]
        try:
            file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file}, which {chain[-1]} names, is no UTF-8 text; save it as UTF-8") from error
        _check_nested(inner, groups if name == "config" else (), file.parent, [*chain, file])


def take_back_nulls(values: Any, config_class: type, path: str = "") -> None:
    """What is null, or stands there with nothing behind it (``data:``), has its default where it may not be null.

    Raises ValueError for a group that is no group: jsonargparse finds that out of those alone that may be null.
    """
    groups, hints = _groups(config_class), get_type_hints(config_class)
    for name, hint in hints.items():
        value = values.get(name)
        if value is None and name in values and hint is not Any and type(None) not in get_args(hint):
            values.pop(name)
        elif name in groups and isinstance(value, jsonargparse.Namespace):
            take_back_nulls(value, _class_of(hint), f"{path}{name}.")
        elif name in groups and value is not None and dataclasses.is_dataclass(hint):
            raise ValueError(f"{path}{name} is {value!r}; wanted the name of a file, or lines OPTION: VALUE under it")


def _groups(config_class: type) -> dict[str, Any]:
    """Options that are dataclasses of options themselves, those that may be null too, and their types."""
    return {name: hint for name, hint in get_type_hints(config_class).items() if _class_of(hint)}


def _class_of(hint: Any) -> Any:
    return next((part for part in (hint, *get_args(hint)) if dataclasses.is_dataclass(part)), None)
