"""`itryon tryon --video V --garment G --out O`: one file through annotation and model, with progress on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dagster_project.settings_file import SettingsError, build_settings
from pipelines.ingest.settings import IngestSettings
from pipelines.registry import STAGES
from pipelines.stage import WorkerSettings
from pipelines.tryon.settings import NEEDED, TryOnSettings

if TYPE_CHECKING:
    from pipelines.tryon.annotate import AnnotationSettings
    from pipelines.tryon.load import LoadedPipeline

_OF_A_LAKE = ("batches", "max_videos", "pairs")
"""Settings of the try-on that choose among the videos of a lake."""


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


def file_settings(values: Mapping[str, Mapping[str, Any]]) -> tuple[TryOnSettings, AnnotationSettings]:
    """Settings of a file for `--config` that matter to a video dressed by itself.

    Args:
        values: Resource name -> settings, from `settings_file.read_settings`.

    Raises:
        SettingsError: A name or a field is unknown or has no part in this, or a value is out of range.
    """
    from pipelines.tryon.annotate import AnnotationSettings

    models: dict[str, type[BaseModel]] = {
        "tryon": TryOnSettings,
        "ingest": IngestSettings,
        "workers": WorkerSettings,
        **{name: STAGES[name].settings for name in NEEDED},
    }
    read = build_settings(values, models, "dressing a file")
    if chosen := [name for name in _OF_A_LAKE if name in read["tryon"].model_fields_set]:
        raise SettingsError(f"settings tryon: {', '.join(chosen)} chooses among the lake's videos; here is one file")
    return read["tryon"], AnnotationSettings(read["ingest"], read["workers"], {name: read[name] for name in NEEDED})


def load_checkpoint(checkpoint: Path | None, settings: TryOnSettings, console: Console) -> LoadedPipeline:
    """The checkpoint that was named; else the lake's that the settings name; else, for `latest`, the embedded one.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It holds no usable checkpoint.
        pipelines.checkpoints.train.CheckpointMissing: The lake has none of the name in the settings.
    """
    from models.itryon.embedded import EMBEDDED_DIR
    from pipelines.checkpoints.train import LATEST, CheckpointMissing, checkpoint_folder, named_checkpoint
    from pipelines.store import DeltaStore
    from pipelines.tryon.load import load_pipeline

    if checkpoint is None:
        lake = DeltaStore()
        try:
            checkpoint = checkpoint_folder(lake, named_checkpoint(lake, settings.checkpoint))
        except CheckpointMissing:
            if settings.checkpoint != LATEST:
                raise
            checkpoint = EMBEDDED_DIR
    console.print(f"checkpoint {checkpoint}", highlight=False, soft_wrap=True)
    return load_pipeline(checkpoint, settings)


def dress_file(
    video: Path,
    garment: Path,
    output: Path,
    settings: TryOnSettings,
    annotation: AnnotationSettings,
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
        annotation: Settings of ingestion and annotation stages.
        console: Where progress goes.
        checkpoint: Folder of a checkpoint; by default what `load_checkpoint` finds.
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
            annotation=annotation,
            on_progress=show,
        )
    for path in (written.video, written.side_by_side, written.sheet, written.record):
        console.print(str(path), highlight=False, soft_wrap=True)
