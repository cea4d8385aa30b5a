"""Checks of a stage's rows after they were written: coverage, schema, referential integrity.

They read the table, not what the stage says of itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.evaluation.judges.validation import kappa_now
from pipelines.ingest.private import is_private
from pipelines.registry import STAGES
from pipelines.store import DeltaStore, TableSpec
from pipelines.store.delta import stored_schema
from pipelines.store.schemas import ISR_SCORES, STAGE_STATUS, VIDEOS

FAIR_KAPPA = 0.4
"""Below it, agreement counts as poor or slight (Landis and Koch call 0.41 to 0.60 moderate)."""

STAGE_CHECKS = {
    "coverage": "At least one usable video of the batch has rows; videos without are counted and named",
    "schema": "The Delta table has exactly the declared columns and types, and no null where none is allowed",
    "referential_integrity": "Every row belongs to a usable video of the batch and to a frame that the video has",
}


@dataclass(frozen=True)
class CheckOutcome:
    """What one check found. `blocking` outcomes that fail stop what is downstream."""

    name: str
    passed: bool
    description: str
    blocking: bool = True
    figures: dict[str, Any] = field(default_factory=dict)


def check_stage(store: DeltaStore, spec: TableSpec, batch: str) -> list[CheckOutcome]:
    """The checks of `STAGE_CHECKS` for one stage's table and one batch."""
    columns = [c for c in ("video_id", "frame", "start_frame", "end_frame") if c in spec.schema.names]
    rows = store.read(spec, columns, {"batch": batch})
    videos = store.read(VIDEOS, ["video_id", "num_frames"], {"batch": batch, "status": "ok"})
    frames = dict(zip(videos["video_id"].to_pylist(), videos["num_frames"].to_pylist()))
    return [
        _coverage(store, spec, batch, set(frames)),
        check_schema(store, spec, {"batch": batch}),
        _integrity(rows, frames),
    ]


def _coverage(store: DeltaStore, spec: TableSpec, batch: str, usable: set[str]) -> CheckOutcome:
    status = store.read(STAGE_STATUS, ["video_id", "status"], {"batch": batch, "stage": spec.name})
    done = set(status.filter(pc.equal(status["status"], "ok"))["video_id"].to_pylist()) & usable
    missing = sorted(usable - done)
    text = f"{len(done)} of {len(usable)} usable videos are annotated"
    if missing:
        text += "; without: " + ", ".join(missing[:10]) + (" …" if len(missing) > 10 else "")
    figures = {"videos_done": len(done), "videos_usable": len(usable), "coverage": len(done) / max(len(usable), 1)}
    # A video that failed is a row with a reason; only a batch with nothing in it stops the run.
    return CheckOutcome("coverage", bool(done), text, True, figures)


def check_schema(store: DeltaStore, spec: TableSpec, where: dict[str, str]) -> CheckOutcome:
    """The Delta table has the declared columns in the declared types, and required columns hold no null."""
    declared = {f.name: f.type for f in stored_schema(spec)}
    found = {f.name: f.type for f in store.schema(spec)}
    problems = [f"missing column {n}" for n in declared if n not in found]
    problems += [f"undeclared column {n}" for n in found if n not in declared]
    other = {n: t for n, t in found.items() if t != declared.get(n, t)}
    problems += [f"{n} is {t}, declared as {declared[n]}" for n, t in other.items()]
    required = [f.name for f in spec.schema if not f.nullable and f.name in found and f.name not in other]
    nulls = dict.fromkeys(required, 0)
    for batch in store.batches(spec, required, where):
        for name in required:
            nulls[name] += batch.column(name).null_count
    problems += [f"{count} nulls in {name}" for name, count in nulls.items() if count]
    return CheckOutcome("schema", not problems, "; ".join(problems) or f"{len(spec.schema)} columns as declared")


def _integrity(rows: pa.Table, frames: dict[str, int]) -> CheckOutcome:
    problems = []
    foreign = sorted(set(rows["video_id"].to_pylist()) - set(frames))
    if foreign:
        problems.append(f"rows of {len(foreign)} videos that are not usable videos of the batch: {foreign[:3]}")
    lower = next((c for c in ("frame", "start_frame") if c in rows.column_names), None)
    if lower:
        limit = pa.array([frames.get(v, 0) for v in rows["video_id"].to_pylist()], pa.int64())
        start = rows[lower].cast(pa.int64()).combine_chunks()
        outside = pc.or_(pc.less(start, 0), pc.greater_equal(start, limit))
        if "end_frame" in rows.column_names:
            end = rows["end_frame"].cast(pa.int64()).combine_chunks()
            outside = pc.or_(outside, pc.or_(pc.less_equal(end, start), pc.greater(end, limit)))
        count = pc.sum(outside).as_py() or 0
        if count:
            problems.append(f"{count} rows outside of their video's frames")
    return CheckOutcome(
        "referential_integrity", not problems, "; ".join(problems) or f"{rows.num_rows} rows refer to usable videos"
    )


