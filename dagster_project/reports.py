"""What the command line prints: the state of the lake and the outcome of a run."""

from __future__ import annotations

from collections import Counter
from typing import Any

import dagster as dg
import pyarrow.compute as pc
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.evaluation.judges.validation import newest_validation
from pipelines.registry import STAGES
from pipelines.store import TABLES, DeltaStore
from pipelines.store.schemas import CHECKPOINTS, GARMENTS, ISR_SCORES, STAGE_STATUS, TRYON_VIDEOS, VIDEOS


def selected(asset: str, upstream: bool) -> list[str]:
    """The asset with those that are only made together with it, and all they depend on if wanted.

    Raises:
        LookupError: There is no such asset; the message lists those there are.
    """
    from dagster_project.build import build_defs

    graph = build_defs().resolve_asset_graph()
    key = dg.AssetKey(asset)
    if key not in graph.get_all_asset_keys():
        known = ", ".join(sorted(k.to_user_string() for k in graph.get_all_asset_keys()))
        raise LookupError(f"there is no asset {asset!r}; assets: {known}")
    just = dg.AssetSelection.assets(key)
    selection = (just.upstream() if upstream else just).required_multi_asset_neighbors()
    return [k.to_user_string() for k in selection.resolve(graph)]


def lake_status(store: DeltaStore) -> dict[str, Any]:
    """Counts of what is in the lake, ready for JSON."""
    store.ensure_tables()
    batches: dict[str, dict[str, Any]] = {}
    for row in store.read(VIDEOS, ["batch", "status", "num_frames"]).to_pylist():
        entry = batches.setdefault(row["batch"], {"videos": Counter(), "frames": 0, "garments": 0, "stages": {}})
        entry["videos"][row["status"]] += 1
        entry["frames"] += (row["num_frames"] or 0) if row["status"] == "ok" else 0
    for row in store.read(GARMENTS, ["batch"]).to_pylist():
        if row["batch"] in batches:
            batches[row["batch"]]["garments"] += 1
    for row in store.read(STAGE_STATUS, ["batch", "stage", "status", "rows"]).to_pylist():
        if row["batch"] in batches:
            stage = batches[row["batch"]]["stages"].setdefault(row["stage"], {"ok": 0, "error": 0, "rows": 0})
            stage[row["status"]] += 1
            stage["rows"] += row["rows"]
    isr = store.read(ISR_SCORES, ["checkpoint_id", "success", "judge", "judge_digest", "judge_kappa"])
    checkpoints = []
    for row in store.read(CHECKPOINTS, ["checkpoint_id", "preset", "steps", "final_loss", "created_at"]).to_pylist():
        verdicts = isr.filter(pc.equal(isr["checkpoint_id"], row["checkpoint_id"]))
        mine = verdicts["success"].drop_null().to_pylist()
        # The rows of a checkpoint are replaced together, so one judge gave them all.
        judge, judge_digest, kappa = (
            verdicts[c][0].as_py() if len(verdicts) else None for c in ("judge", "judge_digest", "judge_kappa")
        )
        validation = newest_validation(store, judge_digest)
        tryons = store.read(TRYON_VIDEOS, ["status"], {"checkpoint_id": row["checkpoint_id"]}).num_rows
        checkpoints.append(
            {
                **row,
                "created_at": row["created_at"].isoformat(),
                "tryon_videos": tryons,
                "isr": sum(mine) / len(mine) if mine else None,
                "isr_judged": len(mine),
                "judge": judge,
                "judge_kappa": validation.kappa_or(kappa),
                "judge_agreement": validation.text if judge else None,
            }
        )
    return {
        "lake": store.root,
        "batches": {k: {**v, "videos": dict(v["videos"])} for k, v in sorted(batches.items())},
        "checkpoints": sorted(checkpoints, key=lambda c: c["created_at"]),
        "tables": {name: store.version(spec) for name, spec in TABLES.items()},
    }


