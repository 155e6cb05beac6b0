"""Which file of weights a name or a path means; decided here, on this machine, before any connection is opened."""

from __future__ import annotations

import difflib
import os
import re
from contextlib import suppress
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from ..pretrained import CONFIG, WEIGHTS, list_pretrained, shipped

_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_FILES = {".safetensors", ".pt", ".pth", ".ckpt", ".bin"}
_RUNS = "runs"  # where `aminet train` writes, whether or not a run was made here


def is_repository(name: str | os.PathLike[str]) -> bool:
    """Whether a name can only be a repository of the Hugging Face Hub: text "owner/name", and nothing of that owner's
    name is a folder here.
    """
    if not isinstance(name, str) or not _REPOSITORY.fullmatch(name) or Path(name).exists():
        return False
    owner = name.split("/")[0]
    return owner != _RUNS and not Path(owner).exists() and Path(name).suffix not in _FILES


def find_weights(name: str | os.PathLike[str]) -> Path:
    """The file that `load_model` reads.

    Args:
        name: A name of `list_pretrained()`, as text; a folder of weights; a run folder, of which ``best/`` counts, else
            ``last/``; or a file.

    Raises FileNotFoundError, saying what was looked for.
    """
    path = Path(shipped(name) or Path(name).expanduser())
    if path.is_file():
        return path
    if not path.is_dir():
        raise FileNotFoundError(_nothing(name, path))
    for folder in (path, path / "best", path / "last"):
        if (folder / WEIGHTS).is_file():
            return folder / WEIGHTS
    raise FileNotFoundError(
        f"{path} holds no weights: looked for {WEIGHTS} in it, in best/ and in last/ beneath it{_instead(path)}"
    )


def download(repository: str, **options: str | os.PathLike[str] | bool | None) -> Path:
    """The weights file of a repository of the Hugging Face Hub, its config.json beside it where it has one.

    Args:
        repository: "owner/name".
        options: Those of `huggingface_hub.hf_hub_download`.

    Raises FileNotFoundError, in one line, when the Hub does not give it.
    """
    try:
        file = Path(hf_hub_download(repository, WEIGHTS, **options))  # type: ignore[arg-type]
    except (OSError, EntryNotFoundError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise FileNotFoundError(
            f"there is no folder {repository} here, and the Hugging Face Hub gave no {WEIGHTS} of a repository of that"
            f" name ({reason}); for weights of yours give the path where they lie"
        ) from error
    with suppress(EntryNotFoundError):  # the weights file may say it itself
        hf_hub_download(repository, CONFIG, **options)  # type: ignore[arg-type]
    return file


def _nothing(name: str | os.PathLike[str], path: Path) -> str:
    ours = list_pretrained()
    if str(path) in ours and (not isinstance(name, str) or name not in ours):  # a Path, or "./default"
        return f'there is no folder {path} here; the weights of the package are called by text: "{path}"'
    meant = difflib.get_close_matches(str(name), ours, n=1)
    guess = f" (did you mean {meant[0]}?)" if meant else ""
    hub = f'; a repository of the Hugging Face Hub: AMINet.from_pretrained("{name}")' if is_repository(name) else ""
    kinds = ", ".join([*ours, "a run folder"])
    return f"there is no {path}{guess}; weights are {kinds}, a .safetensors or a .pt file{hub}"


def _instead(folder: Path) -> str:
    """What in a folder without weights under their name could be meant."""
    if (folder / f"{WEIGHTS}.index.json").is_file():
        return (
            "; they are cut into several files there: load each with safetensors.torch.load_file, put all keys into one"
            " dict, and AMINet(config).load_state_dict it"
        )
    files = sorted(path.name for path in folder.iterdir() if path.suffix in _FILES)
    if files:
        return f"; name a file of it: {', '.join(files[:5])}{' ...' if len(files) > 5 else ''}"
    if steps := sorted((folder / "checkpoints").glob("step-*.pt")):
        return f"; its newest checkpoint is {steps[-1]}"
    return ""
