"""What a run's weights expect: written from the data settings, used, and refused where settings contradict it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from aminet_fast import AMINet, AMINetConfig, Expects, load_model
from aminet_fast.commands.cli import main
from aminet_fast.network.checkpoint import FORMAT, VERSION, CheckpointError
from aminet_fast.training import train
from tests.restoration.inputs import noise
from tests.training.tiny import MODEL, checkpoint, tiny

X4 = {"scale": 4}
NARROW = {**MODEL, "skaf": "edff"}
NANO = AMINetConfig.from_dict(MODEL)


@pytest.fixture(scope="module")
def by_four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of x4 weights that nobody changes."""
    folder = tmp_path_factory.mktemp("by_four")
    train(tiny(folder, data=X4, steps=1, val_every=1, model=NARROW))
    return folder / "run"


def test_a_run_writes_its_scale_wherever_weights_lie(by_four: Path) -> None:
    assert checkpoint(by_four, 1)["expects"] == Expects(scale=4).to_dict()
    for name in ("best", "last"):
        assert json.loads((by_four / name / "config.json").read_text())["expects"]["scale"] == 4
    for path in (by_four, by_four / "last", by_four / "checkpoints/step-00000001.pt"):
        assert load_model(path).expects == Expects(scale=4)


def test_upscale_enlarges_as_often(by_four: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    noise(6, 4, "RGBA").save(tmp_path / "in/a.png")
    noise(70, 66).save(tmp_path / "in/b.png")
    arguments = ["--weights", str(by_four), "--out", str(tmp_path / "out"), "--panel", str(tmp_path / "panel.png")]
    assert main(["upscale", str(tmp_path / "in"), *arguments]) == 0
    with Image.open(tmp_path / "out/a.png") as small, Image.open(tmp_path / "out/b.png") as large:
        assert (small.size, small.mode, large.size) == ((24, 16), "RGBA", (280, 264))
    assert "faces of about 32 pixels" in capsys.readouterr().out


def test_evaluate_refuses_and_says_what_to_type(
    by_four: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = str(tmp_path.parent / "faces")
    faces = ["--data.size", "32", "--data.drawn", "64", "--data.limit", "2", "--data.cache", cache]
    arguments = ["evaluate", "--weights", str(by_four), *faces]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.endswith("these weights enlarge 4 times and the data settings say 8: pass --data.scale 4\n")
    assert main([*arguments, "--data.scale", "4"]) == 0


def test_start_from_refuses_another_scale_and_keeps_the_terms(by_four: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"enlarge 4 times and the data settings say 8: pass --data\.scale 4"):
        train(tiny(tmp_path, start_from=str(by_four), model=NARROW))
    given = load_model(by_four)
    given.expects = Expects(scale=4, licence="CC BY 4.0", template={"eye_distance": 0.3, "eye_height": 0.4})  # type: ignore[arg-type]
    given.save_pretrained(tmp_path / "given")
    for steps in (1, 2):  # the second goes on from the first's checkpoint
        train(tiny(tmp_path, start_from=str(tmp_path / "given"), data=X4, steps=steps, model=NARROW))
        # how these faces lie in their pictures is not known
        assert load_model(tmp_path / "run").expects == Expects(scale=4, licence="CC BY 4.0")
    AMINet(given.config, expects=Expects(scale=4, input="lr")).save_pretrained(tmp_path / "lr")
    with pytest.raises(ValueError, match="expect input 'lr'"):
        train(tiny(tmp_path, out=str(tmp_path / "new"), start_from=str(tmp_path / "lr"), data=X4, model=NARROW))
    assert not (tmp_path / "new").exists()


def test_a_run_goes_on_at_its_own_scale(tmp_path: Path) -> None:
    train(tiny(tmp_path, data=X4, steps=1))
    named = str(tmp_path / "run/checkpoints/step-00000001.pt")
    for options in ({}, {"resume": named}, {"resume": named, "out": str(tmp_path / "new")}):
        with pytest.raises(
            ValueError, match=r"network enlarges 4 times and the data settings say 8: pass --data\.scale 4"
        ):
            train(tiny(tmp_path, steps=2, **options))
    assert train(tiny(tmp_path, data=X4, steps=2)) == 0


def test_a_given_configuration_comes_before_the_checkpoints(tmp_path: Path) -> None:
    train(tiny(tmp_path, steps=1))
    path = tmp_path / "run/checkpoints/step-00000001.pt"
    config = load_model(path).config
    with pytest.raises(RuntimeError, match="of another shape"):
        AMINet.from_pretrained(path, config=config.replace(width=2 * config.width))


def test_runs_from_before_say_it_by_their_recipe(tmp_path: Path) -> None:
    train(tiny(tmp_path, data=X4, steps=1))
    path = tmp_path / "run/checkpoints/step-00000001.pt"
    state = torch.load(path, weights_only=True)
    del state["expects"]
    torch.save(state, path)
    last = tmp_path / "run/last"
    save_file(load_file(last / "model.safetensors"), last / "model.safetensors")
    (last / "config.json").write_text(load_model(path).config.to_json())
    for weights in (path, tmp_path / "run", last):
        assert load_model(weights).expects == Expects(scale=4)
    train(tiny(tmp_path, data=X4, steps=2))
    assert checkpoint(tmp_path / "run", 2)["expects"] == Expects(scale=4).to_dict()


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (b"data: {scale: 4\n", r"config\.yaml is no YAML \(line 2: [^\n]*"),
        (b"\xff\xff", r"config\.yaml is no UTF-8 text \([^\n]*"),
        (b"", r"config\.yaml is empty"),
    ],
)
def test_an_old_run_whose_recipe_is_damaged_is_not_taken_as_x8(tmp_path: Path, recipe: bytes, said: str) -> None:
    run = tmp_path / "run"
    AMINet(NANO).save_pretrained(run / "best")
    file = run / "best/model.safetensors"
    save_file(load_file(file), file)
    (run / "best/config.json").write_text(NANO.to_json())
    (run / "config.yaml").write_bytes(recipe)
    (run / "checkpoints").mkdir()
    (run / "checkpoints/step-00000001.pt").write_bytes(b"cut short")
    told = r"does not say how many times it enlarges, and its run's recipe cannot be read \([^\n]*"
    for weights in (run, file):
        with pytest.raises(ValueError, match=rf"{told}{said}\); mend config\.yaml, or move it away .* 8 times$"):
            load_model(weights)
    kind = {"format": FORMAT, "version": VERSION}
    state = {"model_config": NANO.to_dict(), "model": {}, "config": {"data": {"scale": 4}}}
    torch.save(kind | state, run / "checkpoints/step-00000000.pt")  # the one before it can be read
    assert load_model(run).expects == Expects(scale=4)
    shutil.rmtree(run / "checkpoints")
    (run / "config.yaml").rename(run / "away")
    assert load_model(run).expects == Expects()


def test_a_run_of_a_later_version_is_not_gone_on_with(tmp_path: Path) -> None:
    train(tiny(tmp_path, steps=1))
    path = tmp_path / "run/checkpoints/step-00000001.pt"
    state = torch.load(path, weights_only=True)
    state["expects"]["blur"] = 2.0
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"no field blur in this version.*upgrade aminet_fast"):
        train(tiny(tmp_path, steps=2))


def test_weights_alone_are_no_run_to_go_on_with(by_four: Path, tmp_path: Path) -> None:
    torch.save({"params": load_model(by_four).state_dict()}, tmp_path / "net.pth")
    with pytest.raises(CheckpointError, match=r"it holds weights alone: begin a new run with them by --start_from"):
        train(tiny(tmp_path, resume=str(tmp_path / "net.pth")))
    assert train(tiny(tmp_path, start_from=str(tmp_path / "net.pth"), steps=1, model=NARROW)) == 0
