"""A landing folder becomes a batch: rows of `videos` and `garments`, and blobs.

Order of writes: blobs, then one commit of `garments`, then one of `videos`. A run that is killed leaves measured files
in staging and blobs that nothing names yet; the next run uses both.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.ingest.analyse import VideoAnalysis, analyse_video, verdict
from pipelines.ingest.garments import GarmentAnalysis, analyse_garment
from pipelines.ingest.inventory import Candidate, Inventory, Photo, take_inventory
from pipelines.ingest.labels import category_of, wrong_label
from pipelines.ingest.landing import landing_folder
from pipelines.ingest.settings import CODE_VERSION, IngestSettings
from pipelines.ingest.staging import load, save
from pipelines.ingest.workers import WorkerFailure, run_isolated
from pipelines.stage import Progress, digest
from pipelines.stage.base import scratch
from pipelines.stage.turns import turn
from pipelines.store import Commit, DeltaStore, TableSpec
from pipelines.store.errors import LakeError, explained
from pipelines.store.leftovers import remove_leftovers_daily
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
        committed: Tables written.
        data_versions: Table -> digest of what its rows say, whenever they were written.
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
    committed: list[str] = field(default_factory=list)
    data_versions: dict[str, str] = field(default_factory=dict)
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
    commit = Commit((commit or Commit()).run_id, CODE_VERSION)
    with explained(store.root, f"Batch {batch}"), turn(store, "videos", batch):
        inventory = take_inventory(folder)
        if not inventory.videos and not inventory.photos:
            raise LookupError(f"{folder} holds no videos (known by their suffix, or named in manifest.jsonl)")
        run = _Run(store, batch, settings, on_progress, IngestReport(batch))
        garments, videos = run.rows(inventory)
        run.write(GARMENTS, garments, "garment_id", commit)
        run.write(VIDEOS, videos, "source_path", commit)
        shutil.rmtree(run.staging, ignore_errors=True)
    remove_leftovers_daily(store, scratch(store))
    run.report.wall_seconds = time.perf_counter() - started
    return run.report


def staging_folder(store: DeltaStore, batch: str) -> Path:
    """Where measurements of a batch's files wait for their commit."""
    return scratch(store) / "staging" / "ingest" / batch


def measurement_key(candidate: Candidate, settings: IngestSettings) -> str:
    """What a measurement depends on, and is staged by: content and settings, not labels."""
    mask = candidate.mask.sha256 if isinstance(candidate, Photo) and candidate.mask else None
    return _fingerprint(settings, type(candidate).__name__, candidate.sha256, mask)


def _fingerprint(settings: IngestSettings, *parts: Any) -> str:
    return digest(CODE_VERSION, settings.content(), *parts)[:32]


