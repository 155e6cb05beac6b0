"""Which picture becomes which file."""

from __future__ import annotations

from pathlib import Path

import pytest

from aminet_fast.restoration.plan import plan
from tests.restoration.inputs import faces


def test_plan_keeps_names_and_structure(tmp_path: Path) -> None:
    root, out = faces(tmp_path / "in", "a.png", "sub/b.jpg", "sub/c.gif", "x[1].png"), tmp_path / "out"
    whole = {str(j.target.relative_to(out)) for j in plan([str(root)], out).jobs}
    assert whole == {"a.png", "sub/b.jpg", "sub/c.png", "x[1].png"}
    assert {j.target.name for j in plan([str(root)], out, format="jpg").jobs} == {
        "a.jpg",
        "b.jpg",
        "c.jpg",
        "x[1].jpg",
    }
    assert [j.target for j in plan([str(root / "**" / "*.jpg")], out).jobs] == [out / "b.jpg"]
    assert [j.target for j in plan([str(root / "x[1].png")], out).jobs] == [out / "x[1].png"]
    assert len(plan([str(root), str(root / "a.png"), str(root / "." / "a.png")], out).jobs) == 4


def test_plan_refuses_before_anything_is_lost(tmp_path: Path) -> None:
    root, out = faces(tmp_path / "in", "a.png", "a.gif", "one/s.png", "two/s.png"), tmp_path / "out"
    with pytest.raises(ValueError, match=r"a\.gif and .*a\.png would both become .*a\.png"):
        plan([str(root)], out)
    with pytest.raises(ValueError, match="would both become"):
        plan([str(root / "one" / "s.png"), str(root / "two" / "s.png")], out)
    for n in range(6):
        faces(root, f"more/{n}.png", f"more/{n}.gif")
    faces(root, "a.ppm")
    with pytest.raises(ValueError, match=r"^7 results would be of several pictures: ") as e:
        plan([str(root)], out)
    assert f"{root}/a.gif and {root}/a.png and {root}/a.ppm would all become {out}/a.png, " in str(e.value)
    assert f"{root}/more/3.gif and {root}/more/3.png would both become {out}/more/3.png and 2 more; " in str(e.value)
    for path in [root / "a.ppm", root / "a.gif", *(root / "more").iterdir()]:
        path.unlink()
    with pytest.raises(ValueError, match="would overwrite pictures that are inputs"):
        plan([str(root)], root, force=True)
    faces(out, "a.png")
    with pytest.raises(ValueError, match=r"1 of 3 results exist already: .*a\.png; pass --skip_existing .* --force"):
        plan([str(root)], out)
    assert len(plan([str(root)], out, force=True).jobs) == 3
    going_on = plan([str(root)], out, skip_existing=True)
    assert (len(going_on.jobs), going_on.existing) == (2, [out / "a.png"])
    with pytest.raises(FileNotFoundError, match="nothing matches"):
        plan([str(root / "*.webp")], out)
    with pytest.raises(ValueError, match="no pictures to upscale"):
        plan([], out)
    with pytest.raises(ValueError, match="is a file"):
        plan([str(root)], root / "a.png")


def test_results_inside_the_input_folder_are_not_inputs_again(tmp_path: Path) -> None:
    root = faces(tmp_path / "in", "a.png", "up/a.png")
    for path in (root / "notes.txt", root / "up" / "a.json"):
        path.write_text("{}")
    todo = plan([str(root)], root / "up", force=True)
    assert [(j.source, j.target) for j in todo.jobs] == [(root / "a.png", root / "up" / "a.png")]
    assert todo.left_out == {".txt": 1}
