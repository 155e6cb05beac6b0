"""A network for the tests of upscaling."""

from __future__ import annotations

import pytest

from tests.restoration.inputs import save_network


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_network(tmp_path_factory.mktemp("net"))
