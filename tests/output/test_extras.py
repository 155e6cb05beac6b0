"""Where an optional package is missing, the message ends in the line to type, and that line is right."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from aminet_fast.commands import installation as info
from aminet_fast.data import sample_photograph
from aminet_fast.metrics import Lpips, vifp
from aminet_fast.metrics.fid import InceptionFeatures, fid
from aminet_fast.output.extras import EXTRAS, missing
from aminet_fast.training import curves
from aminet_fast.training.runs.logs import tensorboard_writer
from benchmarks import draw
from tests.harness import ROOT

PICTURES = torch.zeros(1, 3, 128, 128)
FEATURES = torch.zeros(2, 4)
# Extra, package that is not there, the file that takes it in, and a call that needs it.
USES: list[tuple[str, str, str, Callable[[Path], object]]] = [
    ("plot", "matplotlib", "aminet_fast/training/curves.py", lambda folder: curves._draw({}, folder / "a.png", 1)),
    ("plot", "matplotlib", "benchmarks/draw.py", lambda folder: draw.draw([], "title", folder / "a.png")),
    ("tracking", "tensorboard", "aminet_fast/training/runs/logs.py", lambda folder: tensorboard_writer()),
    ("metrics", "lpips", "aminet_fast/metrics/lpips.py", lambda folder: Lpips()),
    ("metrics", "torchvision", "aminet_fast/metrics/lpips.py", lambda folder: Lpips()),
    ("metrics", "torchmetrics", "aminet_fast/metrics/vif.py", lambda folder: vifp(PICTURES, PICTURES)),
    ("fid", "torch_fidelity", "aminet_fast/metrics/fid.py", lambda folder: InceptionFeatures()),
    ("fid", "torch_fidelity", "aminet_fast/metrics/fid.py", lambda folder: fid(FEATURES, FEATURES)),
    ("demo", "skimage", "aminet_fast/data/photo.py", lambda folder: sample_photograph()),
    ("web", "gradio", "aminet_fast/web/page.py", lambda folder: importlib.import_module("aminet_fast.web.page")),
]


def sources() -> Iterator[Path]:
    for folder in ("aminet_fast", "benchmarks", "kernels"):
        yield from (ROOT / folder).rglob("*.py")


def named_in_code() -> set[tuple[str, str]]:
    """The file and the first argument of every call of `missing`."""
    texts = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sources()}
    return {
        (name, ast.literal_eval(call.args[0]))
        for name, text in texts.items()
        if "output.extras import" in text
        for call in ast.walk(ast.parse(text))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "missing"
    }


@pytest.mark.parametrize(("extra", "package", "file", "use"), USES, ids=[f"{e}-{package}" for e, package, *_ in USES])
def test_a_missing_package_names_the_line_to_type(
    extra: str,
    package: str,
    file: str,
    use: Callable[[Path], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What takes the package in must run anew: torch.utils.tensorboard, lpips, which takes in torchvision, and our page.
    anew = ("torch.utils.tensorboard", "aminet_fast.web.page")
    for name in list(sys.modules):
        if name.partition(".")[0] in (package, "lpips") or name.startswith(anew):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r" needs? .*: pip install 'aminet-fast\[\w+\]'$") as error:
        use(tmp_path)
    assert str(error.value).endswith(f"'aminet-fast[{extra}]'")
    assert not any(tmp_path.iterdir())


def test_every_use_is_tried() -> None:
    assert named_in_code() == {(file, extra) for extra, _, file, _ in USES}


def test_messages_and_docs_name_extras_that_exist() -> None:
    known = {*EXTRAS, "all", "docs", "dev"}
    texts = [*sources(), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"), ROOT / "Makefile"]
    named = {
        (path.name, extra)
        for path in texts
        for group in re.findall(r"(?:aminet[-_]fast|['\" ]\.)\[([a-z,]+)\]", path.read_text(encoding="utf-8"))
        for extra in group.split(",")
    }
    assert ("Makefile", "dev") in named
    assert {pair for pair in named if pair[1] not in known} == set()
    assert {extra for _, extra in named_in_code()} <= set(EXTRAS)


def test_message() -> None:
    assert str(missing("plot", "plots need matplotlib")) == "plots need matplotlib: pip install 'aminet-fast[plot]'"
    with pytest.raises(AssertionError, match="there is no extra 'plots'"):
        missing("plots", "plots need matplotlib")


def test_info_says_which_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info, "_version", lambda name: None if name in ("gradio", "lpips", "tensorboard") else "1")
    assert info._extras() == {
        "faces": "nothing needs it yet",
        "web": "no: gradio missing",
        "export": "yes",
        "metrics": "no: lpips missing",
        "fid": "yes",
        "plot": "yes",
        "tracking": "no: tensorboard missing",
        "demo": "yes",
    }
