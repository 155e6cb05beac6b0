"""Files for those who work on the project: the workflow, the forms, the hooks, and CONTRIBUTING's walk."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness import ROOT

GITHUB = ROOT / ".github"
FORMS = [path for path in sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")) if path.name != "config.yml"]
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]


def parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def tracked() -> list[Path]:
    run = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip("this is no checkout")
    return [path for name in run.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def make_targets(text: str) -> set[str]:
    """What `make` is told to make on lines of shell."""
    words = [line.split("#")[0].split() for line in text.splitlines()]
    calls = [line[1:] for line in words if line and line[0] == "make"]
    return {word for call in calls for word in call if re.fullmatch(r"[a-z][a-z-]*", word)}


def test_workflow_calls_what_make_has() -> None:
    jobs = parsed(GITHUB / "workflows" / "ci.yml")["jobs"]
    called = {
        target for job in jobs.values() for step in job["steps"] for target in make_targets(str(step.get("run", "")))
    }
    assert {"lint", "types", "test", "test-gpu-less", "docs"} <= called
    rules = re.findall(r"^([\w -]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert called <= {name for rule in rules for name in rule.split()}


def test_workflow_has_every_python_and_torch() -> None:
    workflow = parsed(GITHUB / "workflows" / "ci.yml")
    assert workflow["permissions"] == {"contents": "read"}
    pairs = workflow["jobs"]["tests"]["strategy"]["matrix"]["include"]
    assert [pair["python"] for pair in pairs] == PYTHONS
    assert sorted({pair["torch"] for pair in pairs}) == ["2.11", "2.12", "2.13", "2.14"]
    classifiers = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    assert classifiers == PYTHONS
    for job in workflow["jobs"].values():
        for action in filter(None, (step.get("uses") for step in job["steps"])):
            assert re.fullmatch(r"actions/[\w-]+@v\d+", action)


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_issue_form(form: Path) -> None:
    content = parsed(form)
    assert content["name"]
    assert content["description"]
    asked = [part for part in content["body"] if part["type"] != "markdown"]
    assert len({part["id"] for part in asked}) == len(asked) > 0
    for part in asked:
        assert part["type"] in ("textarea", "input", "dropdown")
        assert part["attributes"]["label"]
        assert all(isinstance(option, str) for option in part["attributes"].get("options", []))
    assert any(part.get("validations", {}).get("required") for part in asked)


def test_bugs_come_with_aminet_info() -> None:
    assert {"bug", "feature", "wrong_numbers"} == {form.stem for form in FORMS}
    for name in ("bug", "wrong_numbers"):
        parts = {part["id"]: part for part in parsed(GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml")["body"] if "id" in part}
        assert "aminet info" in parts["info"]["attributes"]["label"]
        assert parts["info"]["validations"]["required"] is True


def test_hooks_fetch_nothing_and_the_tree_passes_them() -> None:
    repositories = parsed(ROOT / ".pre-commit-config.yaml")["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    hooks = {hook["id"]: hook for hook in repositories[0]["hooks"]}
    assert {hook["language"] for hook in hooks.values()} <= {"system", "pygrep", "fail"}
    assert [hooks[name]["entry"].split()[2] for name in ("ruff-check", "ruff-format", "mypy")] == [
        "ruff",
        "ruff",
        "mypy",
    ]
    patterns = [
        re.compile(hook["entry"].encode(), re.MULTILINE | (re.DOTALL if hook.get("args") == ["--multiline"] else 0))
        for hook in hooks.values()
        if hook["language"] == "pygrep"
    ]
    assert patterns[0].search(b"blank \n")
    assert patterns[1].search(b"no newline")
    assert patterns[2].search(b"<<<<<<< HEAD\n")
    for path in tracked():
        assert not re.search(hooks["built-files"]["files"], path.name), path
        text = path.read_bytes()
        if b"\0" not in text[:8192]:
            assert not any(pattern.search(text) for pattern in patterns), path


def excerpts() -> list[tuple[str, list[str]]]:
    """(file, lines) of each block of CONTRIBUTING.md that begins with a comment of the file's name."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w+\n(?:#|//) (\S+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [(name, [line.strip() for line in body.splitlines() if line.strip() != "..."]) for name, body in blocks]


def test_the_walk_quotes_what_is_there() -> None:
    assert len(excerpts()) >= 10
    for name, lines in excerpts():
        there = [line.strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]
        assert len(lines) <= 10
        assert [line for line in lines if line not in there] == [], f"{name} has no such line"


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"])
def test_paths_in_these_pages_are_there(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    quoted = re.findall(r"`([\w.-]+/[\w./-]*)`|\]\(([\w./-]+)\)|(tests/[\w./-]+\.py)", text)
    paths = {next(filter(None, found)) for found in quoted}
    assert [path for path in sorted(paths) if not (ROOT / path).exists() and path not in MADE] == []


# What commands make, and folders named from within aminet_fast/.
MADE = {".venv", "train/", "test_a/", "test_b/", "evaluate/", "runs/", "drawn/", "harness/"}