def print_status(report: dict[str, Any], console: Console) -> None:
    """The state of the lake as tables."""
    console.print(f"lake {report['lake']}", highlight=False)
    table = Table("batch", "videos", "frames", *STAGES, title="Batches (videos done, in red those that failed)")
    for batch, entry in report["batches"].items():
        videos = ", ".join(f"{count} {status}" for status, count in sorted(entry["videos"].items(), reverse=True))
        cells = []
        for name in STAGES:
            stage = entry["stages"].get(name)
            failed = f" [red]{stage['error']}[/]" if stage and stage["error"] else ""
            cells.append(f"{stage['ok']}{failed}" if stage else "-")
        table.add_row(escape(batch), videos, str(entry["frames"]), *cells)
    console.print(table)
    if report["checkpoints"]:
        heads = ("checkpoint", "preset", "steps", "loss", "try-on videos", "ISR", "judge's kappa")
        table = Table(*heads, title="Checkpoints")
        for c in report["checkpoints"]:
            isr = f"{c['isr']:.2f} of {c['isr_judged']}" if c["isr"] is not None else "-"
            row = (c["checkpoint_id"][:12], c["preset"], str(c["steps"]), f"{c['final_loss']:.4f}")
            kappa = (
                "-"
                if c["isr"] is None
                else "never validated"
                if c["judge_kappa"] is None
                else f"{c['judge_kappa']:.2f}"
            )
            table.add_row(*row, str(c["tryon_videos"]), isr, kappa)
        console.print(table)
        for judge, agreement in dict.fromkeys((c["judge"], c["judge_agreement"]) for c in report["checkpoints"]):
            if judge:
                console.print(f"judge {escape(judge)}: {agreement}", highlight=False)


def print_videos(store: DeltaStore, batch: str, console: Console) -> None:
    """The rows of `videos` of one batch, with what is wrong; nothing where there are none."""
    table = Table("file", "size", "fps", "frames", "status", "reason", title=f"videos of {batch}")
    for v in store.read(VIDEOS, where={"batch": batch}).to_pylist():
        size = f"{v['width']}x{v['height']}" if v["width"] else ""
        fps = f"{v['fps']:.2f}" if v["fps"] else ""
        colour = {"ok": "green", "rejected": "yellow", "error": "red"}[v["status"]]
        status = f"[{colour}]{v['status']}[/]"
        name, reason = escape(v["source_path"]), escape(v["reason"] or "")
        table.add_row(name, size, fps, str(v["num_frames"] or ""), status, reason)
    if table.row_count:
        console.print(table)


def metadata_of(result: dg.ExecuteInProcessResult, asset: str, key: str) -> Any:
    """A metadata value of what a run made of an asset; None where there is none."""
    for event in result.get_asset_materialization_events():
        made = event.step_materialization_data.materialization
        if made.asset_key.to_user_string() == asset and key in made.metadata:
            return made.metadata[key].value
    return None


def print_run(result: dg.ExecuteInProcessResult, console: Console) -> None:
    """What a run made: one line an asset, and the checks that failed."""
    table = Table("asset", "rows", "frames/s", "seconds", "note", title=f"run {result.run_id[:8]}")
    for event in result.get_asset_materialization_events():
        made = event.step_materialization_data.materialization
        meta = {k: v.value for k, v in made.metadata.items()}
        note = []
        if meta.get("videos_failed"):
            note.append(f"[red]{meta['videos_failed']} videos failed[/]")
        if meta.get("videos_reused"):
            note.append(f"{meta['videos_reused']} videos up to date")
        cells = [meta.get(k) for k in ("dagster/row_count", "frames_per_second", "wall_seconds")]
        table.add_row(made.asset_key.to_user_string(), *("" if c is None else str(c) for c in cells), ", ".join(note))
    if table.row_count:
        console.print(table)
    for event in result.filter_events(lambda e: e.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        check = event.asset_check_evaluation_data
        if not check.passed:
            name = f"{check.asset_key.to_user_string()}.{check.check_name}"
            word = "[red]check failed[/]" if check.severity == dg.AssetCheckSeverity.ERROR else "[yellow]warning[/]"
            console.print(f"{word} {name}: {escape(str(check.description))}", highlight=False)
    for event in result.filter_events(lambda e: e.event_type == dg.DagsterEventType.STEP_FAILURE):
        error = event.step_failure_data.error
        # Below Dagster's own wrapper lies what the step raised; what that came from says less of what to do.
        while error is not None and error.cause is not None and (error.cls_name or "").startswith("Dagster"):
            error = error.cause
        reason = error.message.strip() if error is not None else "no reason recorded"
        console.print(f"[red]{event.step_key} failed[/] {escape(reason)}", highlight=False)
