"""`aminet train --preset amigan`: its options, its run folder, and that a stopped run goes on to the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from aminet_fast import get_config, load_model
from aminet_fast.commands import cli
from aminet_fast.training import TrainConfig, train
from aminet_fast.training.config import differences
from aminet_fast.training.objective import AdversarialObjective
from aminet_fast.training.runs.logs import read_metrics
from aminet_fast.training.trainer import DivergedError, Trainer
from tests.adversarial.vgg19_weights import write_weights
from tests.training.gan_inputs import PARTS, gan
from tests.training.test_resume import run_in_parts, whole_run
from tests.training.tiny import checkpoint, column, tiny, unequal


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_weights(tmp_path_factory.mktemp("vgg") / "vgg.pth", last=5))


def parse(*arguments: str) -> TrainConfig:
    config = cli.parse(cli.COMMANDS["train"], list(arguments))
    assert isinstance(config, TrainConfig)
    return config


def test_the_preset_is_the_papers_recipe() -> None:
    config = parse("--preset", "amigan")
    assert config.network() == get_config("aminet")
    assert config.gan is not None
    assert (config.lr, config.gan.lr, config.betas) == (1e-4, 4e-4, (0.9, 0.99))
    assert (config.gan.loss, config.gan.pixel, config.gan.perceptual, config.gan.adversarial) == ("log", 1, 0.01, 0.01)
    assert str(config.folder()) == "runs/amigan"
    assert parse().gan is None
    assert parse().lr == 2e-4


def test_options_change_the_recipe() -> None:
    config = parse("--preset", "amigan-nano", "--lr", "3e-4", "--gan.loss", "hinge", "--gan.layers", "[conv5_4]")
    assert config.network() == get_config("aminet-nano")
    assert (config.lr, config.gan.lr, config.gan.loss, config.gan.layers) == (3e-4, 4e-4, "hinge", ("conv5_4",))
    narrow = parse("--preset", "aminet-small", "--gan.scales", "1")
    assert (narrow.lr, narrow.gan.scales) == (1e-4, 1)


def test_it_is_read_back_from_yaml(tmp_path: Path) -> None:
    written = parse("--preset", "amigan", "--gan.vgg", "vgg.pth", "--start_from", "runs/aminet")
    (tmp_path / "c.yaml").write_text(written.to_yaml())
    read = parse("--config", str(tmp_path / "c.yaml"))
    assert read.to_dict() == written.to_dict()
    assert read.to_dict()["gan"]["vgg"] == str(Path("vgg.pth").absolute())
    assert read.to_dict()["start_from"] == str(Path("runs/aminet").absolute())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--preset", "amigan-huge"], "no preset is called 'amigan-huge'; there are aminet, .*amigan, amigan-small"),
        (["--preset", "amigan", "--data.size", "32"], "gan.scales is 2; that needs faces of 48 pixels"),
        (["--preset", "amigan", "--cuda_graph"], "cuda_graph captures the step of one network, and gan has two"),
        (["--gan.adversarial", "-1"], "gan.adversarial is -1.0; it must be at least 0"),
        (["--gan.lr", "0"], "gan.lr is 0.0; it must be above 0"),
        (["--gan.scales", "0"], "gan.scales is 0; it must be at least 1"),
        (["--gan.layers", "[relu9_1]"], r"gan.layers is \['relu9_1'\]; it takes names of VGG19's layers"),
        (["--gan.loss", "wgan"], "--gan.loss: Expected one of 'log', 'hinge'. Got value: wgan"),
    ],
)
def test_wrong_options_are_named(arguments: list[str], named: str) -> None:
    with pytest.raises(ValueError, match=named) as caught:
        parse(*arguments).network()
    assert "\n" not in str(caught.value)


def test_differences_name_the_option_and_let_the_file_move(vgg: str, tmp_path: Path) -> None:
    old = tiny(tmp_path, gan=gan(vgg)).to_dict()
    assert differences(old, tiny(tmp_path, gan=gan("/elsewhere/vgg.pth")).to_dict()) == {}
    changed = tiny(tmp_path, gan=gan(vgg, loss="hinge", layers=("relu1_1",))).to_dict()
    assert differences(old, changed) == {
        "gan.loss": ("log", "hinge"),
        "gan.layers": (["relu1_1", "relu2_1"], ["relu1_1"]),
    }
    assert differences(tiny(tmp_path).to_dict(), old)["gan.loss"] == (None, "log")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, vgg: str) -> Path:
    """A folder with a run of two steps in it, which no test changes."""
    folder = tmp_path_factory.mktemp("finished")
    assert train(tiny(folder, gan=gan(vgg), steps=2, val_every=1)) == 0
    return folder


def test_rows_have_the_parts_of_the_loss(finished: Path, tmp_path: Path) -> None:
    for row in read_metrics(finished / "run/metrics.csv"):
        total, pixel, perceptual, adversarial, discriminator = (float(row[name]) for name in ("loss", *PARTS))
        assert total == pytest.approx(pixel + 0.01 * perceptual + 0.01 * adversarial, rel=1e-5)
        assert discriminator == pytest.approx(2 * 0.693, abs=0.3)  # as good as guessing: -log(1/2) twice
    train(tiny(tmp_path, steps=1))
    assert [column(tmp_path / "run", name) for name in PARTS] == [[""]] * 4


def test_its_weights_are_the_last_ones_and_none_are_called_best(finished: Path) -> None:
    assert column(finished / "run", "val_psnr") != ["", ""]
    assert not (finished / "run/best").exists()
    state = checkpoint(finished / "run", 2)
    assert unequal(dict(load_model(finished / "run").state_dict()), dict(state["model"])) == []
    assert "adversarial" not in " ".join(state["model"])
    text = (finished / "run/log.txt").read_text()
    judge = state["gan"]["discriminator"]
    assert f"discriminator {sum(v.numel() for k, v in judge.items() if k[-2:] not in ('_u', '_v')):,}," in text


RECIPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "log": ({}, {"ema": 0.9, "schedule": "cosine", "val_every": 2}),
    "hinge": ({"loss": "hinge"}, {"accumulate": 2, "grad_clip": 0.1, "precision": "bf16"}),
}


def compare(whole: str, parts: str) -> list[str]:
    names = ("step", "model", "optimizer", "gan", "scaler", "ema", "rng", "loss_sum", "part_sums", "loss_count", "best")
    a, b = ({name: state[name] for name in names} for state in (checkpoint(run, 4) for run in (whole, parts)))
    rows = ({name: column(run, name) for name in ("step", "loss", "lr", "val_psnr", *PARTS)} for run in (whole, parts))
    return unequal(a, b) + unequal(*rows)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, vgg: str) -> str:
    options, recipe = RECIPES["log"]
    return whole_run(tmp_path_factory.mktemp("whole"), {"gan": gan(vgg, **options), **recipe})


@pytest.mark.parametrize("name", RECIPES)
def test_resumed_run_is_bitwise_the_uninterrupted_one(
    tmp_path: Path, vgg: str, name: str, request: pytest.FixtureRequest
) -> None:
    options, recipe = RECIPES[name]
    recipe = {"gan": gan(vgg, **options), **recipe}
    whole = request.getfixturevalue("uninterrupted") if name == "log" else whole_run(tmp_path, recipe)
    parts = run_in_parts(tmp_path, recipe)
    assert compare(whole, parts) == []
    held = checkpoint(parts, 4)
    assert held["gan"]["optimizer"]["state"][0]["step"] == 4
    assert any(key.endswith("_u") for key in held["gan"]["discriminator"])
    assert held["part_sums"] != [0.0] * 4  # the rows cross the end


@pytest.mark.parametrize(
    ("forgotten", "found"),
    [
        ("optimizer", ".gan.optimizer"),
        pytest.param("discriminator", ".gan.discriminator", marks=pytest.mark.slow),
        pytest.param("sums", ".pixel", marks=pytest.mark.slow),
    ],
)
def test_the_comparison_notices_what_is_not_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vgg: str, uninterrupted: str, forgotten: str, found: str
) -> None:
    restore = AdversarialObjective.restore

    def forgetful(self: AdversarialObjective, state: dict[str, Any]) -> None:
        restore(self, {**state, forgotten: self.state()[forgotten]} if forgotten != "sums" else state)

    monkeypatch.setattr(AdversarialObjective, "restore", forgetful)
    if forgotten == "sums":
        read = torch.load
        monkeypatch.setattr(torch, "load", lambda *a, **k: {**read(*a, **k), "part_sums": [0.0] * 4})
    options, recipe = RECIPES["log"]
    parts = run_in_parts(tmp_path, {"gan": gan(vgg, **options), **recipe})
    monkeypatch.undo()
    assert any(path.startswith(found) for path in compare(uninterrupted, parts))


def test_float16_steps_both_by_one_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vgg: str) -> None:
    """The scale doubles after each step: a discriminator that met the doubled one would run away from float32's."""
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device: scaler(device, init_scale=256.0, growth_interval=1))
    for precision in ("fp32", "fp16"):
        (tmp_path / precision).mkdir()
        train(tiny(tmp_path / precision, gan=gan(vgg), precision=precision, grad_clip=0.05, init="normal"))
    a, b = (checkpoint(tmp_path / precision / "run", 4) for precision in ("fp32", "fp16"))
    assert b["scaler"]["scale"] == 256.0 * 2**4
    for name in ("loss", *PARTS):
        values = [[float(v) for v in column(tmp_path / p / "run", name)] for p in ("fp32", "fp16")]
        assert values[1] == pytest.approx(values[0], rel=1e-2), name
    moments = [[s["exp_avg"] for s in state["gan"]["optimizer"]["state"].values()] for state in (a, b)]
    for exact, half in zip(*moments, strict=True):
        assert half.norm().item() == pytest.approx(exact.norm().item(), rel=0.1)
    train(tiny(tmp_path / "fp16", gan=gan(vgg), precision="fp16", grad_clip=0.05, init="normal", steps=5))
    assert checkpoint(tmp_path / "fp16/run", 5)["scaler"]["scale"] == 256.0 * 2**5


