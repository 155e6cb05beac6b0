"""pyproject.toml, CITATION.cff and CHANGELOG.md say the same, and what the package says of itself."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml
from packaging import requirements as requirements_of

import aminet_fast
from aminet_fast.output.extras import EXTRAS
from tests.harness import ROOT

PAPER = "https://arxiv.org/abs/2409.00591"
# Every address that a file at the door may have; a home of the project is aminet_fast.__homepage__.
ADDRESSES = {
    PAPER,
    "https://semver.org",
    "https://www.contributor-covenant.org/version/2/1/code_of_conduct/",
    "https://creativecommons.org/licenses/by/4.0/",
}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture
def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    return dict(tomllib.loads(read("pyproject.toml")))


def names(requirements: list[str]) -> list[str]:
    return [re.split(r"[\[<>=;! ]", requirement)[0] for requirement in requirements]


def wanted_here(requirements: list[str]) -> list[str]:
    """Those whose markers hold for this Python and machine."""
    parsed = [requirements_of.Requirement(requirement) for requirement in requirements]
    return [one.name for one in parsed if one.marker is None or one.marker.evaluate()]


def expanded(requirements: list[str], extras: dict[str, list[str]]) -> list[str]:
    """With the requirements of the extras that ``aminet-fast[a,b]`` takes in, in their place."""
    found: list[str] = []
    for requirement in requirements:
        inner = sorted(taken_in([requirement]))
        found += [one for extra in inner for one in extras[extra]] if inner else [requirement]
    return found


def taken_in(requirements: list[str]) -> set[str]:
    """The extras in ``aminet-fast[a,b]``."""
    found = (re.fullmatch(r"aminet-fast\[(.*)\]", requirement) for requirement in requirements)
    return {extra for match in found if match for extra in match[1].split(",")}


def test_version_is_the_packages(project: dict[str, Any]) -> None:
    assert "version" not in project["project"]
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "aminet_fast.__version__"}
    # A literal, which setuptools reads without importing the package.
    assert f'\n__version__ = "{aminet_fast.__version__}"\n' in read("aminet_fast/__init__.py")


def test_what_everybody_installs(project: dict[str, Any]) -> None:
    hard = ["torch", "triton", "numpy", "pillow", "safetensors", "huggingface_hub", "pyyaml", "rich"]
    assert names(project["project"]["dependencies"]) == [*hard, "jsonargparse", "accelerate"]


def test_extras_are_those_of_the_messages(project: dict[str, Any]) -> None:
    listed = dict(project["project"]["optional-dependencies"])
    every, docs, dev = listed.pop("all"), listed.pop("docs"), listed.pop("dev")
    here = {extra: tuple(wanted_here(expanded(packages, listed))) for extra, packages in listed.items()}
    assert here == EXTRAS
    assert taken_in(every) == set(EXTRAS)
    assert len(every) == 1
    assert taken_in(dev) <= set(EXTRAS)
    assert {"pytest", "pytest-xdist", "hypothesis", "ruff", "mypy"} <= set(names(dev))
    assert names(docs) == ["mkdocs-material", "mkdocstrings"]


def test_who_and_where(project: dict[str, Any]) -> None:
    """Nobody's name or address is invented."""
    assert project["project"]["authors"] == [{"name": "The aminet-fast authors"}]
    home = {"Homepage": aminet_fast.__homepage__} if aminet_fast.__homepage__ else {}
    assert project["project"]["urls"] == {"Paper": PAPER} | home


def test_citation() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert citation["license"] == "Apache-2.0"
    assert citation["version"] == aminet_fast.__version__
    assert citation["authors"] == [{"name": "The aminet-fast authors"}]
    paper = citation["preferred-citation"]
    assert paper["title"] == "Attention-Guided Multi-scale Interaction Network for Face Super-Resolution"
    assert paper["url"] == PAPER
    assert [person["family-names"] for person in paper["authors"]] == ["Wan", "Li", "Gao", "Lu", "Yang", "Lin"]
    assert citation.get("url", "") == aminet_fast.__homepage__
    newest = re.search(r"^## (\S+) \((\S+)\)$", read("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert newest.groups() == (aminet_fast.__version__, str(citation["date-released"]))


def test_files_at_the_door_have_no_other_address() -> None:
    files = ["CITATION.cff", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "pyproject.toml"]
    files += [str(path.relative_to(ROOT)) for path in (ROOT / ".github").rglob("*") if path.is_file()]
    allowed = ADDRESSES | ({aminet_fast.__homepage__} - {""})
    for name in files:
        assert set(re.findall(r"https?://[^\s)\"'>]+", read(name))) <= allowed, name
        assert not re.search(r"\b[\w.+-]+@[\w-]+\.\w", read(name)), name
