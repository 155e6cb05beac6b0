"""The page: one photograph in, the restored one, its faces by number, and files to download. Needs gradio."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from ..output.extras import missing
from ..restoration.detectors import Detector, DetectorError
from ..restoration.photograph import RestoreOptions
from .job import About, Job
from .limits import Limits, parse_numbers
from .results import GALLERY

try:
    import gradio as gr
except ImportError as problem:
    raise missing("web", "the page in the browser needs gradio") from problem

log = logging.getLogger(__name__)

CSS = """
.gradio-container { max-width: 1280px !important; margin: 0 auto !important; }
#summary { min-height: 1.5em; }
#terms { font-size: 0.9em; }
#gallery .grid-wrap { padding-top: 2.5em; }
#gallery .thumbnail-item { aspect-ratio: 3 / 1 !important; }
#gallery .caption-label { left: 4px; right: auto; bottom: 4px; padding: 0 6px; }
"""
_INTRODUCTION = """# AMINet: faces of a photograph, restored
Upload a photograph with **small faces**, such as people in the background of a group. Each face is found, restored
by a network that makes 128x128 pixels of 16x16, and put back in its place."""
_TERMS = """**Not for identifying people, and evidence of nothing.** Most of what is seen in a restored face cannot be
known from so few pixels: the network fills in what faces look like on average. Two people can give the same result, and
it can look like neither.

Weights: {weights}, licence: {licence}. The photograph goes to the computer that runs this page and nowhere else. It and
its results are removed after about an hour, and when the program ends."""
_WAITING = "The restored photograph appears here. On a CPU a face takes about a second."
_KEPT = 3600  # seconds that files of a visitor are kept


def _upload() -> Any:
    """An image to upload, given to the program as the file it is.

    Gradio itself would decode it, however large, and fetch what an address names. (This is no subclass because Gradio
    writes a .pyi file beside the source of one.)
    """
    image = gr.Image(
        type="filepath", sources=["upload", "clipboard"], label="Photograph", height=300, elem_id="photograph"
    )
    move = image.async_move_resource_to_block_cache

    async def move_uploads(path: Any) -> Any:
        if str(path).lower().startswith(("http:", "https:")):
            raise gr.Error("wanted an uploaded file, not an address", print_exception=False)
        return await move(path)

    image.async_move_resource_to_block_cache = move_uploads
    image.preprocess = lambda payload: None if payload is None else _uploaded(payload.path, image.GRADIO_CACHE)
    return image


def _uploaded(path: str, folder: str) -> str:
    """The path, if it is one of an upload: a request of somebody's own making may name any file of this computer."""
    if path is None or not Path(path).resolve().is_relative_to(Path(folder).resolve()):
        raise gr.Error("wanted a file that was uploaded", print_exception=False)
    return path


def theme() -> Any:
    """Gradio's own, with the system's fonts: nothing is fetched from anywhere."""
    fonts = [gr.themes.Font(name) for name in ("ui-sans-serif", "system-ui", "sans-serif")]
    mono = [gr.themes.Font(name) for name in ("ui-monospace", "monospace")]
    return gr.themes.Default(font=fonts, font_mono=mono, primary_hue="blue")