def test_another_recipe_is_refused_by_name(finished: Path, vgg: str, tmp_path: Path) -> None:
    for changes, named in (
        ({"gan": gan(vgg, loss="hinge")}, "gan.loss: 'log' -> 'hinge'"),
        ({"gan": gan(vgg, lr=1e-3)}, r"gan.lr: 0.0004 -> 0.001"),
        ({}, "gan.loss: 'log' -> None"),
        ({"gan": gan(vgg), "start_from": "x"}, "start_from: None -> "),
    ):
        with pytest.raises(ValueError, match=named) as caught:
            train(tiny(finished, steps=3, **changes))
        assert "--out" in str(caught.value)
    other = gan(str(write_weights(tmp_path / "other.pth", last=5, seed=1)))
    with pytest.raises(ValueError, match="the weights of VGG19 are not those this run has learned from"):
        train(tiny(finished, steps=3, gan=other))


def test_missing_weights_of_vgg19_are_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no weights of VGG19 at .*--gan\.vgg FILE"):
        train(tiny(tmp_path, gan=gan(str(tmp_path / "gone.pth"))))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("poison", "named"), [("nan", "the loss is"), ("inf", "the network is")])
def test_a_discriminator_that_diverges_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vgg: str, poison: str, named: str
) -> None:
    """Before the step its losses tell of it; after it, as by a gradient that overflowed, nothing but its weights."""
    step = Trainer._step

    def poisoned(self: Trainer, *arguments: Any) -> Any:
        objective = self.session.objective
        assert isinstance(objective, AdversarialObjective)
        bias = objective.net.get_parameter("scales.0.0.bias").data
        if poison == "nan" and self.session.step == 1:
            bias.fill_(float("nan"))
        result = step(self, *arguments)
        if poison == "inf" and self.session.step == 2:
            bias.fill_(float("inf"))
        return result

    monkeypatch.setattr(Trainer, "_step", poisoned)
    with pytest.raises(DivergedError, match=f"{named} not finite after step 2"):
        train(tiny(tmp_path, gan=gan(vgg), checkpoint_every=1))
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["step-00000001.pt"]
