"""The command line: what it parses, and how it fails."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from aminet_fast.commands import cli
from aminet_fast.commands.cli import COMMANDS, main
from aminet_fast.commands.options import make_parser
from tests.training.tiny import column, tiny

TINY = [
    "train",
    "--model.width",
    "4",
    "--model.heads",
    "[1,1,1,1]",
    "--model.hourglass_width",
    "4",
    "--data.size",
    "32",
    "--data.drawn",
    "64",
    "--data.limit",
    "4",
    "--data.val_limit",
    "2",
    "--batch_size",
    "2",
    "--workers",
    "0",
    "--device",
    "cpu",
    "--log_every",
    "1",
]


def test_overview_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in COMMANDS)
    assert main([]) == 2
    assert main(["--version"]) == 0


def test_overview_loads_no_torch() -> None:
    script = "import sys; from aminet_fast.commands.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], stdout=subprocess.DEVNULL).returncode == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as status:
        main([name, "--help"])
    assert status.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: aminet {name}" in text
    assert "--print_config" in text


def test_train_from_options_and_again_from_its_own_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, cache = str(tmp_path / "run"), str(tmp_path / "cache")
    assert main([*TINY, "--steps", "2", "--out", out, "--data.cache", cache, "--preset", "aminet-nano"]) == 0
    written = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert written["preset"] == "aminet-nano"
    assert written["model"]["width"] == 4
    assert written["model"]["skaf_kernels"] == [5, 7]
    assert written["data"]["limit"] == 4
    assert main(["train", "--config", f"{out}/config.yaml", "--steps", "3"]) == 0
    assert "going on from step 2" in capsys.readouterr().out
    assert column(out, "step")[-1] == "3"


def test_print_config_is_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--lr", "0.5", "--data.root", "faces", "--val.root", "others", "--print_config"])
    values = yaml.safe_load(capsys.readouterr().out)
    assert values["lr"] == 0.5
    assert values["data"]["root"] == "faces"
    assert values["val"]["root"] == "others"
    assert values["betas"] == [0.9, 0.99]


def test_wrong_requests_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, named in (
        (["trian"], "there is no command 'trian'"),
        ([*TINY, "--preset", "aminet-enormous", "--out", str(tmp_path / "a")], "aminet-enormous"),
        ([*TINY, "--data.root", str(tmp_path / "nowhere"), "--out", str(tmp_path / "b")], "nowhere"),
        (["plot", str(tmp_path / "gone")], "no run at"),
        ([*TINY, "--keep", "0"], "keep is 0; it must be at least 1"),
    ):
        assert status_of(arguments) == 2
        error = capsys.readouterr().err.strip()
        assert named in error
        assert "error:" in error
        assert "Traceback" not in error
    monkeypatch.setenv("AMINET_FAST_DEBUG", "1")
    with pytest.raises(ValueError, match="trian"):
        main(["trian"])


def status_of(arguments: list[str]) -> int:
    """Parsing ends the process, as argparse does; the rest returns."""
    try:
        return main(arguments)
    except SystemExit as error:
        return int(error.code or 0)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["train", "--learning", "1"], "unrecognized arguments: --learning 1"),
        (["train", "--epochs", "much"], "--epochs: Expected a float. Got value: much"),
        (["train", "--val.size", "much"], "--val.size: Expected a int. Got value: much"),
        (["train", "--val.colour", "3"], "unrecognized arguments: --val.colour"),
        (["train", "--steps", "many"], "--steps: Expected int or null. Got value: many"),
        (["train", "--loss", "l3"], "--loss: Expected one of 'l1', 'l2'. Got value: l3"),
        (["train", "--model.width", "1.5"], "model: width is 1.5; it takes int"),
        (["plot"], "the following arguments are required: runs"),
        (["upscale"], "the following arguments are required: inputs"),
        (
            ["restore", "a.jpg", "--background", "grey"],
            "--background: Expected one of 'lanczos', 'bicubic', 'none'. Got",
        ),
    ],
)
def test_what_cannot_be_parsed_is_one_line_without_the_usage(
    arguments: list[str], wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"aminet: error: {wanted}")
    assert error.count("\n") == 1


def test_help_of_restore_says_what_faces_are_not_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["restore", "--help"])
    assert "They are not for identifying people." in " ".join(capsys.readouterr().out.split())


def test_help_speaks_of_options_not_of_types(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        text = capsys.readouterr().out
        assert not [word for word in ("type:", "null)", "Literal", "``", "{})") if word in text]
        assert text.startswith(f"usage: aminet {name} ")
        assert text.index("\n") < 60


def test_positionals_reach_the_dataclass(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("aminet_fast.training.curves.draw_curves", lambda runs, out, smooth: (runs, out, smooth))
    assert main(["plot", "a", "b", "--out", "c.png"]) == 0
    assert capsys.readouterr().out.strip() == str(([Path("a"), Path("b")], Path("c.png"), 1))


def test_a_fault_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(args: list[str]) -> int:
        raise KeyError("a bug")

    monkeypatch.setattr(cli, "_dispatch", broken)
    with pytest.raises(KeyError):
        main(["train"])


def test_interrupt_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(args: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupted)
    assert main(["train"]) == 130


def test_tiny_helper_and_command_agree(tmp_path: Path) -> None:
    """A configuration written by one run is read back to the same one."""
    config = tiny(tmp_path)
    path = tmp_path / "c.yaml"
    path.write_text(config.to_yaml())
    read = cli.parse(COMMANDS["train"], ["--config", str(path)])
    assert read.to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("args", "force"),
    [
        (["a.png"], False),
        (["a.png", "--force"], True),
        (["--force", "a.png"], True),
        (["--force", "false", "a.png"], False),
    ],
)
def test_a_switch_needs_no_value(args: list[str], force: bool) -> None:
    config = cli.parse(COMMANDS["upscale"], args)
    assert (config.inputs, config.force) == (["a.png"], force)


def parse_file(path: Path, content: str | bytes, option: str = "--config") -> dict[str, Any]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return cli.parse(COMMANDS["train"], [option, str(path)]).to_dict()


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("lr: 1\nsteps: 4\nlr: 2\n", "gives lr twice, on line 1 and on line 3"),
        ("data:\n  root: a\nsteps: 3\ndata:\n  size: 64\n", "gives data twice, on line 1 and on line 4"),
        ("data:\n  root: a\n  root: b\n", "gives data.root twice, on line 2 and on line 3"),
        ("data.root: a\ndata:\n  root: b\n", "gives data.root twice, on line 1 and on line 3"),
        ("data:\n\troot: x\n", r"is no YAML \(line 2: .*; indent by spaces, not by tabs\)"),
        ("lr: [1\nsteps: 2\n", r"is no YAML \(line 2: "),
        ("- lr\n", "holds no mapping of options but a list"),
        ("lr: 1\nsteps: 2\n".encode("utf-16-le"), r"is no YAML \(line 1: .*'\\x00'; save it as UTF-8"),
        ("lr: 1\nout: a\0b\n", r"is no YAML \(line 2: it has the character '\\x00'"),
        (b"steps: 2\nout: caf\xe9\n", r"is no UTF-8 text \(line 2: .*\); save it as UTF-8"),
    ],
)
def test_a_file_of_options_is_read_strictly(tmp_path: Path, content: str | bytes, wanted: str) -> None:
    with pytest.raises(ValueError, match=rf"c\.yaml {wanted}"):
        parse_file(tmp_path / "c.yaml", content)
    with pytest.raises(ValueError, match="is a folder"):
        cli.parse(COMMANDS["train"], [f"--conf={tmp_path}"])
    with pytest.raises(ValueError, match="gives root twice, on line 1 and on line 2"):
        parse_file(tmp_path / "d.yaml", "root: a\nroot: b\n", "--data")
    with pytest.raises(ValueError, match="gives lr twice, on line 2 and on line 3"):
        parse_file(tmp_path / "c.json", '{\n\t"lr": 1,\n\t"lr": 2}')


def test_files_that_say_the_same_in_other_ways(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    for empty in ("", "# lr: 2\n", "---\n"):
        assert parse_file(path, empty)["lr"] == 2e-4
    text = "---\nlr: 1e-4\nsteps: 7\n"
    for content in (text, b"\xef\xbb\xbf" + text.encode(), text.encode("utf-16"), text.replace("\n", "\r\n")):
        values = parse_file(path, content)
        assert (values["lr"], values["steps"]) == (1e-4, 7)
    assert parse_file(tmp_path / "c.json", '{\n\t"lr": 1e-4}')["lr"] == 1e-4
    merged = parse_file(path, "data: &faces\n  size: 64\n  scale: 4\nval:\n  <<: *faces\n  limit: 3\n")
    assert (merged["val"]["size"], merged["val"]["scale"], merged["val"]["limit"]) == (64, 4, 3)
    assert parse_file(tmp_path / "c.json", '{"out": "\N{GRINNING FACE}", "lr": 1e-4}')["out"].endswith(
        "/\N{GRINNING FACE}"
    )


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"c": "data: {0}/d.yaml", "d": "scale: 4\nscale: 2"}, r"d\.yaml gives scale twice, on line 1 and on line 2"),
        ({"c": "val: {0}/d.yaml", "d": "scale: 4\nscale: 2"}, r"d\.yaml gives scale twice"),
        ({"c": "config: {0}/d.yaml", "d": "lr: 1\nlr: 2"}, r"d\.yaml gives lr twice, on line 1 and on line 2"),
        ({"c": "config: {0}/d.yaml", "d": "data: e.yaml", "e": "root: a\nroot: b"}, r"e\.yaml gives root twice"),
        ({"c": "data: {0}/d.yaml", "d": "root: a".encode("utf-16")}, r"d\.yaml, which .*c\.yaml names, .* UTF-8"),
        ({"c": "config: {0}/c.yaml"}, r"c\.yaml leads back to itself by config"),
    ],
)
def test_files_that_a_file_of_options_names(tmp_path: Path, files: dict[str, Any], wanted: str) -> None:
    for name, content in files.items():
        text = content if isinstance(content, bytes) else content.replace("{0}", str(tmp_path)).encode()
        (tmp_path / f"{name}.yaml").write_bytes(text)
    with pytest.raises(ValueError, match=wanted) as caught:
        cli.parse(COMMANDS["train"], ["--config", str(tmp_path / "c.yaml")])
    assert "\n" not in str(caught.value)


def test_files_named_in_files_keep_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there/d.yaml").write_text("scale: 4\n")
    monkeypatch.chdir(tmp_path)
    assert parse_file(tmp_path / "there/c.yaml", "data: there/d.yaml\n")["data"]["scale"] == 4


@pytest.mark.parametrize(
    ("argument", "wanted"),
    [
        ("--data={root: few, root: x}", "--data gives root twice"),
        ("--val={limit: 3, limit: 4}", "--val gives limit twice"),
        ("--config={batch_size: 2, batch_size: 3}", "--config gives batch_size twice"),
        ("--model={width: 8, width: 12}", "--model gives width twice"),
        ("--data=nosuch.yaml", r"^--data: there is no file 'nosuch\.yaml', and it is no {OPTION: VALUE} \("),
    ],
)
def test_options_written_out_are_read_strictly(argument: str, wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        cli.parse(COMMANDS["train"], [argument])
    parser = make_parser("some", "", "Some.")
    parser.add_argument("--mapping", type=dict)
    assert parser.parse_args(["--mapping={a: 1, b: 2}"]).mapping == {"a": 1, "b": 2}
    with pytest.raises(argparse.ArgumentError):  # by jsonargparse itself
        parser.parse_args(["--mapping={a: 1, a: 2}"])
    assert cli.parse(COMMANDS["train"], ["--out={a: 1, a: 2}"]).out == "{a: 1, a: 2}"  # a folder's name


def test_what_stands_beside_a_file_changes_it_in_any_order(tmp_path: Path) -> None:
    config, data = tmp_path / "c.yaml", tmp_path / "d.yaml"
    config.write_text("batch_size: 2\nlr: 0.5\n")
    data.write_text("scale: 4\nsize: 64\n")
    files, beside = [f"--config={config}", "--data", str(data)], ["--batch_size", "9", "--data.scale", "2"]
    for args in (files + beside, beside + files, [*beside[:2], *files, *beside[2:]]):
        values = cli.parse(COMMANDS["train"], args)
        assert (values.batch_size, values.lr, values.data.scale, values.data.size) == (9, 0.5, 2, 64), args
    data.write_text("force: true\n")
    upscale = cli.parse(COMMANDS["upscale"], ["--config", str(data), "--", "--config"])
    assert (upscale.inputs, upscale.force) == (["--config"], True)


def test_an_option_with_nothing_behind_it_has_its_default(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    for empty in ("data:\n", "data: null\nlr: 2e-4\n", "data:\n  scale:\n", "val:\n", "batch_size:\n", "lr:\ndata:\n"):
        read = parse_file(path, empty)
        assert (read["data"]["scale"], read["val"], read["batch_size"], read["lr"]) == (8, None, 32, 2e-4), empty
    with pytest.raises(ValueError, match=r"^data is 3; wanted the name of a file"):
        parse_file(path, "data: 3\n")
