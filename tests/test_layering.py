"""Where code may import from: folders in layers, no circle, not even one that an import inside a function hides."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import ROOT

Graph = dict[str, set[str]]  # module -> modules that it imports, at once or later

TOP_LEVEL = {"__init__.py", "__main__.py", "py.typed"}
LIBRARY = {"reference", "ops", "kernels", "network", "data", "metrics", "output", "graphs", "adversarial", "pretrained"}
USES_IT = {"training", "profiling", "evaluate", "restoration", "web", "commands"}
# folder -> all that it may import of ours
ALONE = {"reference": {"reference"}, "kernels": {"kernels"}, "ops": {"ops", "reference"}}


def modules_of(folder: Path, package: str) -> dict[str, Path]:
    """Dotted name -> file."""
    found = {}
    for path in folder.rglob("*.py"):
        parts = [package, *path.relative_to(folder).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path) -> Iterator[tuple[str, list[str], int]]:
    """(module, names taken from it, dots before it) of every import statement, wherever it stands.

    A package's names under TYPE_CHECKING are what it offers, loaded by ``__getattr__``: no imports of its own.
    """
    is_package = path.stem == "__init__"
    base = name.split(".") if is_package else name.split(".")[:-1]
    for node in ast.walk(_without_offers(ast.parse(path.read_text(encoding="utf-8"))) if is_package else _tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, [], 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = base[: len(base) - node.level + 1] if node.level else []
            module = ".".join([*up, *([node.module] if node.module else [])])
            yield module, [alias.name for alias in node.names], node.level


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _without_offers(tree: ast.Module) -> ast.Module:
    offers = [n for n in tree.body if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING"]
    return ast.Module([node for node in tree.body if node not in offers], [])


def graph_of(modules: dict[str, Path]) -> Graph:
    """Edges also go to the packages that an import has to enter, but for those that the module lies in."""
    graph: Graph = {}
    for name, path in modules.items():
        entered = set()
        for module, names, _ in imports(name, path):
            wanted = [f"{module}.{n}" if f"{module}.{n}" in modules else module for n in names] or [module]
            for target in wanted:
                parts = target.split(".")
                entered |= {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
        own = {name, *(name.rsplit(".", n)[0] for n in range(1, name.count(".") + 1))}
        direct = {target for module, names, _ in imports(name, path) for target in _direct(module, names, modules)}
        graph[name] = {target for target in entered & modules.keys() if target not in own or target in direct - {name}}
    return graph


def _direct(module: str, names: list[str], modules: dict[str, Path]) -> list[str]:
    """What a statement asks for by name: a package that it lies in is asked for where it takes more than a module."""
    return [module for n in names if f"{module}.{n}" not in modules] if names else [module]


def circle(graph: Graph) -> list[str]:
    """Modules that import each other in a ring; empty where there is none."""
    done: set[str] = set()

    def walk(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph.get(name, ())):
            if found := walk(target, [*trail, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


def folder_of(module: str) -> str:
    """ "training" of aminet_fast.training.runs.folder; "" of what lies at the top."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


@pytest.fixture(scope="module")
def modules() -> dict[str, Path]:
    package = {n: p for n, p in modules_of(ROOT / "aminet_fast", "aminet_fast").items() if folder_of(n) != "kernels"}
    return package | modules_of(ROOT / "kernels", "aminet_fast.kernels")


@pytest.fixture(scope="module")
def graph(modules: dict[str, Path]) -> Graph:
    return graph_of(modules)


def test_nothing_lies_at_the_top_but_folders() -> None:
    files = {path.name for path in (ROOT / "aminet_fast").iterdir() if path.is_file()}
    assert files == TOP_LEVEL


def test_every_folder_has_its_layer(modules: dict[str, Path]) -> None:
    assert {folder_of(name) for name in modules} - {"", "__main__"} == LIBRARY | USES_IT


def test_no_circle(graph: Graph) -> None:
    assert circle(graph) == []


def test_no_circle_of_folders(graph: Graph) -> None:
    folders: Graph = {}
    for name, targets in graph.items():
        folders.setdefault(folder_of(name), set()).update(
            folder_of(t) for t in targets if folder_of(t) not in ("", folder_of(name))
        )
    assert circle(folders) == []


def test_the_library_does_not_know_who_uses_it(graph: Graph) -> None:
    wrong = {(n, t) for n in graph for t in graph[n] if folder_of(n) in LIBRARY and folder_of(t) in USES_IT}
    assert wrong == set()


def test_only_the_program_knows_the_commands(graph: Graph) -> None:
    users = {name for name, targets in graph.items() if any(folder_of(t) == "commands" for t in targets)}
    assert {folder_of(name) for name in users} == {"commands", "__main__"}


@pytest.mark.parametrize("folder", ALONE)
def test_what_stands_alone(folder: str, graph: Graph) -> None:
    used = {folder_of(t) for name, targets in graph.items() if folder_of(name) == folder for t in targets}
    assert used - {""} <= ALONE[folder]


def test_kernels_need_torch_and_triton_alone(modules: dict[str, Path]) -> None:
    allowed = {"__future__", "torch", "triton", "aminet_fast", *sys.stdlib_module_names}
    for name, path in modules.items():
        if folder_of(name) == "kernels":
            assert {module.split(".")[0] for module, _, _ in imports(name, path)} <= allowed, name


def test_imports_of_our_own_are_relative(modules: dict[str, Path]) -> None:
    absolute = {
        name
        for name, path in modules.items()
        for module, _, level in imports(name, path)
        if not level and module.split(".")[0] in ("aminet_fast", "kernels", "tests", "benchmarks")
    }
    assert absolute == set()


@pytest.mark.parametrize(
    ("files", "ring"),
    [
        ({"a": "from . import b", "b": "def f():\n    from .a import g"}, ["p.a", "p.b", "p.a"]),
        (
            {"a": "from .q import c", "q/__init__": "from .c import x", "q/c": "from .. import a"},
            ["p.a", "p.q", "p.q.c"],
        ),
        ({"a": "from . import b", "b": "from . import a as other"}, ["p.a", "p.b", "p.a"]),
        ({"__init__": "from .a import x", "a": "from . import x"}, ["p", "p.a", "p"]),
        ({"a": "from . import b", "b": "import torch", "__init__": "from .a import x"}, []),
        ({"__init__": "if TYPE_CHECKING:\n    from .a import x", "a": "from . import version"}, []),
    ],
)
def test_circles_are_found(tmp_path: Path, files: dict[str, str], ring: list[str]) -> None:
    for name, text in files.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    found = circle(graph_of(modules_of(tmp_path, "p")))
    assert found[: len(ring)] == ring
    assert bool(found) == bool(ring)
