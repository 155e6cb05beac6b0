"""The documentation against the tree: links, anchors, the site's index, the paths that pages name."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")])
FENCED = re.compile(r"^( *)(`{3,}|~{3,})[^\n]*\n.*?^\1\2 *$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(`+)([^`\n]+)\1")
LINK = re.compile(r"!?\[[^\]\n]*\]\(([^)\s]+)\)")
# What stands in code and begins like a path of the tree. A placeholder (<operator>, *, ...) stands for anything.
PATH = re.compile(r"(?<![\w./-])(?:aminet_fast|benchmarks|build_backend|csrc|docs|kernels|tests)/[\w./*<>{},-]*")
MADE_LATER = ("aminet_fast/_compiled", "benchmarks/results/gate")  # by an install, by a run


def pages(*chosen: Path) -> Any:
    return pytest.mark.parametrize("page", chosen or PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def without_code(text: str) -> str:
    return INLINE.sub("", FENCED.sub("", text))


def code(text: str) -> list[str]:
    """Fenced and indented blocks, and what is in backticks."""
    blocks = [match[0] for match in FENCED.finditer(text)]
    rest = FENCED.sub("", text)
    indented = re.findall(r"^ {4}(?![-*] |\d+\. ).+$", rest, re.MULTILINE)
    return [*blocks, *indented, *(match[2] for match in INLINE.finditer(rest))]


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub and the site both make them; repeated headings differ, so link to none."""
    found = set()
    for heading in re.findall(r"^#{1,6} (.+?)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        plain = LINK.sub(lambda link: link[0][link[0].index("[") + 1 : link[0].index("]")], heading)
        found.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower()))
    return found


def braces(path: str) -> list[str]:
    """Every path that "a_{b,c}" stands for."""
    parts = [part[1:-1].split(",") if part.startswith("{") else [part] for part in re.split(r"(\{[^{}]*\})", path)]
    return ["".join(chosen) for chosen in product(*parts)]


def exists(path: str) -> bool:
    if path.startswith(MADE_LATER):
        return True
    pattern = re.sub(r"<[^<>]*>|\.\.\.", "*", path).rstrip("/.,-")
    return all(any(ROOT.glob(one)) for one in braces(pattern))


def nav(entries: Any) -> list[str]:
    if isinstance(entries, str):
        return [entries]
    values = entries.values() if isinstance(entries, dict) else entries
    return [page for value in values for page in nav(value)]


@pages()
def test_relative_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    wrong = []
    for target in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        file = (page.parent / place).resolve() if place else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
    assert wrong == []


@pages()
def test_paths_in_code_exist(page: Path) -> None:
    named = [path for text in code(page.read_text(encoding="utf-8")) for path in PATH.findall(text)]
    assert [path for path in named if not exists(path)] == []


@pages(*sorted(DOCS.rglob("*.md")))
def test_links_of_the_site_stay_inside_it(page: Path) -> None:
    targets = LINK.findall(without_code(page.read_text(encoding="utf-8")))
    files = [
        (page.parent / target.partition("#")[0]).resolve() for target in targets if not re.match(r"[a-z]+:", target)
    ]
    assert [file for file in files if not file.is_relative_to(DOCS)] == []


def test_every_page_is_in_the_index_once() -> None:
    index = nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert sorted(index) == sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))


def test_the_home_page_leads_to_every_page_but_those_of_the_reference() -> None:
    linked = set(LINK.findall((DOCS / "index.md").read_text(encoding="utf-8")))
    others = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} - {"index.md"}
    assert {page for page in others if not page.startswith("api/")} | {"api/index.md"} <= linked


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 90


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("docs/index.md", True),
        ("docs/no_such_page.md", False),
        ("csrc/cuda/<operator>.cu", True),
        ("csrc/cuda/<operator>.rs", False),
        ("tests/ops/test_{dispatch,extension}.py", True),
        ("tests/ops/test_{dispatch,no_such}.py", False),
        ("aminet_fast/_compiled/build.json", True),
    ],
)
def test_a_path_with_placeholders_exists_when_some_file_fits(path: str, there: bool) -> None:
    assert exists(path) is there


def test_headings_become_anchors_as_on_the_site(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# `skaf_gate`, twice\n\n## On a GPU\n\n```\n# no heading\n```\n", encoding="utf-8")
    assert anchors(page) == {"skaf_gate-twice", "on-a-gpu"}
