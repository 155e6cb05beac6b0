"""The named configurations: AMINet, narrower ones, and one for each ablation row of the paper's Tables I-V."""

from __future__ import annotations

from ..reference.config import AMINetConfig

_CHANGES: dict[str, dict[str, object]] = {
    "aminet": {},
    # Narrower networks for machines without a large GPU: the same blocks, smaller hourglasses.
    "aminet-small": {"width": 16, "hourglass_width": 32},
    "aminet-tiny": {"width": 12, "hourglass_width": 16},
    "aminet-nano": {"width": 8, "hourglass_width": 8},
    # Table I: LGFI without one of its parts.
    "lgfi-without-sa": {"sa": False},
    "lgfi-without-rdfe": {"local": "none"},
    "lgfi-without-skaf": {"skaf": "edff"},
    # Table II and III: what LGFI and RDFE are compared with.
    "transformer": {"block": "transformer"},
    "ffn": {"local": "ffn"},
    # Table IV: RDFE with one path, without its attention unit, without its refinement module.
    "rdfe-single-3x3": {"rdfe_kernels": (3,)},
    "rdfe-single-5x5": {"rdfe_kernels": (5,)},
    "rdfe-single-7x7": {"rdfe_kernels": (7,)},
    "rdfe-without-au": {"attention_unit": "none"},
    "rdfe-without-frm": {"frm": False},
    # Table V: SKAF nowhere, without a convolution, without pools, with one pool.
    "skaf-nowhere": {"skaf": "none"},
    "skaf-without-conv5": {"skaf_kernels": (7,)},
    "skaf-without-conv7": {"skaf_kernels": (5,)},
    "skaf-without-conv5-pools": {"skaf_kernels": (7,), "skaf_pools": ()},
    "skaf-without-pools": {"skaf_pools": ()},
    "skaf-without-max": {"skaf_pools": ("avg",)},
    "skaf-without-avg": {"skaf_pools": ("max",)},
}


def list_configs() -> list[str]:
    """The names `get_config` knows."""
    return list(_CHANGES)


def get_config(name: str) -> AMINetConfig:
    """The configuration of that name; raises ValueError listing the names when there is none."""
    if name not in _CHANGES:
        raise ValueError(f"no configuration is called {name!r}; there are {', '.join(_CHANGES)}")
    return AMINetConfig.from_dict(dict(_CHANGES[name]))
