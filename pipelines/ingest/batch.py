"""A landing folder becomes a batch: rows of `videos` and `garments`, and blobs.

Order of writes: blobs, then one commit of `garments`, then one of `videos`. A run that is killed leaves measured files
in staging and blobs that nothing names yet; the next run uses both.
"""

from __future__ import annotations

import base64
import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from platformdirs import user_cache_path

from pipelines.ingest.analyse import VideoAnalysis, analyse_video, verdict
from pipelines.ingest.garments import GarmentAnalysis, analyse_garment
from pipelines.ingest.inventory import Candidate, Inventory, Photo, take_inventory
from pipelines.ingest.landing import landing_folder
from pipelines.ingest.settings import CODE_VERSION, IngestSettings
from pipelines.ingest.workers import WorkerFailure, run_isolated
from pipelines.stage import Progress, digest
from pipelines.store import Commit, DeltaStore, TableSpec
from pipelines.store.schemas import GARMENTS, VIDEOS

_TRY_AGAIN = "try again"
"""Fingerprint of rows whose problem may be gone next time: it never matches."""


@dataclass
class IngestReport:
    """What ingestion made of a batch.

    Attributes:
        batch: The batch.
        rows: Rows of `videos`, of which `ok`, `rejected` and `errors`.
        reused: Rows of `videos` and `garments` that stood from an earlier run.
        garments: Rows of `garments`, of which `garment_errors` are errors.
        frames: Frames decoded by this run.
        problems: Source path -> reason, for every row that is not ok.
        ignored: Files that are neither videos nor photos.
        committed: Tables written.
        wall_seconds: Duration.
    """

    batch: str
    rows: int = 0
    ok: int = 0
    rejected: int = 0
    errors: int = 0
    reused: int = 0
    garments: int = 0
    garment_errors: int = 0
    frames: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    committed: list[str] = field(default_factory=list)
    wall_seconds: float = 0.0


