"""What is compiled for a GPU machine beforehand: when it is of use, what is in it, and that it is found again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest

from aminet_fast.data import DataConfig, draw_face, open_faces
from benchmarks.gpu_model import fake_gpu
from benchmarks.gpu_pack import __main__ as gpu_pack
from benchmarks.gpu_pack import cache, environment, faces, launchers, manifest, sizes, tasks, unpack
from tests.harness import ROOT

MACHINE = "9.8.7"  # a Triton that nobody has


def written(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def program(path: Path, text: str) -> Path:
    written(path, f"#!/bin/sh\n{text}\n").chmod(0o755)
    return path


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with a source of each kind, and a machine that has the pack's Triton and no GPU."""
    monkeypatch.setattr(manifest, "triton_version", lambda: MACHINE)
    monkeypatch.setattr(manifest, "capability", lambda: "")
    root = tmp_path / "tree"
    for name in ("kernels/a.py", "kernels/deep/b.py", "csrc/cuda/c.cu", "csrc/common/d.h", "aminet_fast/ops/a.py"):
        written(root / name, name)
    return root


def make_pack(tree: Path, *, cuda: bool = True, module: str = "", **about: object) -> Path:
    """A pack of the tree with one kernel, whose list of files is as another machine's Triton wrote it."""
    build, pack = tree.parent / "build", tree.parent / "pack"
    folder = build / "cache" / "AAAA"
    for name in ("k.cubin", "k.json", "k.ptx", "k.source"):
        written(folder / name, name)
    paths = {name: f"/elsewhere/AAAA/{name}" for name in ("k.cubin", "k.json", "k.ptx", "k.source")}
    written(folder / "__grp__k.json", json.dumps({"child_paths": paths}))
    assert cache.prune(build / "cache", ["AAAA", "AAAA"], build / "content" / "cache") == 1
    if module:
        written(build / "content" / manifest.MODULE, module)
    pack.mkdir()
    gpu_pack.write_archive(build / "content", pack / manifest.ARCHIVE)
    facts = {"triton": MACHINE, "arch": 90, "kernels": 1, "cuda": cuda, "suffix": ""} | about
    manifest.write(pack, facts | manifest.sources(tree, cuda))
    return pack


def test_a_pack_of_this_tree_is_of_use(tree: Path) -> None:
    usable, why = manifest.state(tree, make_pack(tree))
    assert usable
    assert why.startswith(f"1 kernels for sm_90 and Triton {MACHINE}, of these very sources")
    assert "launchers for this Python are not in it" in why
    assert manifest.stale(tree, tree.parent / "pack") == []


def test_launchers_for_this_python_are_told(tree: Path) -> None:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert "launchers" not in manifest.state(tree, make_pack(tree, suffix=suffix))[1]


@pytest.mark.parametrize("name", ["kernels/a.py", "kernels/deep/b.py", "csrc/cuda/c.cu", "csrc/common/d.h"])
def test_an_edited_source_makes_it_stale(tree: Path, name: str) -> None:
    pack = make_pack(tree)
    (tree / name).write_text("another line")
    assert manifest.stale(tree, pack) == [name]
    usable, why = manifest.state(tree, pack)
    assert not usable
    assert f"other sources than the pack was made of ({name})" in why


def test_new_and_removed_sources_make_it_stale(tree: Path) -> None:
    pack = make_pack(tree)
    written(tree / "kernels/new.py")
    (tree / "csrc/cuda/c.cu").unlink()
    assert manifest.stale(tree, pack) == ["csrc/cuda/c.cu", "kernels/new.py"]
    assert not manifest.state(tree, pack)[0]


def test_without_the_cuda_module_its_sources_do_not_count(tree: Path) -> None:
    pack = make_pack(tree, cuda=False)
    (tree / "csrc/cuda/c.cu").write_text("edited")
    assert manifest.state(tree, pack)[0]
    (tree / "kernels/a.py").write_text("edited")
    assert not manifest.state(tree, pack)[0]


def test_another_caller_is_told_and_does_not_matter(tree: Path) -> None:
    pack = make_pack(tree)
    (tree / "aminet_fast/ops/a.py").write_text("edited")
    written(tree / "aminet_fast/_compiled/build.json")  # an install's, which does not travel
    usable, why = manifest.state(tree, pack)
    assert usable
    assert "what launches them has changed (aminet_fast/ops/a.py), so some may be missing" in why