@dataclass(frozen=True)
class _Task:
    key: str
    function: Callable[..., dict[str, object]]
    arguments: tuple[Any, ...]
    size: int | None = None
    """Bytes of a video; None for a photo, which progress does not count."""


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
        self.staging = staging_folder(store, batch)
        self.kept: dict[str, set[str]] = {}

    def rows(self, inventory: Inventory) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Rows of `garments` and of `videos`: those that stand, and new ones."""
        photos = {p.identity: p for p in inventory.photos.values()}
        photo_prints = {i: self._garment_fingerprint(p) for i, p in photos.items()}
        by_path = {key: photo_prints[p.identity] for key, p in inventory.photos.items()}
        prints = {v.path: self._video_fingerprint(v, by_path) for v in inventory.videos}
        garments = self._standing(GARMENTS, "garment_id", photo_prints)
        videos = self._standing(VIDEOS, "source_path", prints)
        new_photos = {i: p for i, p in photos.items() if i not in garments}
        new_videos = {v.path: v for v in inventory.videos if v.path not in videos}

        tasks = [
            _Task(self._key(p), analyse_garment, arguments)
            for p in new_photos.values()
            if (arguments := self._arguments(p))
        ]
        readable = [v for v in new_videos.values() if v.file and not v.problem and not v.copy_of]
        # Largest first, so that the last worker is not left alone with the largest.
        for v in sorted(readable, key=lambda v: -v.file.size if v.file else 0):
            assert v.file is not None
            tasks.append(_Task(self._key(v), analyse_video, (str(v.file.location), self.settings), v.file.size))
        measured = self._measure(tasks)

        for i, photo in new_photos.items():
            garments[i] = self._garment_row(photo, measured.get(self._key(photo)), photo_prints[i])
        at = {key: garments[p.identity] for key, p in inventory.photos.items()}
        for path, video in new_videos.items():
            row = self._video_row(video, measured.get(self._key(video)), prints[path], at)
            category = category_of(video, inventory.photos) or self.settings.default_category
            videos[path] = row | {"garment_category": category}
        for video in inventory.videos:
            if video.copy_of:
                videos[video.path]["uri"] = videos[video.copy_of]["uri"]
        return list(garments.values()), list(videos.values())

    # --- measuring ----------------------------------------------------------------------------------------------

    def _arguments(self, photo: Photo) -> tuple[Any, ...] | None:
        if photo.problem or photo.file is None or (photo.mask and photo.mask.problem):
            return None
        mask = str(photo.mask.file.location) if photo.mask and photo.mask.file else None
        return str(photo.file.location), mask, self.settings

    def _key(self, candidate: Candidate) -> str:
        return measurement_key(candidate, self.settings)

    def _measure(self, tasks: list[_Task]) -> dict[str, dict[str, Any] | WorkerFailure]:
        """Key -> result. Tasks run in workers; what finished before a kill is read from staging."""
        self.staging.mkdir(parents=True, exist_ok=True)
        done: dict[str, dict[str, Any] | WorkerFailure] = {}
        sizes = {t.key: t.size for t in tasks if t.size is not None}

        def tell() -> None:
            seen = [k for k in done if k in sizes]
            frames = sum(r["num_frames"] or 0 for k in seen if not isinstance(r := done[k], WorkerFailure))
            share = sum(sizes[k] for k in seen) / (sum(sizes.values()) or 1)
            if self.on_progress:
                total = round(frames / share) if share else 0
                self.on_progress(Progress("videos", len(seen), len(sizes), frames, max(frames, total)))

        done |= {t.key: saved for t in tasks if (saved := load(self.staging / f"{t.key}.json")) is not None}
        tell()
        todo = {t.key: (t.function, t.arguments) for t in tasks if t.key not in done}
        for key, result in run_isolated(todo, self.settings.workers, self.settings.timeout_s, self.settings.memory_gb):
            done[key] = result
            if not isinstance(result, WorkerFailure):
                save(self.staging / f"{key}.json", result)
                self.report.frames += result.get("num_frames") or 0
            tell()
        return done

    # --- rows ---------------------------------------------------------------------------------------------------

    def _garment_fingerprint(self, p: Photo) -> str:
        if p.transient or (p.mask and p.mask.transient):
            return _TRY_AGAIN
        mask = (p.mask.sha256, p.mask.problem) if p.mask else None
        return self._fingerprint("garment", p.path, p.sha256, p.problem, mask, p.category, p.caption)

    def _video_fingerprint(self, v: Candidate, garments: dict[str, str]) -> str:
        entry = v.entry
        worn = [garments.get(g) for g in _photos_of(v)]
        if v.transient or _TRY_AGAIN in worn:
            return _TRY_AGAIN
        error = v.line.error if v.line else None
        label = entry.as_json() if entry else None
        return self._fingerprint("video", v.path, v.sha256, v.problem, v.copy_of, error, label, worn)

    def _fingerprint(self, *parts: Any) -> str:
        return _fingerprint(self.settings, *parts)

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
        if any(garments[g]["fingerprint"] == _TRY_AGAIN for g in _photos_of(video) if g in garments):
            row["fingerprint"] = _TRY_AGAIN
        if row["status"] == "ok" and (wrong := wrong_label(video, analysis, garments)):
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
        except LakeError:
            raise
        except OSError as e:
            return None, f"Could not be stored ({e.strerror or e}); run again"
        if uri != self.store.blobs.uri_for(candidate.sha256 or "", suffix):
            return None, "Changed while it was being read; run again once it is complete"
        return uri, None

    # --- tables -------------------------------------------------------------------------------------------------

    def _standing(self, spec: TableSpec, key: str, prints: dict[str, str]) -> dict[str, dict[str, Any]]:
        known = self.store.read(spec, where={"batch": self.batch}).to_pylist()
        standing = {r[key]: r for r in known if prints.get(r[key]) == r["fingerprint"] != _TRY_AGAIN}
        # A row whose bytes are gone is made again, from the landing folder.
        missing = self.store.blobs.missing(u for r in standing.values() for u in (r["uri"], r.get("mask_uri")))
        standing = {k: r for k, r in standing.items() if not {r["uri"], r.get("mask_uri")} & missing}
        self.kept[spec.name] = set(standing)
        return standing

    def write(self, spec: TableSpec, rows: Iterable[dict[str, Any]], key: str, commit: Commit) -> None:
        """Replace the batch's rows, unless all of them stand; and count them."""
        unique = {r[key]: r for r in rows}
        known = set(self.store.read(spec, [key], {"batch": self.batch})[key].to_pylist())
        if set(unique) != known or self.kept[spec.name] != known:
            table = pa.Table.from_pylist([unique[k] for k in sorted(unique)], spec.schema)
            self.store.replace(spec, table, {"batch": self.batch}, commit)
            self.report.committed.append(spec.name)
        report = self.report
        content = sorted((k, r["status"], r["fingerprint"]) for k, r in unique.items())
        report.data_versions[spec.name] = digest(content)[:32]
        report.reused += len(self.kept[spec.name])
        report.problems |= {r["source_path"]: r["reason"] for r in unique.values() if r["status"] != "ok"}
        counts = {s: sum(r["status"] == s for r in unique.values()) for s in ("ok", "rejected", "error")}
        if spec is GARMENTS:
            report.garments, report.garment_errors = len(unique), counts["error"]
        else:
            report.rows, report.ok, report.rejected, report.errors = len(unique), *counts.values()


def _photos_of(video: Candidate) -> list[str]:
    return [g for g in (video.entry.garment, video.entry.tryon_garment) if g] if video.entry else []
