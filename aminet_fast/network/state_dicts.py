"""State dicts as others leave them: wrapped, prefixed, nested in a file; and what is said of one that does not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

# Put into keys by DataParallel, DDP and AveragedModel, by torch.compile, by checkpointing and by FSDP.
WRAPPERS = {"module", "_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
AVERAGED = "n_averaged"  # AveragedModel's own counter
# Under which names files of other programs hold a state dict; averaged weights come first, as in our own checkpoints.
CONTAINERS = ("params_ema", "ema", "model_ema", "ema_state_dict", "params", "state_dict", "model_state_dict", "model")
_FEW, _EXAMPLES = 8, 3


def strip_wrappers(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The same tensors under the plain module's keys."""
    state = {".".join(part for part in k.split(".") if part not in WRAPPERS): v for k, v in state_dict.items()}
    if len(state) != len(state_dict):  # two became one: then they were no wrappers
        return dict(state_dict)
    if AVERAGED in state and any(k.startswith("module.") for k in state_dict):
        del state[AVERAGED]
    return state


def prefixes_of(state: Mapping[str, Any]) -> list[str]:
    """What stands before the keys of each AMINet in a state dict: "", "net.", "generator."; empty where none is in it.

    Told by the ends of the network: other networks have a head or a tail, but hardly both and an encoder.
    """
    starts = (key.removesuffix("head.weight") for key in state if key.endswith("head.weight"))
    return [
        start
        for start in starts
        if (not start or start.endswith("."))
        and f"{start}tail.weight" in state
        and any(key.startswith(f"{start}enc.0.") for key in state)
    ]


def networks_in(value: object, rank: tuple[int, ...] = ()) -> list[tuple[tuple[int, ...], str, dict[str, Tensor]]]:
    """The state dicts of AMINets in what a file held: each's rank, where it was found, its tensors under plain keys.

    Nested mappings are searched, in the order of `CONTAINERS`, and then others, which are of one rank.
    """
    if not isinstance(value, Mapping):
        return []
    tensors = strip_wrappers({k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, Tensor)})
    found = [
        (rank, start, {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)})
        for start in prefixes_of(tensors)
    ]
    places = {name: place for place, name in enumerate(CONTAINERS)}
    inner = [(places.get(name, len(places)), name) for name, held in value.items() if isinstance(held, Mapping)]
    for place, name in sorted(inner, key=lambda pair: pair[0]):
        nested = networks_in(value[name], (*rank, place))
        found += [(order, f"{name}.{where}", state) for order, where, state in nested]
    return found


def mismatch(state: Mapping[str, Any], own: Mapping[str, Any], strict: bool, width: int) -> str | None:
    """Why a state dict does not load into a network whose own is `own`; None when it does."""
    shapes = [
        f"{k}: {list(v.shape)} given, {list(own[k].shape)} wanted"
        for k, v in state.items()
        if k in own and v.shape != own[k].shape
    ]
    missing = [k for k in own if k not in state and not optional(k)] if strict else []
    unknown = [k for k in state if k not in own] if strict else []
    if not (shapes or missing or unknown):
        return None
    lines = [f"these weights are not those of this AMINet (width {width}, {len(own)} keys):"]
    for title, keys in (("missing", missing), ("unknown", unknown), ("of another shape", shapes)):
        if keys:
            lines += [f"  {len(keys)} {title}:", *(f"    {key}" for key in abridged(keys))]
    starts = prefixes_of(state)
    if unknown and starts and "" not in starts:
        start = starts[0]
        lines.append(
            f'  An AMINet\'s keys are in it behind "{start}": load_model reads such a file, or take it off with'
            f' {{k.removeprefix("{start}"): v for k, v in state.items() if k.startswith("{start}")}}'
        )
    elif unknown and not starts and not own.keys() & state.keys():
        lines.append("  They are another network's: no key of an AMINet is among them.")
    if shapes:
        lines.append("  Build the AMINet with the configuration that the weights were trained with.")
    return "\n".join(lines)


def optional(key: str) -> bool:
    """Whether torch fills a key in where it misses: batch norms' counters, which files from before them do not have."""
    return key.endswith("num_batches_tracked")


def abridged(keys: list[str]) -> list[str]:
    """All of a few keys; of many the first, and how many begin with what."""
    if len(keys) <= _FEW:
        return keys
    counts = Counter(key.partition(":")[0].split(".")[0] for key in keys).most_common()
    groups = ", ".join(f"{name} {count}" for name, count in counts[:_FEW])
    more = f" and {len(counts) - _FEW} others" if len(counts) > _FEW else ""
    return [*keys[:_EXAMPLES], f"and {len(keys) - _EXAMPLES} more; all by their first part: {groups}{more}"]
