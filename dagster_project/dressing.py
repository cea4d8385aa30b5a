"""`itryon tryon --video V --garment G --out O`: one file through annotation and model, with progress on a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pipelines.tryon.settings import TryOnSettings

if TYPE_CHECKING:
    from pipelines.tryon.load import LoadedPipeline


def parse_span(text: str) -> tuple[float, float, str]:
    """`1.2,2.8,she zips the jacket up` -> (1.2, 2.8, caption).

    Raises:
        ValueError: It is not of this form.
    """
    parts = text.split(",", 2)
    try:
        start, end, caption = float(parts[0]), float(parts[1]), parts[2].strip()
    except (IndexError, ValueError):
        raise ValueError(f"--span {text!r}: give start,end,caption, such as '1.2,2.8,she zips the jacket up'") from None
    return start, end, caption


def load_checkpoint(checkpoint: Path | None, settings: TryOnSettings, console: Console) -> LoadedPipeline:
    """The checkpoint that was named; else the lake's newest one; else the embedded one.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no usable checkpoint.
    """
    from models.itryon.embedded import EMBEDDED_DIR
    from pipelines.checkpoints.train import CheckpointMissing, checkpoint_folder, newest_checkpoint
    from pipelines.store import DeltaStore
    from pipelines.tryon.load import load_pipeline

    if checkpoint is None:
        lake = DeltaStore()
        try:
            checkpoint = checkpoint_folder(lake, newest_checkpoint(lake))
        except CheckpointMissing:
            checkpoint = EMBEDDED_DIR
    console.print(f"checkpoint {checkpoint}", highlight=False, soft_wrap=True)
    return load_pipeline(checkpoint, settings)


def dress_file(
    video: Path,
    garment: Path,
    output: Path,
    settings: TryOnSettings,
    console: Console,
    *,
    checkpoint: Path | None = None,
    category: str = "upper_body",
    spans: list[tuple[float, float, str]] | None = None,
    prompt: str | None = None,
) -> None:
    """Dress a file and print what was written; see `pipelines.tryon.single.tryon_file` for what it raises.

    Args:
        video: Video with one person.
        garment: Photo of a garment.
        output: mp4 to write.
        settings: Settings of the try-on.
        console: Where progress goes.
        checkpoint: Folder of a checkpoint; by default the newest of the lake, or the embedded one where there is none.
        category: upper_body, lower_body or dresses.
        spans: Interactions, seconds.
        prompt: Global caption.
    """
    from pipelines.store import DeltaStore
    from pipelines.tryon.single import tryon_file

    lake = DeltaStore()
    loaded = load_checkpoint(checkpoint, settings, console)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as bar:

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        written = tryon_file(
            loaded,
            video,
            garment,
            output,
            lake,
            settings,
            category=category,
            spans_s=spans,
            prompt=prompt,
            on_progress=show,
        )
    for path in (written.video, written.side_by_side, written.sheet, written.record):
        console.print(str(path), highlight=False, soft_wrap=True)
