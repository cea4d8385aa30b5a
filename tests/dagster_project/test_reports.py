"""What the command line prints: every name as it is, also where it looks like markup."""

import io
from datetime import UTC, datetime

import pyarrow as pa
from rich.console import Console

from dagster_project.reports import lake_status, print_status, print_videos
from pipelines.store import Commit
from pipelines.store.schemas import CHECKPOINTS, ISR_SCORES, VIDEOS
from pipelines.store.studio_schemas import JUDGE_REPORTS


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


def test_status_shows_a_rate_with_the_kappa_of_its_judge(lake):
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def put(spec, row):
        full = {f.name: None for f in spec.schema} | {"created_at": now, "run_id": ""} | row
        lake.replace(spec, pa.Table.from_pylist([full], spec.schema), {c: full[c] for c in spec.partition_by}, Commit())

    for name, digest in (("validated", "a" * 16), ("unknown", "b" * 16)):
        values = {f.name: _some(f.type) for f in CHECKPOINTS.schema} | {"checkpoint_id": name, "created_at": now}
        put(CHECKPOINTS, values)
        verdict = {
            "tryon_id": "t",
            "video_id": "v",
            "action": "other",
            "start_frame": 0,
            "end_frame": 9,
            "text": "rubs",
        }
        verdict |= {"success": True, "score": 0.9, "rationale": "seen", "votes": [True], "judge": f"kinematic {name}"}
        put(ISR_SCORES, verdict | {"checkpoint_id": name, "judge_digest": digest})
    row = {"batch": "held", "judge_digest": "a" * 16, "judge": "kinematic validated", "pictures": "rendered"}
    row |= {"metric": "kappa", "split": "all", "value": 0.8, "low": 0.7, "high": 0.9, "num_cases": 90, "num_clips": 30}
    put(JUDGE_REPORTS, row | {"held_back": True})
    report = lake_status(lake)
    found = {c["checkpoint_id"]: c for c in report["checkpoints"]}
    assert found["validated"]["judge_kappa"] == 0.8 and "batch held" in found["validated"]["judge_agreement"]
    assert found["unknown"]["judge_kappa"] is None and "never validated" in found["unknown"]["judge_agreement"]
    console = Console(width=220, file=io.StringIO(), record=True)
    print_status(report, console)
    lines = console.export_text().splitlines()
    assert "1.00 of 1" in next(x for x in lines if "validated" in x and "│" in x and "never" not in x)
    assert any("never validated" in x and "│" in x for x in lines)
    assert any(x.startswith("judge kinematic validated: kappa 0.80 (0.70 to 0.90)") for x in lines)


def _some(kind):
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return 1
    if pa.types.is_boolean(kind):
        return True
    return "x" if pa.types.is_string(kind) else [] if pa.types.is_list(kind) else None