def test_no_pack_a_broken_one_and_another_machine(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert manifest.state(tree, tree / ".gpu") == (
        False,
        f"there is no pack in {tree / '.gpu'}; make gpu-pack makes one",
    )
    pack = make_pack(tree)
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "triton_version", lambda: "")
        assert manifest.state(tree, pack) == (False, f"the pack is for Triton {MACHINE}, and here is none")
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "capability", lambda: "80")
        assert manifest.state(tree, pack) == (False, "the pack is for GPUs of sm_90, and here is one of sm_80")
        patch.setattr(manifest, "capability", lambda: "90")
        assert manifest.state(tree, pack)[0]
    with (pack / manifest.ARCHIVE).open("ab") as file:
        file.write(b"cut or grown")
    assert "is not what the manifest describes" in manifest.state(tree, pack)[1]
    (pack / manifest.NAME).write_text("[]")
    assert "cannot be read" in manifest.state(tree, pack)[1]


def test_the_gpu_that_nvidia_smi_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert manifest.capability() == ""
    smi = program(tmp_path / "nvidia-smi", "echo 9.0; echo 8.0")
    assert manifest.capability() == "90"
    program(smi, "echo no devices were found; exit 6")
    assert manifest.capability() == ""


def test_pruning_keeps_machine_code_and_lists_of_it(tree: Path) -> None:
    make_pack(tree)
    kept = tree.parent / "build" / "content" / "cache" / "AAAA"
    assert sorted(path.name for path in kept.iterdir()) == ["__grp__k.json", "k.cubin", "k.json"]
    assert json.loads((kept / "__grp__k.json").read_text()) == {
        "child_paths": {"k.cubin": "k.cubin", "k.json": "k.json"}
    }
    with pytest.raises(FileNotFoundError):
        cache.prune(tree.parent / "build" / "cache", ["BBBB"], tree.parent / "other")


def test_lists_hold_the_place_where_it_was_unpacked(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"/kept{os.pathsep}{unpack.ROOT}")
    pack, place = make_pack(tree), tree.parent / "here"
    env = unpack.activate(pack, place)
    group = place / "cache" / "AAAA" / "__grp__k.json"
    names = {"k.cubin": str(group.parent / "k.cubin"), "k.json": str(group.parent / "k.json")}
    assert json.loads(group.read_text())["child_paths"] == names
    assert all(Path(path).is_file() for path in names.values())
    paths = [unpack.SITE, ROOT, "/kept"]
    assert env == {
        "TRITON_CACHE_DIR": str(place / "cache"),
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "AMINET_PACK_TRITON": MACHINE,
    }
    added = written(place / "cache" / "CCCC" / "k.json")  # by Triton, of a kernel that was missing
    unpack.activate(pack, place)
    assert added.exists()
    moved = place.rename(tree.parent / "there")
    unpack.activate(pack, moved)
    assert json.loads((moved / "cache" / "AAAA" / "__grp__k.json").read_text())["child_paths"]["k.json"] == str(
        moved / "cache" / "AAAA" / "k.json"
    )


def test_the_packed_module_is_named_where_there_is_one(tree: Path) -> None:
    env = unpack.activate(make_pack(tree, module="binary"), tree.parent / "here")
    assert Path(env["AMINET_PACK_MODULE"]).read_text() == "binary"


def test_a_shell_takes_the_environment(tree: Path, tmp_path: Path) -> None:
    pack = make_pack(tree)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_pack.unpack", "--pack", str(pack), "--into", str(tmp_path / "x y")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")  # the tree is another
    assert "the pack is for Triton" in done.stderr
    script = f". {ROOT}/benchmarks/gpu_pack/env.sh && echo [$TRITON_CACHE_DIR]"
    fake = program(tmp_path / "python", """echo "export TRITON_CACHE_DIR='a b'" """)
    shell = {"env": os.environ | {"PYTHON": str(fake)}, "capture_output": True, "text": True, "check": False}
    assert subprocess.run(["sh", "-c", script], **shell).stdout == "[a b]\n"
    program(fake, "exit 1")
    assert subprocess.run(["sh", "-c", script], **shell).returncode == 1


def test_another_triton_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"Triton 0\.0\.1 has to compile .*; make gpu-pack PACK_TRITON=0\.0\.1"):
        gpu_pack.main(["--triton", "0.0.1", "--out", str(tmp_path / "pack")])
    assert not (tmp_path / "pack").exists()


def test_options() -> None:
    options = gpu_pack.parsed(["--arch", "sm_89", "--no-cuda", "--python", "3.13"])
    assert (options.arch, options.cuda, options.python, options.triton) == (89, False, "3.13", "3.6.0")
    assert gpu_pack.parsed([]).cuda


