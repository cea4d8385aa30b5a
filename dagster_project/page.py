"""`itryon page`: a small page on this machine to dress one video by hand.

Gradio draws it and is an optional dependency. Uploads, their annotations and the results live in a temporary folder
that goes away with the server; nothing of them enters the lake.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.tryon.annotate import AnnotationSettings
    from pipelines.tryon.load import LoadedPipeline
    from pipelines.tryon.settings import TryOnSettings

HOST = "127.0.0.1"
"""The page has no login: it answers this machine alone."""
CATEGORIES = {"upper body": "upper_body", "lower body": "lower_body", "dress": "dresses"}
"""What the page calls the garment categories."""
_HINT_S = 10.0
_HEIGHT = 320
"""Of videos and pictures, pixels: those of a tall video would push all else off the screen."""
_NAMES = {"dressing": "Dressing"}


class PageUnavailable(RuntimeError):
    """Gradio is not installed."""


def gradio() -> ModuleType:
    """The gradio module, without its telemetry.

    Raises:
        PageUnavailable: It is not installed; the message says how to.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio as module
    except ImportError as error:
        raise PageUnavailable("The page needs gradio: pip install 'itryon-pipeline[page]'") from error
    return module


def read_spans(text: str | None) -> list[tuple[float, float, str]] | None:
    """Lines of the page's field as spans in seconds; None where all are empty: then interactions are looked for.

    Raises:
        ValueError: A line that is not of the form start, end, what happens.
    """
    spans = []
    for number, line in enumerate((text or "").splitlines(), 1):
        if not line.strip():
            continue
        start, end, what = [*(part.strip() for part in line.split(",", 2)), "", ""][:3]
        try:
            start_s, end_s = float(start), float(end)
        except ValueError:
            raise ValueError(
                f"Interaction in line {number}: start and end are seconds, such as 1.2, 2.8, she zips the jacket up"
            ) from None
        if not what:
            raise ValueError(f"Interaction in line {number}: say what happens, such as 'she zips the jacket up'")
        spans.append((start_s, end_s, what))
    return spans or None


def dresser(
    loaded: LoadedPipeline, settings: TryOnSettings, folder: Path, annotation: AnnotationSettings | None = None
) -> Callable[..., tuple[str, str, str, str]]:
    """What the button does: files in, paths of the result, side-by-side video, contact sheet and record out.

    Args:
        loaded: The pipeline.
        settings: What the page does not ask for.
        folder: Where annotations and results go.
        annotation: Settings of ingestion and annotation stages.
    """
    from pipelines.store import DeltaStore
    from pipelines.tryon.single import tryon_file

    lake = DeltaStore(folder / "lake")

    def dress(
        video: str | None,
        garment: str | None,
        spans: str | None,
        category: str,
        prompt: str | None,
        steps: float,
        guidance: float,
        seed: float,
        on_progress: Callable[[str, int, int], None] | None = None,
    ) -> tuple[str, str, str, str]:
        if not video or not garment:
            raise ValueError("Choose a video with one person and a photo of a garment")
        values = {"steps": int(steps), "guidance_scale": float(guidance), "seed": int(seed)}
        written = tryon_file(
            loaded,
            video,
            garment,
            folder / "results" / uuid.uuid4().hex / "result.mp4",
            lake,
            type(settings).model_validate(settings.model_dump() | values),
            category=category,
            spans_s=read_spans(spans),
            # A text box that nobody touched gives None.
            prompt=(prompt or "").strip() or None,
            annotation=annotation,
            on_progress=on_progress,
        )
        return str(written.video), str(written.side_by_side), str(written.sheet), str(written.record)

    return dress


def build_page(dress: Callable[..., tuple[str, str, str, str]], settings: TryOnSettings) -> Any:
    """The page, a `gradio.Blocks`.

    Args:
        dress: What the button does, from `dresser`.
        settings: Where the numbers on the page start.

    Raises:
        PageUnavailable: Gradio is not installed.
    """
    gr = gradio()

    # Gradio finds the progress bar among the parameters by its default value.
    def run(
        video: Any,
        garment: Any,
        spans: Any,
        category: Any,
        prompt: Any,
        steps: Any,
        guidance: Any,
        seed: Any,
        progress: Any = gr.Progress(),  # noqa: B008
    ) -> tuple[str, str, str, str]:
        def show(what: str, done: int, total: int) -> None:
            progress((done, total), desc=_NAMES.get(what, what.replace("_", " ").capitalize()))

        try:
            return dress(video, garment, spans, category, prompt, steps, guidance, seed, show)
        except (ValueError, OSError) as error:
            # What went wrong after minutes of work waits for whoever comes back; a forgotten file is seen at once.
            stays = None if video and garment else _HINT_S
            raise gr.Error(str(error), duration=stays, print_exception=False) from error

    with gr.Blocks(title="iTryOn", analytics_enabled=False) as page:
        gr.Markdown("# iTryOn\nDress the person of a video in another garment. Everything stays on this machine.")
        with gr.Row():
            with gr.Column():
                video = gr.Video(label="Video with one person", sources=["upload"], height=_HEIGHT, elem_id="video")
                garment = gr.Image(
                    label="Garment photo", type="filepath", sources=["upload"], height=_HEIGHT, elem_id="garment"
                )
                category = gr.Dropdown(list(CATEGORIES.items()), value="upper_body", label="What is dressed")
                # Not a table: Gradio's loses the first key that is struck in a cell, 1.2 becomes .2.
                spans = gr.Textbox(
                    label="Interactions, one a line: start and end (s), what happens; left empty, they are found",
                    placeholder="1.2, 2.8, she zips the jacket up",
                    lines=2,
                    elem_id="spans",
                )
                with gr.Accordion("Settings", open=False):
                    prompt = gr.Textbox(label="Caption of the whole video; left empty, it is made")
                    steps = gr.Slider(1, 100, settings.steps, step=1, label="Denoising steps")
                    guidance = gr.Slider(1, 10, settings.guidance_scale, step=0.5, label="Guidance scale; 1 is off")
                    seed = gr.Number(settings.seed, precision=0, minimum=0, label="Seed")
                button = gr.Button("Dress", variant="primary", elem_id="dress")
            with gr.Column():
                result = gr.Video(label="Result", height=_HEIGHT, elem_id="result", interactive=False)
                compare = gr.Video(
                    label="Source, what the model sees, garment, result", elem_id="compare", interactive=False
                )
                sheet = gr.Image(label="Moments", elem_id="moments", interactive=False, type="filepath")
                record = gr.File(label="Record of all inputs, versions and settings", elem_id="record")
        inputs = [video, garment, spans, category, prompt, steps, guidance, seed]
        button.click(run, inputs, [result, compare, sheet, record], concurrency_limit=1)
    return page


def serve(loaded: LoadedPipeline, settings: TryOnSettings, annotation: AnnotationSettings, port: int) -> None:
    """Serve the page on this machine until it is interrupted.

    Args:
        loaded: The pipeline.
        settings: Where the numbers on the page start, and what it does not ask for.
        annotation: Settings of ingestion and annotation stages.
        port: On 127.0.0.1.

    Raises:
        PageUnavailable: Gradio is not installed.
        OSError: The port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="itryon-page-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "uploads")
        page = build_page(dresser(loaded, settings, Path(folder), annotation), settings)
        page.launch(server_name=HOST, server_port=port, share=False, allowed_paths=[folder], show_error=True)
