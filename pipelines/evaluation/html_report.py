"""A report of one checkpoint that a browser opens from a folder: no server, no resources from elsewhere.

Videos and evidence pictures are copied beside the page and named by relative paths. What failed comes first. Every text
that comes from a video, a caption or a judge is escaped by the template.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from pipelines.checkpoints.current import decisions
from pipelines.checkpoints.lineage import lineage
from pipelines.checkpoints.train import CheckpointMissing, find_checkpoint
from pipelines.checks import FAIR_KAPPA
from pipelines.evaluation.judges.validation import newest_validation
from pipelines.evaluation.leaderboard import higher_is_better, leaderboard_rows
from pipelines.evaluation.rates import OVERALL, clip_rates, rates, votes_rate
from pipelines.evaluation.values import network_shown
from pipelines.store import DeltaStore
from pipelines.store.schemas import GARMENTS, ISR_SCORES, TRYON_VIDEOS, VIDEO_METRICS, VIDEOS
from pipelines.store.studio_schemas import JUDGE_REPORTS

PAGE = "index.html"


@dataclass(frozen=True)
class HtmlReport:
    """What was written.

    Attributes:
        page: The page to open.
        videos: Side-by-side videos beside it.
        missing: Files that the lake names and does not hold.
    """

    page: Path
    videos: int
    missing: list[str]


def write_report(store: DeltaStore, checkpoint_id: str, folder: Path) -> HtmlReport:
    """Write the report of a checkpoint.

    Args:
        store: The lake.
        checkpoint_id: Checkpoint.
        folder: Where to; made if it is not there. Files of an earlier report are replaced.

    Raises:
        CheckpointMissing: There is no such checkpoint.
        OSError: The folder cannot be written.
    """
    checkpoint = find_checkpoint(store, checkpoint_id)
    if checkpoint is None:
        raise CheckpointMissing(f"There is no checkpoint {checkpoint_id!r}: `itryon leaderboard` lists those there are")
    (row,) = leaderboard_rows(store, [checkpoint_id])
    folder.mkdir(parents=True, exist_ok=True)
    files = _Files(store, folder)
    videos = _videos(store, checkpoint_id, files)
    verdicts = [v for video in videos for v in video["verdicts"]]
    environment = Environment(
        loader=PackageLoader("pipelines.evaluation"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["network"] = network_shown
    environment.filters["moment"] = lambda at: at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    text = environment.get_template("report.html").render(
        row=row,
        computed=sorted((m for m in row["metrics"] if m["value"] is not None), key=lambda m: m["metric"]),
        not_computed=[m for m in row["metrics"] if m["value"] is None],
        better={m["metric"]: "higher" if higher_is_better(m["metric"]) else "lower" for m in row["metrics"]},
        kappas=kappas_by_action(store, row["judge_digest"]) | {OVERALL: row["judge_kappa"]},
        fair_kappa=FAIR_KAPPA,
        config=json.dumps(json.loads(checkpoint["config"]), indent=1, sort_keys=True),
        # Verdicts on other videos than those there are now do not count, see the leaderboard.
        rates=rates([(v["action"], v["success"]) for v in verdicts]) if row["judge"] else [],
        videos=videos,
        lineage=lineage(store, checkpoint_id),
        decisions=[d for d in decisions(store) if checkpoint_id in (d["checkpoint_id"], d["previous_checkpoint_id"])],
    )
    page = folder / PAGE
    temporary = page.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(page)
    return HtmlReport(page, files.copied_videos, files.missing)


def kappas_by_action(store: DeltaStore, judge_digest: str | None) -> dict[str, float | None]:
    """Action -> the judge's agreement with known truth on it, from its newest report; none without one."""
    validation = newest_validation(store, judge_digest)
    if validation.batch is None:
        return {}
    look = "rendered" if "rendered" in validation.rows else next(iter(validation.rows))
    where = {"batch": validation.batch, "judge_digest": judge_digest}
    return {
        r["split"].removeprefix("action="): r["value"]
        for r in store.read(JUDGE_REPORTS, ["metric", "pictures", "split", "value"], where).to_pylist()
        if r["metric"] == "kappa" and r["pictures"] == look and r["split"].startswith("action=")
    }


class _Files:
    """Blobs of the lake as files beside the page."""

    def __init__(self, store: DeltaStore, folder: Path):
        self.store, self.folder = store, folder
        self.copied_videos = 0
        self.missing: list[str] = []

    def copy(self, uri: str | None, below: str, stem: str) -> str | None:
        """Path relative to the page; None without a blob, or where the lake has lost it."""
        if not uri:
            return None
        target = self.folder / below / f"{stem}{Path(uri).suffix}"
        target.parent.mkdir(exist_ok=True)
        try:
            shutil.copyfile(self.store.blobs.local_path(uri), target)
        except FileNotFoundError:
            self.missing.append(uri)
            return None
        self.copied_videos += below == "videos"
        return f"{below}/{target.name}"


def _videos(store: DeltaStore, checkpoint_id: str, files: _Files) -> list[dict[str, Any]]:
    """Try-on videos with their verdicts and metrics: those that failed first, then those with a failed interaction."""
    where = {"checkpoint_id": checkpoint_id}
    names = {v["video_id"]: v["source_path"] for v in store.read(VIDEOS, ["video_id", "source_path"]).to_pylist()}
    photos = store.read(GARMENTS, ["garment_id", "source_path"]).to_pylist()
    garments = {g["garment_id"]: g["source_path"].rsplit("/", 1)[-1] for g in photos}
    verdicts = _grouped(store.read(ISR_SCORES, where=where).to_pylist())
    metrics = _grouped(store.read(VIDEO_METRICS, where=where).to_pylist())
    out = []
    for tryon in store.read(TRYON_VIDEOS, where=where).to_pylist():
        tryon_id = tryon["tryon_id"]
        mine = sorted(verdicts.get(tryon_id, []), key=lambda v: (_rank(v["success"]), v["start_frame"]))
        out.append(
            {k: tryon[k] for k in ("tryon_id", "video_id", "garment_id", "paired", "status", "reason")}
            | {"start_frame": tryon["start_frame"], "num_frames": tryon["num_frames"]}
            | {
                "name": names.get(tryon["video_id"], "no longer in the lake"),
                "garment": garments.get(tryon["garment_id"], tryon["garment_id"]),
                "side_by_side": files.copy(tryon["side_by_side_uri"], "videos", tryon_id),
                "metrics": metrics.get(tryon_id, []),
                "rate": clip_rates([(tryon_id, v["success"]) for v in mine]).get(tryon_id),
                "verdicts": [
                    v
                    | {
                        "evidence": files.copy(v["evidence_uri"], "evidence", f"{tryon_id}-{i}"),
                        "voted": votes_rate(v["votes"] or []),
                    }
                    for i, v in enumerate(mine)
                ],
            }
        )

    def order(video: dict[str, Any]) -> tuple:
        worst = min((_rank(v["success"]) for v in video["verdicts"]), default=2)
        return video["status"] == "ok", worst, video["name"], video["tryon_id"]

    return sorted(out, key=order)


def _rank(success: bool | None) -> int:
    return {False: 0, None: 1, True: 2}[success]


def _grouped(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    out: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        out.setdefault(row["tryon_id"], []).append(row)
    return out