def ingest_batch(
    store: DeltaStore,
    batch: str,
    settings: IngestSettings | None = None,
    *,
    commit: Commit | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> IngestReport:
    """Bring `videos` and `garments` of one batch in line with its landing folder.

    Files that did not change are not decoded again, and a table that would not change is not written. Whatever is
    wrong with a file or a manifest line is a row with the reason.

    Args:
        store: The lake.
        batch: Name of the batch and of its folder in the landing zone.
        settings: What makes a video usable.
        commit: Provenance; the code version is filled in.
        on_progress: Called after every file. The total of frames is an estimate until the end.

    Raises:
        LookupError: The batch has no landing folder, or nothing in it is a video, a photo or a manifest.
        ValueError: The name cannot name a batch.
        OSError: The lake cannot be written.
    """
    started = time.perf_counter()
    settings = settings or IngestSettings()
    folder = landing_folder(store, batch)
    if folder.is_symlink() or not folder.is_dir():
        raise LookupError(f"Batch {batch!r} has no landing folder {folder}: run `itryon ingest PATH --batch {batch}`")
    inventory = take_inventory(folder)
    if not inventory.videos and not inventory.photos:
        raise LookupError(f"{folder} holds no videos (known by their suffix, or named in manifest.jsonl)")
    run = _Run(store, batch, settings, on_progress, IngestReport(batch, ignored=inventory.ignored))
    commit = Commit((commit or Commit()).run_id, CODE_VERSION)
    garments = run.garments(inventory)
    run.write(GARMENTS, garments.values(), "garment_id", commit)
    videos = run.videos(inventory, garments)
    run.write(VIDEOS, videos, "source_path", commit)
    shutil.rmtree(run.staging, ignore_errors=True)
    run.report.wall_seconds = time.perf_counter() - started
    return run.report


class _Run:
    def __init__(
        self,
        store: DeltaStore,
        batch: str,
        settings: IngestSettings,
        on_progress: Callable[[Progress], None] | None,
        report: IngestReport,
    ):
        self.store, self.batch, self.settings, self.report = store, batch, settings, report
        self.on_progress = on_progress
        base = user_cache_path("itryon") / digest(store.root)[:16] if "://" in store.root else Path(store.root)
        self.staging = base / "staging" / "ingest" / batch
        self.kept: dict[str, set[str]] = {}

    def garments(self, inventory: Inventory) -> dict[str, dict[str, Any]]:
        """Rows of `garments` by the path of the photo."""
        known = self._known(GARMENTS, "garment_id")
        photos = {p.identity: p for p in inventory.photos.values()}
        prints = {i: self._garment_fingerprint(p) for i, p in photos.items()}
        rows = {i: known[i] for i, p in photos.items() if known.get(i, {}).get("fingerprint") == prints[i]}
        self.kept["garments"] = set(rows)
        tasks = {}
        for i, p in photos.items():
            if i not in rows and p.file and not p.problem and not (p.mask and p.mask.problem):
                mask = str(p.mask.file.location) if p.mask and p.mask.file else None
                tasks[i] = (analyse_garment, (str(p.file.location), mask, self.settings))
        done = self._measure("garment", tasks, prints)
        for i, photo in photos.items():
            if i not in rows:
                rows[i] = self._garment_row(photo, done.get(i), prints[i])
        return {key: rows[p.identity] for key, p in inventory.photos.items()}

    def videos(self, inventory: Inventory, garments: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """Rows of `videos`."""
        known = self._known(VIDEOS, "source_path")
        prints = {v.path: self._video_fingerprint(v, garments) for v in inventory.videos}
        rows = {p: known[p] for p in prints if known.get(p, {}).get("fingerprint") == prints[p]}
        self.kept["videos"] = set(rows)
        fresh = [v for v in inventory.videos if v.path not in rows]
        readable = [v for v in fresh if v.file and not v.problem and not v.copy_of]
        readable.sort(key=lambda v: -v.file.size if v.file else 0)
        tasks = {v.path: (analyse_video, (str(v.file.location), self.settings)) for v in readable if v.file}
        sizes = {v.path: v.file.size for v in readable if v.file}
        done = self._measure("video", tasks, {v.path: prints[v.path] for v in readable}, sizes)
        for video in fresh:
            rows[video.path] = self._video_row(video, done.get(video.path), prints[video.path], garments)
        for video in inventory.videos:
            if video.copy_of:
                rows[video.path]["uri"] = rows[video.copy_of]["uri"]
        return list(rows.values())

    # --- measuring ----------------------------------------------------------------------------------------------

    def _measure(
        self, kind: str, tasks: dict[str, Any], prints: dict[str, str], sizes: dict[str, int] | None = None
    ) -> dict[str, dict[str, Any] | WorkerFailure]:
        """Run tasks in workers; what finished before a kill is read from staging."""
        self.staging.mkdir(parents=True, exist_ok=True)
        done: dict[str, dict[str, Any] | WorkerFailure] = {}
        frames, size = 0, 0

        def tell(key: str | None = None) -> None:
            nonlocal frames, size
            if sizes is None:
                return
            if key is not None:
                size += sizes[key]
                result = done[key]
                frames += 0 if isinstance(result, WorkerFailure) else result["num_frames"] or 0
            total = round(frames * sum(sizes.values()) / size) if size else 0
            if self.on_progress:
                self.on_progress(Progress("videos", len(done), len(tasks), frames, max(frames, total)))

        tell()
        for key in tasks:
            if (saved := _load(self._staged(kind, prints[key]))) is not None:
                done[key] = saved
                tell(key)
        todo = {k: t for k, t in tasks.items() if k not in done}
        for key, result in run_isolated(todo, self.settings.workers, self.settings.timeout_s):
            done[key] = result
            if not isinstance(result, WorkerFailure):
                _save(self._staged(kind, prints[key]), result)
                self.report.frames += result.get("num_frames") or 0
            tell(key)
        return done

    def _staged(self, kind: str, fingerprint: str) -> Path:
        return self.staging / f"{kind}-{fingerprint}.json"

    # --- rows ---------------------------------------------------------------------------------------------------

    def _garment_fingerprint(self, p: Photo) -> str:
        if p.transient or (p.mask and p.mask.transient):
            return _TRY_AGAIN
        mask = (p.mask.sha256, p.mask.problem) if p.mask else None
        return self._fingerprint("garment", p.path, p.sha256, p.problem, mask, p.category, p.caption)

    def _video_fingerprint(self, v: Candidate, garments: dict[str, dict[str, Any]]) -> str:
        if v.transient:
            return _TRY_AGAIN
        entry = v.entry
        worn = [garments.get(g, {}).get("fingerprint") for g in (entry.garment, entry.tryon_garment)] if entry else None
        error = v.line.error if v.line else None
        label = entry.as_json() if entry else None
        return self._fingerprint("video", v.path, v.sha256, v.problem, v.copy_of, error, label, worn)

    def _fingerprint(self, *parts: Any) -> str:
        return digest(CODE_VERSION, self.settings.content(), *parts)[:32]

    def _garment_row(self, photo: Photo, result: Any, fingerprint: str) -> dict[str, Any]:
        row: dict[str, Any] = {
            "batch": self.batch,
            "garment_id": photo.identity,
            "source_path": photo.path,
            "sha256": photo.sha256,
            "category": photo.category or self.settings.default_category,
            "caption": photo.caption,
            "source": "photo",
            "status": "error",
            "fingerprint": fingerprint,
        }
        problem = photo.problem or (photo.mask and photo.mask.problem and f"Its mask: {photo.mask.problem}")
        if problem:
            return row | {"reason": problem}
        if isinstance(result, WorkerFailure):
            return row | {"reason": result.reason, "fingerprint": _TRY_AGAIN}
        analysis = GarmentAnalysis(**result)
        row |= {k: getattr(analysis, k) for k in ("width", "height", "foreground_fraction")}
        if analysis.error:
            return row | {"reason": analysis.error}
        uri, problem = self._keep_blob(photo)
        if problem:
            return row | {"reason": problem, "fingerprint": _TRY_AGAIN}
        return row | {
            "uri": uri,
            "mask_uri": self.store.blobs.put_bytes(analysis.mask_png or b"", ".png"),
            "status": "ok",
        }

    def _video_row(
        self, video: Candidate, result: Any, fingerprint: str, garments: dict[str, dict[str, Any]]
    ) -> dict[str, Any]:
        row: dict[str, Any] = {
            "batch": self.batch,
            "video_id": video.identity,
            "source_path": video.path,
            "sha256": video.sha256,
            "bytes": video.file.size if video.file and not video.file.refused else None,
            "garment_category": _category_of(video, garments) or self.settings.default_category,
            "uri": None,
            "status": "error",
            "fingerprint": fingerprint,
        }
        if entry := video.entry:
            row |= {
                "split": entry.split,
                "global_caption": entry.global_caption,
                "manifest": entry.as_json(),
                "garment_id": garments.get(entry.garment or "", {}).get("garment_id"),
                "tryon_garment_id": garments.get(entry.tryon_garment or "", {}).get("garment_id"),
            }
        if video.problem:
            return row | {"reason": video.problem}
        if video.copy_of:
            reason = f"Has the same bytes as {video.copy_of!r}, which is kept"
            return row | {"status": "rejected", "reason": reason, "duplicate_of": video.identity}
        if isinstance(result, WorkerFailure):
            return row | {"reason": result.reason, "fingerprint": _TRY_AGAIN}
        analysis = VideoAnalysis(**result)
        row |= {k: v for k, v in result.items() if k not in ("error", "missing_frames")}
        row["status"], row["reason"] = verdict(analysis, self.settings)
        if row["status"] == "ok" and (wrong := _wrong_label(video, analysis, garments)):
            row["status"], row["reason"] = "rejected", wrong
        if row["status"] != "error":
            row["uri"], problem = self._keep_blob(video)
            if problem:
                row |= {"status": "error", "reason": problem, "fingerprint": _TRY_AGAIN}
        return row

    def _keep_blob(self, candidate: Candidate) -> tuple[str | None, str | None]:
        """(uri, problem) of the file's bytes in the blob store."""
        assert candidate.file is not None
        suffix = Path(candidate.path).suffix.lower()
        suffix = suffix if suffix[1:].isascii() and suffix[1:].isalnum() and len(suffix) <= 8 else ""
        try:
            uri = self.store.blobs.put_file(candidate.file.location, suffix)
        except (FileNotFoundError, PermissionError) as e:
            return None, f"Could not be stored ({e.strerror}); run again"
        if uri != self.store.blobs.uri_for(candidate.sha256 or "", suffix):
            return None, "Changed while it was being read; run again once it is complete"
        return uri, None

    # --- tables -------------------------------------------------------------------------------------------------

    def _known(self, spec: TableSpec, key: str) -> dict[str, dict[str, Any]]:
        return {r[key]: r for r in self.store.read(spec, where={"batch": self.batch}).to_pylist()}

    def write(self, spec: TableSpec, rows: Iterable[dict[str, Any]], key: str, commit: Commit) -> None:
        """Replace the batch's rows, unless all of them stand; and count them."""
        unique = {r[key]: r for r in rows}
        known = set(self.store.read(spec, [key], {"batch": self.batch})[key].to_pylist())
        if set(unique) != known or self.kept[spec.name] != known:
            table = pa.Table.from_pylist([unique[k] for k in sorted(unique)], spec.schema)
            self.store.replace(spec, table, {"batch": self.batch}, commit)
            self.report.committed.append(spec.name)
        report = self.report
        report.reused += len(self.kept[spec.name])
        report.problems |= {r["source_path"]: r["reason"] for r in unique.values() if r["status"] != "ok"}
        counts = {s: sum(r["status"] == s for r in unique.values()) for s in ("ok", "rejected", "error")}
        if spec is GARMENTS:
            report.garments, report.garment_errors = len(unique), counts["error"]
        else:
            report.rows, report.ok, report.rejected, report.errors = len(unique), *counts.values()


def _category_of(video: Candidate, garments: dict[str, dict[str, Any]]) -> str | None:
    if (entry := video.entry) is not None:
        if entry.garment_category:
            return entry.garment_category
        if entry.garment in garments:
            return garments[entry.garment]["category"]
    folders = Path(video.path).parts[:-1]
    return next((p for p in folders if p in ("upper_body", "lower_body", "dresses")), None)


def _wrong_label(video: Candidate, a: VideoAnalysis, garments: dict[str, dict[str, Any]]) -> str | None:
    """What the manifest says of a video that cannot be so."""
    line = video.line
    if line is None:
        return None
    if line.error or line.entry is None:
        return f"{line.source}: {line.error}"
    for name in (line.entry.garment, line.entry.tryon_garment):
        if name is None:
            continue
        if name not in garments:
            return f"{line.source}: there is no garment photo {name!r} in the landing folder"
        if garments[name]["status"] != "ok":
            return f"{line.source}: garment photo {name!r} cannot be used: {garments[name]['reason']}"
    duration, frame = a.duration_s or 0.0, 1 / (a.fps or 25.0)
    for span in line.entry.actions:
        if span.end_s > duration + frame:
            return (
                f"{line.source}: action {span.action} from {span.start_s:g} to {span.end_s:g} s lies outside of the "
                f"video, which is {duration:.3f} s long"
            )
    return None


def _save(path: Path, result: dict[str, Any]) -> None:
    plain = {k: {"base64": base64.b64encode(v).decode()} if isinstance(v, bytes) else v for k, v in result.items()}
    temporary = path.with_suffix(f".{uuid.uuid4().hex}.tmp")
    temporary.write_text(json.dumps(plain), "utf-8")
    temporary.replace(path)


def _load(path: Path) -> dict[str, Any] | None:
    try:
        plain = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return {k: base64.b64decode(v["base64"]) if isinstance(v, dict) else v for k, v in plain.items()}
