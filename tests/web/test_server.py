from __future__ import annotations

import asyncio
import os
import socket
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aminet_fast.commands import cli
from aminet_fast.commands.signals import _Terminated
from aminet_fast.web.server import LocalFilesOnly, WebConfig, _end, loopback_only, private_folder, refuse_taken
from tests.harness import ROOT


def test_options() -> None:
    config = cli.parse(cli.COMMANDS["web"], ["--port", "8000", "--open", "--max_megapixels", "1.5", "--queue", "2"])
    assert config == WebConfig(port=8000, open=True, max_megapixels=1.5, queue=2)
    assert (config.limits.megapixels, config.limits.upload_bytes) == (1.5, 32 * 2**20)
    assert WebConfig().host == "127.0.0.1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 0}, "port is 0, wanted 1 to 65535"),
        ({"port": 65536}, "port is 65536, wanted 1 to 65535"),
        ({"queue": 0}, "queue is 0, wanted at least 1"),
        ({"host": ""}, "host is '', wanted a name or an IPv4 address such as 127.0.0.1"),
        ({"host": "::1"}, "host is '::1', wanted a name or an IPv4 address such as 127.0.0.1"),
        ({"max_megapixels": 0.0}, "max_megapixels is 0, wanted a finite number above 0"),
        ({"max_upload_mib": -2.0}, "max_upload_mib is -2, wanted a finite number above 0"),
        ({"max_upload_mib": float("inf")}, "max_upload_mib is inf, wanted a finite number above 0"),
        ({"detector": "a/Points.JSON"}, "detector is 'a/Points.JSON', whose points .*; wanted auto, .*"),
        ({"detector": "points.csv"}, "detector is 'points.csv', whose points .*; wanted auto, .*"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        WebConfig(**options)


def test_a_port_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["web", "--port", str(port)]) == 2
    assert capsys.readouterr().err == f"aminet: error: port {port} is in use; choose another with --port\n"
    refuse_taken("127.0.0.1", port)


def test_an_address_of_others() -> None:
    with pytest.raises(ValueError, match=r"^host '192\.0\.2\.1' is no address of this machine .*; change --host$"):
        refuse_taken("192.0.2.1", 7860)


@pytest.mark.parametrize(
    ("host", "addresses", "alone"),
    [
        ("127.0.0.1", None, True),
        ("127.1", None, True),
        ("localhost", None, True),
        ("0.0.0.0", None, False),
        ("192.0.2.1", None, False),
        ("localhost.example.org", ["192.0.2.1"], False),
        ("127.example.org", ["127.0.0.1", "192.0.2.1"], False),
        ("my-machine", ["127.0.1.1", "::1"], True),
        ("nowhere.example.org", [], False),
    ],
)
def test_this_machine_alone(
    monkeypatch: pytest.MonkeyPatch, host: str, addresses: list[str] | None, alone: bool
) -> None:
    def answer(host: str, *_: Any, **__: Any) -> list[Any]:
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(0, 0, 0, "", (address, 0)) for address in addresses]

    if addresses is not None:
        monkeypatch.setattr(socket, "getaddrinfo", answer)
    assert loopback_only(host) is alone


def test_the_folder_is_private_and_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_ALLOWED_PATHS", "/")
    monkeypatch.setenv("NO_PROXY", "intranet")
    with suppress(KeyboardInterrupt), private_folder() as folder:
        (folder / "upload").write_text("private")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        told = {name: value for name, value in os.environ.items() if name.startswith(("GRADIO_", "HF_HUB"))}
        assert told == {
            "GRADIO_TEMP_DIR": str(folder),
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        assert os.environ["NO_PROXY"] == "intranet,127.0.0.1,localhost"
        raise KeyboardInterrupt
    assert not folder.exists()
    assert os.environ["GRADIO_ALLOWED_PATHS"] == "/"
    assert "GRADIO_TEMP_DIR" not in os.environ


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/gradio_api/file=/tmp/aminet-web-1/a.png", 200),
        ("/gradio_api/file=https://example.com/a.png", 403),
        ("/gradio_api/file=HTTP://example.com/a.png", 403),
        ("/gradio_api/file/https://example.com/a.png", 403),
        ("/gradio_api/file/tmp/aminet-web-1/a.png", 200),
        ("/gradio_api/proxy=https://example.com/a", 403),
    ],
)
def test_addresses_are_not_fetched(path: str, status: int) -> None:
    sent: list[dict[str, Any]] = []

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(LocalFilesOnly(answer)({"path": path}, None, send))
    assert sent[0]["status"] == status


@pytest.mark.parametrize(("signalled", "status"), [(KeyboardInterrupt, 130), (_Terminated, 143)])
def test_a_second_signal_ends_at_once(
    signalled: type[KeyboardInterrupt], status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*, wait: bool = True) -> None:
        if wait:
            raise signalled

    statuses: list[int] = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    (tmp_path / "visitors").mkdir()
    _end(SimpleNamespace(job=SimpleNamespace(end=end, busy=True), close=lambda verbose: None), tmp_path / "visitors")
    assert statuses == [status]
    assert not (tmp_path / "visitors").exists()


def test_help_loads_neither_gradio_nor_torch() -> None:
    code = "import sys; from aminet_fast.commands.cli import main; main(['--help']); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "  web       a page in the browser" in run.stdout
    assert {"gradio", "torch"} & set(run.stdout.split()) == set()


def test_without_gradio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "aminet_fast.web.page", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    assert cli.main(["web", "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert error == "aminet: error: the page in the browser needs gradio: pip install 'aminet-fast[web]'\n"