def build_page(
    model: nn.Module,
    detector: str | Detector = "auto",
    *,
    limits: Limits | None = None,
    about: About | None = None,
    autocast: bool = False,
    queue: int = 8,
) -> Any:
    """The page for one network, a ``gr.Blocks`` that is not launched yet; its endpoint is called ``/restore``.

    Files of visitors lie in Gradio's folder (GRADIO_TEMP_DIR), and Gradio hands out all that lies there.

    Args:
        model: as `restore_photograph` takes it.
        detector: as `restore_photograph` takes it; opened once.
        limits: what is too large.
        about: what the page says of the network.
        autocast: run the network in bfloat16 autocast.
        queue: photographs that may wait for their turn; one is restored at a time.

    Raises:
        ImportError: gradio is missing, or what finds faces.
        ValueError, FileNotFoundError: there is no such detector.
    """
    about = about or About()
    job = Job(model, detector, limits=limits or Limits(), about=about, autocast=autocast)
    # Named outright: Gradio tells its makers of every page unless it is told not to.
    with gr.Blocks(title="AMINet", analytics_enabled=False, delete_cache=(_KEPT // 6, _KEPT)) as page:
        gr.Markdown(_INTRODUCTION)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                photograph = _upload()
                button = gr.Button("Restore", variant="primary", elem_id="restore")
                options = _options()
            with gr.Column(scale=3, min_width=320):
                slider = gr.ImageSlider(
                    label="Before | after: drag the line",
                    type="filepath",
                    interactive=False,
                    max_height=560,
                    elem_id="slider",
                )
                words = gr.Markdown(_WAITING, elem_id="summary")
                with gr.Row():
                    png = gr.DownloadButton("Download picture (PNG)", interactive=False, elem_id="png")
                    json = gr.DownloadButton("Download faces (JSON)", interactive=False, elem_id="json")
        with gr.Column(visible=False, elem_id="faces") as faces:
            numbered = gr.Image(
                label="Faces by number: restored in blue, left out in orange",
                format="png",
                buttons=["download", "fullscreen"],
                interactive=False,
                elem_id="numbered",
            )
            gallery = gr.Gallery(
                label=f"Restored faces (the first {GALLERY}): what the network saw | bicubic | AMINet",
                format="png",
                columns=3,
                object_fit="contain",
                height="auto",
                buttons=["fullscreen"],
                interactive=False,
                elem_id="gallery",
            )
        gr.Markdown(_TERMS.format(weights=about.weights, licence=about.licence or "not stated"), elem_id="terms")
        done = button.click(
            _handler(job, Path(page.GRADIO_CACHE)),
            [photograph, *options],
            [png, json, words, slider, numbered, gallery],
            api_name="restore",
            api_description="Restores the faces of a photograph: the PNG, the JSON, a line, and what the page shows.",
            concurrency_limit=1,
        )
        done.success(_show, None, [png, json, faces], queue=False, show_progress="hidden", api_visibility="private")
    page.job = job
    # Calls past the queue would be neither counted nor one at a time.
    return page.queue(max_size=queue, default_concurrency_limit=1, api_open=False)


def _options() -> list[Any]:
    """The components of the options, in the order of what `_handler` takes."""
    scale = gr.Radio([2, 4], value=4, label="Scale", info="the result's sides over the photograph's", elem_id="scale")
    with gr.Accordion("More options", open=False):
        chosen = gr.Textbox(
            "", label="Faces to restore", info="numbers such as 3,7 or 2-5; empty: all", max_lines=1, elem_id="chosen"
        )
        blend = gr.Slider(0, 1, 1, step=0.05, label="Blend", info="0: as enlarged, 1: as restored")
        min_score = gr.Slider(0, 1, 0.6, step=0.05, label="Least score", info="how sure the detector has to be")
        background = gr.Radio(
            ["lanczos", "bicubic", "none"], value="lanczos", label="Background", info="how the rest is enlarged"
        )
        flip = gr.Checkbox(False, label="Average with the mirrored face (takes twice as long)")
    return [scale, background, blend, min_score, flip, chosen]


def _show() -> tuple[Any, Any, Any]:
    """After the first result: its files can be downloaded, its faces are shown."""
    return gr.DownloadButton(interactive=True), gr.DownloadButton(interactive=True), gr.Column(visible=True)


def _handler(job: Job, folder: Path) -> Callable[..., tuple[Any, ...]]:
    """What the button does; the names of its arguments are those of the endpoint."""

    def restore(
        photograph: str | None,
        scale: int = 4,
        background: Any = "lanczos",
        blend: float = 1.0,
        min_score: float = 0.6,
        flip: bool = False,
        faces: str = "",
    ) -> tuple[Any, ...]:
        if photograph is None:
            raise gr.Error("Upload a photograph first.", print_exception=False)
        try:
            options = RestoreOptions(
                scale=int(scale),
                background=background,
                blend=float(blend),
                min_score=float(min_score),
                ensemble="flip" if flip else "none",
                faces=parse_numbers(faces),
            )
            outcome = job.run(Path(photograph), options, folder)
        except Exception as error:
            raise gr.Error(_line(error), print_exception=False) from error
        pair = (str(outcome.before), str(outcome.after))
        return str(outcome.png), str(outcome.json), outcome.summary, pair, outcome.numbered, outcome.gallery

    return restore


def _line(error: Exception) -> str:
    """One line for the visitor; what is a fault of the program goes to its console, with the traceback."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "memory" in str(error).lower()):
        return "The memory is full: choose a smaller scale, or a smaller photograph."
    if isinstance(error, OSError) and error.errno is not None:  # its message may name folders
        log.error("a photograph was not restored: %s", error)
        return f"The computer that runs this page cannot do it: {error.strerror}."
    if isinstance(error, (ValueError, ImportError, OSError, DetectorError)):
        return " ".join(str(error).split())
    log.error("a photograph was not restored", exc_info=error)
    return f"The program failed ({type(error).__name__}); its console says where."
