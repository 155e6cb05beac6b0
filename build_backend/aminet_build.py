"""PEP 517 build backend: setuptools, plus build requirements that depend on the target environment.

A package that compiles against torch cannot name torch in ``[build-system] requires``: pip would then fetch
a second torch of several GB into its isolated build environment, perhaps of another version than the
installed one. Leaving it out fails in an empty environment. So the list is computed: torch is asked for
only when something will be compiled and the environment being installed into has no usable torch.
"""

from __future__ import annotations

from typing import Any

from build_plan import BuildError, build_requirements
from setuptools import build_meta

build_wheel = build_meta.build_wheel
build_sdist = build_meta.build_sdist
build_editable = build_meta.build_editable
prepare_metadata_for_build_wheel = build_meta.prepare_metadata_for_build_wheel
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """What pip adds to the isolated environment before it builds a wheel."""
    try:
        return build_requirements()
    except BuildError as error:
        raise SystemExit(f"error: {error}") from None


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """The same for ``pip install -e``."""
    return get_requires_for_build_wheel(config_settings)


def get_requires_for_build_sdist(config_settings: Any = None) -> list[str]:
    """A source archive compiles nothing."""
    return []
