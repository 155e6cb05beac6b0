"""Files of options, YAML or JSON: read strictly, so that no line of one is lost without a word.

Every file that somebody may have written by hand comes through here, those that another file of options names and
options written out on the command line too. A key that stands twice is refused (PyYAML and json keep the last), an
empty file is one without options, and what is wrong is said with the file and the line.
"""

from __future__ import annotations

import codecs
import json
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

# What Windows' editors and PowerShell's > begin a file with. UTF-32's mark begins with UTF-16's: first.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_options(path: str | Path) -> dict[str, Any]:
    """The mapping that a .yaml, .yml or .json file holds; {} when it holds nothing, or comments alone.

    Raises:
        ValueError: the file is no text, no YAML or JSON, no mapping, or gives a key twice; in one line, with the file
            and the line in it.
        OSError: it cannot be read.
    """
    return read_checked(path)[1]


def read_checked(path: str | Path) -> tuple[str, dict[str, Any]]:
    """A file's text, for a reader with its own way with numbers, and the mapping in it; raises as `read_options`."""
    file = Path(path)
    if file.is_dir():
        raise ValueError(f"{file} is a folder; wanted a YAML or JSON file of options")
    text = _text(file, file.read_bytes())
    if file.suffix.lower() == ".json":
        values = _from_json(file, text)
        return json.dumps(values, ensure_ascii=False), values  # YAML knows no surrogate pairs of escapes
    return text, _from_yaml(file, text)


def _text(file: Path, data: bytes) -> str:
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{file} is no {encoding.upper()} text (line {line}: {error.reason}); save it as UTF-8"
        ) from error


def _from_json(file: Path, text: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        if twice:
            with suppress(yaml.YAMLError):  # which knows the lines, and takes nearly all JSON
                _refuse_duplicates(file, yaml.compose(text.replace("\t", " "), yaml.SafeLoader))
            raise ValueError(f"{file} gives {twice[0]} twice; one of the two would be lost")
        return dict(pairs)

    try:
        values = json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is no JSON (line {error.lineno}: {error.msg})") from error
    return _mapping(file, values)


def _from_yaml(file: Path, text: str) -> dict[str, Any]:
    try:
        loader = yaml.SafeLoader(text)  # which looks at every character at once
        node = loader.get_single_node()
        _refuse_duplicates(file, node)
        return _mapping(file, loader.construct_document(node) if node else None)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        tab = "; indent by spaces, not by tabs" if "'\\t'" in str(error.problem) else ""
        raise ValueError(f"{file} is no YAML ({where}{error.problem or error.context}{tab})") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        utf16 = "; save it as UTF-8" if error.character == 0 else ""  # as UTF-16 without a mark reads
        character = repr(chr(error.character))
        raise ValueError(f"{file} is no YAML (line {line}: it has the character {character}{utf16})") from error


def _mapping(file: Path, values: Any) -> dict[str, Any]:
    if values is None:
        return {}
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise ValueError(f"{file} holds no mapping of options but a {kind}; write lines like 'batch_size: 8'")
    return values


def refuse_duplicates(text: str, source: str) -> None:
    """Raises ValueError, naming `source`, for a key that stands twice in YAML that has been read before."""
    _refuse_duplicates(source, yaml.compose(text, yaml.SafeLoader))


def _refuse_duplicates(file: Path | str, root: yaml.Node | None) -> None:
    """Raises ValueError for a key that stands twice in one mapping, at any depth, naming both lines.

    What a merge (<<) brings may be given again, as YAML has it. "data.root" stands for root inside data, as on the
    command line.
    """
    waiting, seen = [(root, "", {})], set()  # type: list[tuple[yaml.Node | None, str, dict[str, int]]], set[int]
    while waiting:
        node, path, lines = waiting.pop()
        if isinstance(node, yaml.SequenceNode):
            waiting += [(child, f"{path}[{i}].", {}) for i, child in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode) or id(node) in seen:  # an alias leads to the same node
            continue
        seen.add(id(node))
        for key, value in node.value:
            name, line = f"{path}{key.value}", key.start_mark.line + 1
            if name in lines and key.tag != "tag:yaml.org,2002:merge":
                first, second = sorted((lines[name], line))
                raise ValueError(
                    f"{file} gives {name} twice, on line {first} and on line {second}; one of the two would be lost"
                )
            lines[name] = line
            waiting.append((value, f"{name}.", lines))
