"""The page served in this process, and a browser to look at it: what the tests marked `web` need."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aminet_fast.restoration.detectors import Detector
from aminet_fast.web.limits import Limits
from aminet_fast.web.server import launch, private_folder
from tests.web.inputs import Darker

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_elsewhere: list[str] | None = None  # other addresses than this machine's that were asked for


@dataclass(frozen=True)
class Server:
    """Where the page is, and the folder of its visitors' files."""

    url: str
    folder: Path


def need(*packages: str) -> None:
    """Skips the test where one of them is missing; with AMINET_CHROMIUM=required it fails."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            _without(f"{package} is not installed: make test-web")


def chromium() -> str:
    """The browser: AMINET_CHROMIUM, or one on PATH. Skips the test without; with AMINET_CHROMIUM=required it fails."""
    told = os.environ.get("AMINET_CHROMIUM", "required")
    names = BROWSERS if told == "required" else (told,)
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        _without("there is no Chromium: apt-get install chromium, or AMINET_CHROMIUM=FILE")
    assert found is not None
    return found


def _without(reason: str) -> None:
    if os.environ.get("AMINET_CHROMIUM") == "required":
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def served(detector: Detector, limits: Limits | None = None, queue: int = 8) -> Iterator[Server]:
    """The page of a network without weights, at a free port."""
    limits = limits or Limits()
    with private_folder() as folder:
        from aminet_fast.web.page import build_page

        page = build_page(Darker(), detector, limits=limits, queue=queue)
        port = free_port()
        try:
            launch(page, "127.0.0.1", port, limits)
            yield Server(f"http://127.0.0.1:{port}", folder)
        finally:
            page.job.end()
            page.close(verbose=False)


@contextmanager
def watched() -> Iterator[list[str]]:
    """Notes every host but this machine to which this process connects, or whose address it asks for."""
    global _elsewhere
    before, _elsewhere = _elsewhere, []
    if before is None:
        sys.addaudithook(_note)  # there is no taking it away
    yield _elsewhere


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _elsewhere is None or event not in ("socket.connect", "socket.getaddrinfo"):
        return
    address = arguments[1] if event == "socket.connect" else arguments[0]
    host = address[0] if isinstance(address, tuple) else address
    if host not in ("127.0.0.1", "localhost", "0.0.0.0", "::1", None) and not str(host).startswith(("/", "\0")):
        _elsewhere.append(str(host))