def test_tasks_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[object, ...]] = []
    for name in ("run_network", "run_cases", "run_sanitizer_target"):
        monkeypatch.setattr(tasks, name, lambda *given: ran.append(given))
    for task in ("train:32:bf16", "infer:1:fp32:compiled", "cases:skaf_gate:bf16", "sanitizer"):
        tasks.run(task, 80)
    assert ran == [
        ("train", 32, "bf16", False, 80), ("infer", 1, "fp32", True, 80), ("skaf_gate", "bf16", 80), (80,),
    ]  # fmt: skip
    for wrong in ("train", "train:32:bf16:cuda", "cases:skaf_gate", "sanitizer:1", "profit:1:bf16"):
        with pytest.raises(ValueError, match="no task is called"):
            tasks.run(wrong, 80)


@pytest.mark.parametrize("task", ["sanitizer", "cases:batch_norm_affine:bf16"])
def test_tasks_run_without_compiling(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What they launch is found; nothing is compiled here, which takes minutes."""
    pytest.importorskip("triton", reason="Triton is not installed")
    launched: list[str] = []
    monkeypatch.setattr(
        fake_gpu,
        "compile_only",
        lambda _, every, real=fake_gpu.compile_only: real(
            lambda function, *_: launched.append(function.__name__), every, compiling=False
        ),
    )
    tasks.run(task, 90)
    assert len(launched) > 2


def test_every_operator_of_the_network_is_packed() -> None:
    todo = gpu_pack.every_task()
    assert {"train:32:bf16", "train:32:bf16:compiled", "infer:1:bf16", "infer:8:bf16", "sanitizer"} <= set(todo)
    for operator in ("rdfe_front", "channel_attention", "skaf_descriptor", "norm_act_conv", "layer_norm2d"):
        assert {f"cases:{operator}:bf16", f"cases:{operator}:fp32"} <= set(todo)


def test_a_python_is_found_by_name_then_in_pyenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    assert launchers.find_python("3.97") is None
    assert launchers.target_of("3.97")[1] == "no Python 3.97 is here, by the name python3.97 or in pyenv"
    for version in ("3.97.2", "3.97.10", "3.9.1"):
        program(tmp_path / "pyenv/versions" / version / "bin/python", "echo .so; echo /no/headers")
    assert launchers.find_python("3.97") == str(tmp_path / "pyenv/versions/3.97.10/bin/python")
    target, problem = launchers.target_of("3.97")
    assert target is None
    assert "has no headers: /no/headers/Python.h is not there" in problem
    named = program(tmp_path / "bin/python3.97", "exit 1")  # pyenv's, of a version that is not chosen
    assert launchers.find_python("3.97") == str(tmp_path / "pyenv/versions/3.97.10/bin/python")
    program(named, "echo .so; echo /no/headers")
    assert launchers.find_python("3.97") == str(named)


def test_launchers_lie_where_triton_looks_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = written(tmp_path / ("0a" * 32 + ".c"), "int passes(void) { return 1; }")
    monkeypatch.setattr(launchers, "utils_source", lambda: "int loads(void) { return 1; }")
    monkeypatch.setattr(launchers, "key_of", lambda text: "0b" * 32)
    monkeypatch.setattr(launchers, "headers", lambda: tmp_path)
    target = launchers.Target("python", ".cpython-397.so", str(tmp_path))
    assert launchers.compile_all([source], tmp_path / "cache", tmp_path, target, 2) == 2
    for key, name in (("0a", "__triton_launcher"), ("0b", "cuda_utils")):
        assert (tmp_path / "cache" / cache.folder_of(key * 32) / f"{name}.cpython-397.so").is_file()


def test_without_that_python_the_other_machine_compiles_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    written(tmp_path / "noted" / "0a.c")
    facts = gpu_pack.add_launchers(tmp_path, tmp_path / "cache", gpu_pack.parsed(["--python", "3.97"]))
    assert facts == {"launchers": 0, "suffix": ""}
    assert "no launchers: no Python 3.97 is here" in capsys.readouterr().out


def test_names_of_folders_are_tritons() -> None:
    triton = pytest.importorskip("triton.runtime.cache")
    key = "3f" * 32
    assert cache.folder_of(key) == triton._base32(key)


def test_sizes(tmp_path: Path) -> None:
    pack = tmp_path / ".gpu"
    for path, mib in ((tmp_path / "source.py", 1), (tmp_path / "ignored", 9), (pack / "a", 2), (pack / "faces/b", 3)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0" * (mib * sizes.MIB))
    assert sizes.report(tmp_path, pack, 60) == "pack 2.0, faces 3.0; the tree's size is not known without git"
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    written(tmp_path / ".gitignore", "/ignored\n/.gpu/\n")
    assert sizes.report(tmp_path, pack, 60) == "pack 2.0, tree 1.0, faces 3.0: 6.0 MiB of 60"
    assert sizes.report(tmp_path, pack, 5).endswith("6.0 MiB of 5, TOO MUCH")


def test_an_environment_without_python_has_no_triton(tmp_path: Path) -> None:
    assert environment.version_in(tmp_path / "bin" / "python") == ""
    assert sysconfig.get_path("purelib") in environment.package_folders()


def test_faces_there_and_back(tmp_path: Path) -> None:
    source = tmp_path / "faces"
    for folder, count in (("train", 6), ("test_a", 2), ("other", 1)):
        (source / folder).mkdir(parents=True)
        for n in range(count):
            draw_face(n, 144).save(source / folder / f"{folder}_{n}.png")
    exact = source / "test_a" / "test_a_0.jpg"
    draw_face(9, 128).save(exact, quality=80)
    (source / "test_a" / "test_a_0.png").unlink()
    about = faces.pack(source, tmp_path / "out", 1.0)
    assert about["pictures"] == 8
    assert about["train"]["stored"] == "JPEG 4:4:4, quality 98"
    assert about["train"]["psnr_least"] > 40
    root = faces.unpacked(tmp_path / "out", tmp_path / "back")
    assert faces.unpacked(source, tmp_path / "back") == source
    assert (root / "test_a" / "test_a_0.jpg").read_bytes() == exact.read_bytes()
    settings = {"cache": str(tmp_path / "cache")}
    given = open_faces(DataConfig(root=str(source), **settings), "train")
    found = open_faces(DataConfig(root=str(root), **settings), "train")
    assert [Path(name).stem for name in found.names] == [Path(name).stem for name in given.names]
    difference = np.asarray(found.store.part("hr"), float) - np.asarray(given.store.part("hr"), float)
    assert 0 < np.abs(difference).mean() < 2


def test_faces_take_the_best_quality_that_fits(tmp_path: Path) -> None:
    source = tmp_path / "faces"
    source.mkdir()
    for n in range(4):
        draw_face(n, 128).save(source / f"{n}.png")
    quality, stored = faces.best(faces.list_pictures(source), 10 * sizes.MIB)
    whole = sum(map(faces.packed_size, stored))
    assert quality == 98
    lesser, stored = faces.best(faces.list_pictures(source), whole - 1)
    assert 70 <= lesser < 98
    assert sum(map(faces.packed_size, stored)) < whole
    about = faces.pack(source, tmp_path / "out", whole / sizes.MIB)
    assert about["train"]["stored"].endswith("quality 98")
    with zipfile.ZipFile(tmp_path / "out" / faces.ARCHIVE) as archive:
        assert archive.namelist() == [f"train/{n}.jpg" for n in range(4)] + [faces.ABOUT]
    assert about["bytes"] < whole + 2000
    with pytest.raises(ValueError, match=r"4 pictures do not fit into 0\.0 MiB at quality 70"):
        faces.pack(source, tmp_path / "out", 0.001)
    with pytest.raises(ValueError, match="no pictures in"):
        faces.pack(written(tmp_path / "empty" / "a.txt").parent, tmp_path / "out")


@pytest.mark.slow
def test_an_operator_is_packed_and_found_again(tmp_path: Path) -> None:
    """For this machine's own Triton and Python, and from another folder than it was compiled in."""
    version = pytest.importorskip("triton").__version__.split("+")[0]
    pack, task = tmp_path / "pack", "cases:channel_moments:fp32"
    python = "{}.{}".format(*sys.version_info)
    command = [sys.executable, "-m", "benchmarks.gpu_pack", "--triton", version, "--python", python, "--no-cuda"]
    command += ["--out", str(pack), "--build", str(tmp_path / "build"), "--tasks", task]
    subprocess.run(command, cwd=ROOT, check=True)
    usable, why = manifest.state(ROOT, pack)
    assert usable, why
    env = os.environ | unpack.activate(pack, tmp_path / "unpacked")
    probe = [sys.executable, "-m", "benchmarks.gpu_pack.probe", "--pack", str(pack), "--fake", "--all"]
    done = subprocess.run(probe, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    hits = int(done.stdout.split(f"{task}: ")[1].split(" hits, 0 misses")[0])
    assert hits >= manifest.read(pack)["kernels"] > 0
    env = env | {"TRITON_CACHE_DIR": str(tmp_path / "empty")}
    done = subprocess.run(probe, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "0 hits" in done.stdout
