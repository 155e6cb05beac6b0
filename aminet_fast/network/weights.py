"""Reading files of weights: the network's configuration, what its weights expect, and its tensors."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..pretrained import CONFIG, METADATA
from ..reference.config import AMINetConfig
from ..reference.options_file import read_options
from .checkpoint import CheckpointError, check_checkpoint, is_checkpoint, read_archive
from .expects import Expects
from .shapes import UntoldError, config_of
from .state_dicts import abridged, networks_in, strip_wrappers

CHECKPOINT = ("model_config", "model", "ema")  # what of a training checkpoint makes a network


class Weights(NamedTuple):
    """What a file of weights says."""

    config: AMINetConfig
    expects: Expects
    state: dict[str, Tensor]


class Description(NamedTuple):
    """What config.json or a weights file's header says; None: it does not."""

    config: AMINetConfig
    expects: Expects | None


def read_weights(file: Path, config: AMINetConfig | None = None) -> Weights:
    """Read a .safetensors file, a training checkpoint, or another program's file of an AMINet's state dict.

    Args:
        file: It exists; whatever it holds, nothing in it is executed.
        config: The network's; None: as the file says, or config.json beside it, or else the tensors' shapes.

    Raises:
        FileNotFoundError: nothing says what network it is.
        ValueError: damaged, something else, or config.json contradicts the file.
    """
    if file.suffix == ".safetensors" or _looks_like_safetensors(file):
        return _complete(file, _plain(file, read_safetensors(file)), _header(file), config)
    held = read_archive(file)
    if is_checkpoint(held):
        said = _of_checkpoint(file, check_checkpoint(file, held, CHECKPOINT))
        return said if config is None else said._replace(config=config)
    return _complete(file, _network(file, held), None, config)


def read_safetensors(file: str | Path) -> dict[str, Tensor]:
    """All tensors of a .safetensors file; raises ValueError when it is cut short or not one, FileNotFoundError."""
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is no readable safetensors file ({error}); copy or download it again") from error


def _network(file: Path, held: object) -> dict[str, Tensor]:
    """The tensors of the one AMINet in what a file held; raises CheckpointError when there is none, or several."""
    found = networks_in(held)
    if not found:
        raise CheckpointError(f"{file} holds no AMINet: {_told(held)}")
    (rank, where, state), *others = found
    if others and others[0][0] == rank:
        raise CheckpointError(
            f"{file} holds several AMINets ({where} and {others[0][1]}): choose one, take its prefix off, and"
            " AMINet(config).load_state_dict it"
        )
    return state


def _plain(file: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without a prefix, if all of it has one; of whatever else it is, the network itself says what does not fit."""
    return _network(file, state) if networks_in(state) else state


def _complete(file: Path, state: dict[str, Tensor], own: Description | None, config: AMINetConfig | None) -> Weights:
    """The weights with what is said of them: by the file itself, by config.json beside it, by their shapes."""
    beside = _beside(file) if config is None or own is None else None
    if config is None and own is not None and beside is not None:
        _refuse_contradiction(file, own, beside)
    said = [d.expects for d in (own, beside) if d is not None and d.expects is not None]
    expects = said[0] if said else _of_run(file)
    config = config or next((d.config for d in (own, beside) if d is not None), None)
    return Weights(config or _by_shapes(file, state), expects, state)


def _by_shapes(file: Path, state: dict[str, Tensor]) -> AMINetConfig:
    try:
        return config_of(state)
    except UntoldError as error:
        raise FileNotFoundError(
            f"{file} has no {CONFIG} beside it, which says what network it is, and {error}; write it there"
            f" (AMINetConfig(...).to_json()), or load the tensors into AMINet(config) by load_state_dict"
        ) from error


def _header(file: Path) -> Description | None:
    """What the file says of itself; None for those written before files did."""
    with safe_open(file, framework="pt") as opened:
        text = (opened.metadata() or {}).get(METADATA)
    return None if text is None else _description(file, text)


def _beside(file: Path) -> Description | None:
    path = file.with_name(CONFIG)
    return _parsed(path, read_options(path)) if path.is_file() else None


def _description(file: Path, text: str) -> Description:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error})") from error
    return _parsed(file, values)


def _parsed(file: Path, values: object) -> Description:
    """The configuration that came with weights; raises ValueError naming the file when it is none."""
    try:
        if not isinstance(values, dict):
            raise TypeError("no mapping of its fields")
        fields = dict(values)
        expects = Expects.from_dict(fields.pop("expects")) if "expects" in fields else None
        return Description(AMINetConfig.from_dict(fields), expects)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file} holds no configuration of an AMINet ({error})") from error


def _refuse_contradiction(file: Path, own: Description, beside: Description) -> None:
    ours, theirs = own.config.to_dict(), beside.config.to_dict()
    if own.expects is not None and beside.expects is not None:
        ours, theirs = {**ours, **own.expects.to_dict()}, {**theirs, **beside.expects.to_dict()}
    if other := [f"{name}: {theirs[name]!r} and {ours[name]!r}" for name in ours if ours[name] != theirs[name]]:
        raise ValueError(
            f"{file.with_name(CONFIG)} and {file.name} itself contradict each other ({', '.join(other)}); put the"
            f" {CONFIG} there that was saved with it, or remove it"
        )


def _of_checkpoint(file: Path, state: dict[str, Any]) -> Weights:
    values = state["model_config"]
    if "expects" in state:
        values = {**values, "expects": state["expects"]}
    said = _parsed(file, values)
    expects = said.expects or _of_recipe(state.get("config"))
    return Weights(said.config, expects, strip_wrappers(state.get("ema") or state["model"]))


def _of_run(file: Path) -> Expects:
    """What the weights of a run expect that was made before weights said it: its recipe knows the scale.

    Its checkpoints do, too. Raises ValueError where config.yaml cannot be read, and none of them.
    """
    folder = file.absolute().parent
    recipe = folder.parent / "config.yaml"
    if folder.name not in ("best", "last") or not recipe.is_file():
        return Expects()
    try:
        values = read_options(recipe)
        if not values:
            raise ValueError(f"{recipe} is empty")
    except (ValueError, OSError) as error:
        if (expects := _of_checkpoints(recipe.parent)) is not None:
            return expects
        raise ValueError(
            f"{file} does not say how many times it enlarges, and its run's recipe cannot be read ({error}); mend"
            f" {recipe.name}, or move it away where the weights enlarge 8 times"
        ) from error
    return _of_recipe(values)


def _of_checkpoints(run: Path) -> Expects | None:
    """What the newest checkpoint of a run says that can be read; None where there is none."""
    for file in sorted(run.glob("checkpoints/step-*.pt"), reverse=True):
        with suppress(ValueError, OSError):
            held = read_archive(file)
            if is_checkpoint(held):
                return _of_checkpoint(file, check_checkpoint(file, held, CHECKPOINT)).expects
    return None


def _of_recipe(values: object) -> Expects:
    data = values.get("data") if isinstance(values, dict) else None
    scale = data.get("scale") if isinstance(data, dict) else None
    return Expects(scale=scale) if type(scale) is int and scale >= 1 else Expects()


def _looks_like_safetensors(file: Path) -> bool:
    """Whether a file of another name is one: the length of a header, and the header's brace."""
    with file.open("rb") as opened:
        start = opened.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") <= file.stat().st_size


def _told(held: object) -> str:
    """What a file holds in place of an AMINet, in a few words."""
    if not isinstance(held, dict):
        return f"it holds a {type(held).__name__}"
    if not held:
        return "it holds an empty mapping"
    names = abridged([f"{key}" for key in held])
    return f"its keys are {', '.join(names)}"
