"""The leaderboard: one row a checkpoint, with all that was measured of it and what it is made from.

Nothing is measured here. The rows gather what `checkpoints`, `training_sets`, `tryon_videos`, `video_metrics`,
`isr_scores`, `judge_reports` and `promotions` say, so that the table can be made anew at any time. What was measured of
try-on videos that are no longer those of the checkpoint is not shown. No heavy imports: the command line prints it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

import pyarrow as pa

from pipelines.checkpoints.current import current_standing
from pipelines.evaluation.judges.validation import kappa_now
from pipelines.evaluation.measured import set_metrics, verdicts_that_count
from pipelines.evaluation.rates import rates
from pipelines.evaluation.settings import LEADERBOARD_VERSION
from pipelines.evaluation.shown import shown
from pipelines.stage import digest
from pipelines.store import Commit, DeltaStore, TableSpec
from pipelines.store.model_schemas import METRIC
from pipelines.store.schemas import (
    CHECKPOINTS,
    ISR_SCORES,
    LEADERBOARD,
    PROMOTIONS,
    TRAINING_SETS,
    TRYON_VIDEOS,
    VIDEO_METRICS,
)
from pipelines.store.studio_schemas import JUDGE_REPORTS
from pipelines.tryon.settings import WITHOUT_EFFECT

_SOURCES = (CHECKPOINTS, TRAINING_SETS, TRYON_VIDEOS, VIDEO_METRICS, ISR_SCORES, JUDGE_REPORTS, PROMOTIONS)
# Configurations, captions, rationales and decisions are most of what those tables hold, and are not shown here.
_OF_CHECKPOINT = ("checkpoint_id", "preset", "steps", "parent_checkpoint_id", "training_set_id", "final_loss")
_OF_TRYON = ("tryon_id", "video_id", "garment_id", "paired", "start_frame", "num_frames", "record", "status")
_OF_VERDICT = ("tryon_id", "action", "success", "judge", "judge_digest", "judge_kappa")
# The side-by-side video is for people: nothing measures it.
_NOT_COMPARED = WITHOUT_EFFECT | {"side_by_side_height"}


def higher_is_better(metric: str) -> bool:
    """Whether a larger value of a metric is the better one: similarities, not distances."""
    return metric == "ssim"


def write_leaderboard(store: DeltaStore, commit: Commit | None = None) -> list[dict[str, Any]]:
    """Gather the rows of all checkpoints and replace the table; returns them, best first.

    Args:
        store: The lake.
        commit: Provenance.
    """
    commit = Commit((commit or Commit()).run_id, LEADERBOARD_VERSION)
    rows = [row | {"created_at": datetime.now(UTC), "run_id": commit.run_id} for row in leaderboard_rows(store)]
    before = set(store.read(LEADERBOARD, ["preset"])["preset"].to_pylist())
    for preset in sorted(before | {r["preset"] for r in rows}):
        mine = [r for r in rows if r["preset"] == preset]
        store.replace(LEADERBOARD, pa.Table.from_pylist(mine, LEADERBOARD.schema), {"preset": preset}, commit)
    return rows


def read_leaderboard(store: DeltaStore) -> list[dict[str, Any]]:
    """Rows of the table as they were written, best first."""
    return best_first(store.read(LEADERBOARD).to_pylist())


def best_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in order: success rate, then LPIPS, then SSIM, then the younger one; what is not known comes last.

    Metrics of mode legacy do not count: they are for comparison with published figures.
    """

    def key(row: dict[str, Any]) -> tuple:
        values = {titled(m): m["value"] for m in row["metrics"]}
        wanted = (row["isr"], _negative(values.get("lpips")), values.get("ssim"))
        return (*((v is not None, v or 0.0) for v in wanted), row["trained_at"])

    return sorted(rows, key=key, reverse=True)


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def leaderboard_rows(store: DeltaStore, only: Collection[str] | None = None) -> list[dict[str, Any]]:
    """What the tables say of every checkpoint, best first; without `created_at` and `run_id`.

    Args:
        store: The lake.
        only: Checkpoints to read of; all by default.
    """
    versions = [(spec.name, store.version(spec)) for spec in _SOURCES]
    now = current_standing(store)
    where = {} if only is None else {"checkpoint_id": list(only)}
    sets = {
        r["training_set_id"]: r
        for r in store.read(TRAINING_SETS, ["training_set_id", "batches", "num_clips"]).to_pylist()
    }
    tryons = _by_checkpoint(store, TRYON_VIDEOS, _OF_TRYON, where)
    # Metrics of the set belong to no single try-on video; of those that do, only which one it is matters here.
    of_set = _by_checkpoint(store, VIDEO_METRICS, [f.name for f in METRIC], where | {"tryon_id": ""})
    of_videos = _by_checkpoint(store, VIDEO_METRICS, ("tryon_id", "mode"), where)
    verdicts = _by_checkpoint(store, ISR_SCORES, _OF_VERDICT, where)
    kappa = cache(partial(kappa_now, store))  # one look at the reports for all that one judge judged
    rows = []
    for checkpoint in store.read(CHECKPOINTS, [*_OF_CHECKPOINT, "weights_sha256", "created_at"], where).to_pylist():
        name = checkpoint["checkpoint_id"]
        training_set = sets.get(checkpoint["training_set_id"])
        dressed = tryons.get(name, [])
        mine = [t for t in dressed if t["status"] == "ok"]
        rows.append(
            {
                **{k: checkpoint[k] for k in (*_OF_CHECKPOINT, "weights_sha256")},
                "batches": training_set["batches"] if training_set else [],
                "num_clips": training_set["num_clips"] if training_set else None,
                "trained_at": checkpoint["created_at"],
                "tryon_videos": len(mine),
                "tryon_failures": len(dressed) - len(mine),
                "evaluation_digest": evaluation_digest(mine),
                "metrics": set_metrics(of_set.get(name, []), of_videos.get(name, []), [t["tryon_id"] for t in dressed]),
                **_isr(verdicts_that_count(verdicts.get(name, []), dressed), kappa),
                "is_current": name == now.current,
                "promoted_at": now.promoted_at.get(name),
                "table_versions": versions,
            }
        )
    return best_first(rows)


