"""What the command line prints: every name as it is, also where it looks like markup."""

import pyarrow as pa
from rich.console import Console

from dagster_project.reports import lake_status, print_status, print_videos
from pipelines.store import Commit
from pipelines.store.schemas import VIDEOS


def test_names_that_look_like_markup_are_printed_whole(lake, capsys):
    row = {
        "batch": "b",
        "video_id": "0" * 16,
        "source_path": "[final].mp4",
        "status": "error",
        "reason": "see [red]this[/red]",
        "fingerprint": "f",
    }
    lake.replace(VIDEOS, pa.Table.from_pylist([row], VIDEOS.schema), {"batch": "b"}, Commit())
    console = Console(width=120)
    print_videos(lake, "b", console)
    print_status(lake_status(lake), console)
    printed = capsys.readouterr().out
    assert "[final].mp4" in printed and "see [red]this[/red]" in printed and "1 error" in printed