VIDEO_CHECKS = {
    "usable_videos": "At least one file of the batch is a usable video",
    "schema": STAGE_CHECKS["schema"],
    "blobs_present": "Every usable video's bytes are in the blob store under their digest",
}


def check_videos(store: DeltaStore, batch: str, changed: bool = True) -> list[CheckOutcome]:
    """The checks of `VIDEO_CHECKS` for one batch.

    Args:
        store: The lake.
        batch: Batch of videos.
        changed: Whether its rows were just written. Blobs are looked for then only: a run with nothing to do must not
            ask a store on the net for every video, and tidying the lake tells of any blob that is missing.
    """
    rows = store.read(VIDEOS, ["video_id", "uri", "sha256", "status"], {"batch": batch}).to_pylist()
    usable = [r for r in rows if r["status"] == "ok"]
    missing = [r["video_id"] for r in usable if not r["uri"] or (changed and not store.blobs.exists(r["uri"]))]
    blobs = f"{len(missing)} usable videos without a blob: {missing[:5]}"
    return [
        CheckOutcome(
            "usable_videos",
            bool(usable),
            f"{len(usable)} of {len(rows)} files are usable",
            figures={"usable": len(usable), "files": len(rows)},
        ),
        check_schema(store, VIDEOS, {"batch": batch}),
        CheckOutcome(
            "blobs_present", not missing, blobs + ("" if changed else "; no row changed, none was looked for")
        ),
    ]


def batches_without_clips(store: DeltaStore) -> dict[str, str]:
    """Batches that failed on their way to `clips` -> the stage in which every usable video of them failed, and why.

    Where no file is usable, that stage is `videos`. A batch whose stages were not run yet did not fail, and a video
    that `itryon tryon --video` dressed is not on its way to `clips`.
    """
    usable: dict[str, set[str]] = {}
    out: dict[str, str] = {}
    for row in store.read(VIDEOS, ["batch", "video_id", "status", "reason"]).to_pylist():
        if is_private(row["batch"]):
            continue
        if row["status"] == "ok":
            usable.setdefault(row["batch"], set()).add(row["video_id"])
        else:
            out.setdefault(row["batch"], f"{VIDEOS.name}: {row['reason']}")
    out = {batch: why for batch, why in out.items() if batch not in usable}
    of_stage: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in store.read(STAGE_STATUS, ["batch", "stage", "video_id", "status", "reason"]).to_pylist():
        if row["video_id"] in usable.get(row["batch"], ()):
            of_stage.setdefault((row["batch"], row["stage"]), []).append(row)
    for batch in sorted(usable):
        for stage in STAGES:
            rows = of_stage.get((batch, stage))
            if rows and all(r["status"] != "ok" for r in rows):
                out[batch] = f"{stage}: {rows[0]['reason']}"
                break
    return out


def check_judge(store: DeltaStore, checkpoint_id: str) -> CheckOutcome:
    """Whether the success rate of a checkpoint can be relied on, and why: how well its judge agrees with known
    truth, and how many questions have an answer.
    """
    columns = ["success", "judge", "judge_digest", "judge_kappa"]
    rows = store.read(ISR_SCORES, columns, {"checkpoint_id": checkpoint_id}).to_pylist()
    name, figures = "judge_is_validated", {"checkpoint_id": checkpoint_id}
    if not rows:
        nothing = "no interaction was judged: no captioned interaction lies in a try-on video"
        return CheckOutcome(name, False, nothing, False, figures)
    judge, kappa = rows[0]["judge"], kappa_now(store, rows[0]["judge_digest"], rows[0]["judge_kappa"])
    answered = sum(r["success"] is not None for r in rows)
    if kappa is None:
        agrees = f"{judge} was never validated: run `itryon evaluate judge`"
    else:
        agrees = f"{judge} agrees with known truth at kappa {kappa:.2f}" + (" only" if kappa < FAIR_KAPPA else "")
    passed = kappa is not None and kappa >= FAIR_KAPPA and answered >= len(rows) / 2
    text = f"{agrees}; {answered} of {len(rows)} questions have an answer"
    return CheckOutcome(name, passed, text, False, figures)