def _by_checkpoint(
    store: DeltaStore, spec: TableSpec, columns: Collection[str], where: dict[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    """checkpoint_id -> its rows, with these columns alone."""
    out: dict[str, list[dict[str, Any]]] = {}
    for row in store.read(spec, ["checkpoint_id", *columns], where or None).to_pylist():
        out.setdefault(row.pop("checkpoint_id"), []).append(row)
    return out


def evaluation_digest(tryons: list[dict[str, Any]]) -> str | None:
    """What identifies an evaluation set: which frames of which videos, annotated how, got which garments, by which
    settings.

    Two checkpoints can be compared where it is the same. None where no video was made.

    Args:
        tryons: Rows of `tryon_videos` with status ok.
    """
    if not tryons:
        return None
    parts = []
    for t in tryons:
        record = json.loads(t["record"])
        kept = {k: v for k, v in record.get("settings", {}).items() if k not in _NOT_COMPARED}
        # Other masks are other pixels to make, other captions other interactions to judge.
        annotated = record.get("fingerprints", {})
        shown = [t["video_id"], t["garment_id"], t["paired"], t["start_frame"], t["num_frames"]]
        parts.append([*shown, annotated, kept])
    return digest(sorted(parts, key=str))[:32]


def _isr(verdicts: list[dict[str, Any]], kappa: Callable[[str | None, float | None], float | None]) -> dict[str, Any]:
    """Success rate with its interval and judge, from the verdicts of one checkpoint."""
    if not verdicts:
        judge = dict.fromkeys(("judge", "judge_digest", "judge_kappa"))
        return judge | {"isr": None, "isr_low": None, "isr_high": None, "isr_judged": 0, "isr_unanswered": 0}
    overall = rates([(v["action"], v["success"]) for v in verdicts])[0]
    return {
        "isr": overall.rate,
        "isr_low": overall.low,
        "isr_high": overall.high,
        "isr_judged": overall.judged,
        "isr_unanswered": overall.unanswered,
        # The rows of a checkpoint are replaced together, so one judge gave them all.
        **{k: verdicts[0][k] for k in ("judge", "judge_digest")},
        "judge_kappa": kappa(verdicts[0]["judge_digest"], verdicts[0]["judge_kappa"]),
    }


def titled(metric: dict[str, Any]) -> str:
    """Name of a metric, with its mode unless that is `corrected`: values of two modes are two metrics."""
    return metric["metric"] if metric["mode"] == "corrected" else f"{metric['metric']} ({metric['mode']})"


def columns(row: dict[str, Any], names: list[str]) -> list[str]:
    """The cells of a row as people read them; `names` are the metrics shown, see `titled`."""
    of = {titled(m): m for m in row["metrics"]}
    isr = f"{shown(row['isr'], row['isr_low'], row['isr_high'])}, {row['isr_judged']} judged"
    kappa = "never validated" if row["judge_kappa"] is None else f"{row['judge_kappa']:.2f}"
    values = [of.get(n, {"value": None, "low": None, "high": None}) for n in names]
    parent = row["parent_checkpoint_id"]
    return [
        row["checkpoint_id"][:12] + (" (current)" if row["is_current"] else ""),
        row["preset"],
        str(row["steps"]),
        parent[:12] if parent else "–",
        row["training_set_id"][:12],
        isr if row["isr"] is not None else "–",
        kappa if row["isr"] is not None else "–",
        *(shown(m["value"], m["low"], m["high"], digits=3) for m in values),
        str(row["tryon_videos"]),
    ]


def heads(names: list[str]) -> list[str]:
    """The headings of `columns`."""
    return [
        "checkpoint",
        "preset",
        "steps",
        "parent",
        "training set",
        "ISR",
        "judge's kappa",
        *names,
        "try-on videos",
    ]


def shown_metrics(rows: list[dict[str, Any]]) -> list[str]:
    """Metrics that at least one row has a value of; the paired ones first."""
    found = {titled(m) for r in rows for m in r["metrics"] if m["value"] is not None}
    return sorted(found, key=lambda n: (n not in ("ssim", "lpips"), n))


def leaderboard_markdown(rows: list[dict[str, Any]]) -> str:
    """The leaderboard as a Markdown table, in the order of `rows`."""
    names = shown_metrics(rows)
    titles = heads(names)
    lines = [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]
    lines += [f"| {' | '.join(columns(row, names))} |" for row in rows]
    modes = sorted({m["mode"] for r in rows for m in r["metrics"] if m["mode"]})
    lines.append(f"\nMetrics in mode {', '.join(modes)}." if modes else "")
    if len({r["evaluation_digest"] for r in rows if r["evaluation_digest"]}) > 1:
        lines.append(
            "Not all rows were evaluated on the same videos with the same annotations: compare only those that were."
        )
    return "\n".join(lines).rstrip()
