"""`tryon_videos`: which videos get which garments from a checkpoint, and the rows about it.

One row is committed after every video, so a killed run goes on where it was: a pair whose `tryon_id` stands is kept.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.checkpoints.train import checkpoint_folder, named_checkpoint, verify_weights
from pipelines.clips.garments import WORN, garment_photo, preferred, worn_garment
from pipelines.ingest.private import is_private
from pipelines.stage import digest
from pipelines.store import Commit, DeltaStore
from pipelines.store.schemas import (
    AGNOSTIC_MASKS,
    CAPTIONS,
    GARMENTS,
    HANDS,
    POSE,
    STAGE_STATUS,
    TRYON_VIDEOS,
    VIDEOS,
)
from pipelines.tryon.annotations import StoredAnnotations
from pipelines.tryon.load import LoadedPipeline, load_pipeline
from pipelines.tryon.outputs import dress
from pipelines.tryon.run import Garment
from pipelines.tryon.settings import CODE_VERSION, NEEDED, WITHOUT_EFFECT, TryOnSettings

_SPLITS = ("test", "val", "train")
_BLOBS = ("uri", "side_by_side_uri", "sheet_uri")


class NothingToDress(LookupError):
    """There is no video to make; the message says what to do."""


@dataclass(frozen=True)
class Pair:
    """One video and one garment.

    Attributes:
        video: Row of `videos`.
        garment: Row of `garments`, or, where there is no photo, of `videos`: what the person in it wears is cut out.
        worn: Whether `garment` is a row of `videos`.
        paired: Whether it is the garment the person wears anyway.
        fingerprints: Stage -> fingerprint of the annotations used.
        picture: What the garment's picture depends on beside its identity: the photo's mask, or the annotations of the
            video it is cut out of.
    """

    video: dict[str, Any]
    garment: dict[str, Any]
    worn: bool
    paired: bool
    fingerprints: dict[str, str]
    picture: Mapping[str, str | None]

    @property
    def garment_id(self) -> str:
        """Identity of the garment; that of the video where it has no photo."""
        return f"{WORN}{self.garment['video_id']}" if self.worn else self.garment["garment_id"]


@dataclass
class TryOnReport:
    """What a run made.

    Attributes:
        checkpoint_id: Checkpoint.
        table_version: Version of `tryon_videos` behind the run.
        made: Videos made now.
        reused: Videos that were there already.
        failures: tryon_id -> reason.
    """

    checkpoint_id: str
    table_version: int = 0
    made: int = 0
    reused: int = 0
    failures: dict[str, str] = field(default_factory=dict)


def choose_pairs(store: DeltaStore, settings: TryOnSettings) -> list[Pair]:
    """Videos with all annotations, and the garments for them.

    The unpaired garment is the one the manifest asks for; else a photo of the same category; else what the person in
    another video of the same category wears. Which one depends on the video alone, not on the order of ingestion.

    Raises:
        NothingToDress: No video has all annotations.
    """
    chosen = {} if settings.batches is None else {"batch": settings.batches}
    states: dict[tuple[str, str], dict[str, str]] = {}
    columns = ["batch", "stage", "video_id", "fingerprint"]
    for row in store.read(STAGE_STATUS, columns, {"stage": NEEDED, "status": "ok"} | chosen).to_pylist():
        states.setdefault((row["batch"], row["video_id"]), {})[row["stage"]] = row["fingerprint"]
    videos = [v for v in store.read(VIDEOS, where={"status": "ok"} | chosen).to_pylist() if not v["duplicate_of"]]
    if settings.batches is None:
        videos = [v for v in videos if not is_private(v["batch"])]
    ready = [v for v in videos if set(NEEDED) <= set(states.get((v["batch"], v["video_id"]), {}))]
    if not ready:
        where = f" of batch {', '.join(settings.batches)}" if settings.batches else ""
        raise NothingToDress(f"No video{where} has {', '.join(NEEDED)}: materialise them for a batch first")
    ready.sort(key=lambda v: (_SPLITS.index(v["split"]) if v["split"] in _SPLITS else len(_SPLITS), v["video_id"]))
    garments = store.read(GARMENTS).to_pylist()

    def pair(video: dict[str, Any], garment: dict[str, Any], worn: bool, paired: bool) -> Pair:
        picture: Mapping[str, str | None]
        picture = states[garment["batch"], garment["video_id"]] if worn else {"mask": garment["mask_uri"]}
        fingerprints = {s: states[video["batch"], video["video_id"]][s] for s in NEEDED}
        return Pair(video, garment, worn, paired, fingerprints, picture)

    pairs = []
    for video in ready[: settings.max_videos]:
        photos = preferred(garments, video["batch"])
        own = photos.get(video["garment_id"])
        if settings.pairs in ("paired", "both"):
            pairs.append(pair(video, own or video, own is None, True))
        if settings.pairs in ("unpaired", "both"):
            other = _other_garment(video, photos, ready)
            if other is not None:
                pairs.append(pair(video, *other, False))
    if not pairs:
        raise NothingToDress("There is no second garment for unpaired try-on: add garment photos to the landing folder")
    return pairs


def _other_garment(
    video: dict[str, Any], photos: dict[str, dict[str, Any]], ready: Sequence[dict[str, Any]]
) -> tuple[dict[str, Any], bool] | None:
    """A row of `garments`, or of `videos` for what is worn there, and whether it is the latter."""
    asked = photos.get(video["tryon_garment_id"])
    if asked is not None:
        return asked, False
    category = video["garment_category"]

    def draw(candidates: list[dict[str, Any]], key: str) -> dict[str, Any]:
        return min(candidates, key=lambda c: digest(video["video_id"], c[key]))

    fitting = [
        g
        for g in photos.values()
        if g["garment_id"] != video["garment_id"] and (g["category"] == category or not (g["category"] and category))
    ]
    if fitting:
        return draw(fitting, "garment_id"), False
    donors = [v for v in ready if v["video_id"] != video["video_id"] and v["garment_category"] == category]
    return (draw(donors, "video_id"), True) if donors else None


def run_tryon(
    store: DeltaStore,
    settings: TryOnSettings,
    *,
    commit: Commit | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
    loaded: LoadedPipeline | None = None,
) -> TryOnReport:
    """Dress the chosen videos with a checkpoint and write its rows of `tryon_videos`.

    What goes wrong with one video is its row's reason; the others go on.

    Args:
        store: The lake.
        settings: Checkpoint, videos, steps.
        commit: Provenance.
        on_progress: Called with video_id, denoising steps done and in all.
        loaded: A pipeline that is loaded already, in place of the checkpoint's.

    Raises:
        pipelines.checkpoints.train.CheckpointMissing: There is no such checkpoint.
        NothingToDress: No video has all annotations.
    """
    commit = Commit((commit or Commit()).run_id, CODE_VERSION)
    row = named_checkpoint(store, settings.checkpoint)
    pairs = choose_pairs(store, settings)
    if loaded is None:
        folder = checkpoint_folder(store, row)
        verify_weights(folder, row)
        loaded = load_pipeline(folder, settings)
    trained = json.loads(row["config"])
    loaded.use_hands = trained.get("use_hands", True)
    loaded.use_actions = trained.get("use_action_captions", True)
    loaded.digests["transformer"] = row["weights_sha256"]

    checkpoint_id = row["checkpoint_id"]
    where = {"checkpoint_id": checkpoint_id}
    report = TryOnReport(checkpoint_id, store.version(TRYON_VIDEOS))
    before = {r["tryon_id"]: r for r in store.read(TRYON_VIDEOS, where=where).to_pylist()}
    rows: dict[str, dict[str, Any]] = {}
    versions = {t.name: store.version(t) for t in (VIDEOS, GARMENTS, POSE, AGNOSTIC_MASKS, HANDS, CAPTIONS)}
    dressing = settings.model_dump(mode="json", exclude=set(WITHOUT_EFFECT))
    missing = store.blobs.missing(u for r in before.values() for u in (r[c] for c in _BLOBS))
    todo = []
    for pair in pairs:
        tryon_id = digest(
            CODE_VERSION,
            pair.video["sha256"],
            pair.garment_id,
            pair.picture,
            pair.paired,
            pair.fingerprints,
            dict(loaded.digests),
            dressing,
        )[:16]
        known = before.get(tryon_id)
        if known and known["status"] == "ok" and not {known[c] for c in _BLOBS} & missing:
            rows[tryon_id] = known
            report.reused += 1
        else:
            todo.append((tryon_id, pair))
    if not todo and set(rows) == set(before):
        return report
    for tryon_id, pair in todo:
        rows[tryon_id] = _dress(store, loaded, settings, pair, versions, on_progress) | {
            "checkpoint_id": checkpoint_id,
            "tryon_id": tryon_id,
            "run_id": commit.run_id,
        }
        if rows[tryon_id]["status"] == "ok":
            report.made += 1
        else:
            report.failures[tryon_id] = rows[tryon_id]["reason"]
        report.table_version = _commit(store, rows, where, commit)
    if not todo:
        report.table_version = _commit(store, rows, where, commit)
    return report


def _commit(store: DeltaStore, rows: dict[str, dict[str, Any]], where: dict[str, str], commit: Commit) -> int:
    table = pa.Table.from_pylist([rows[k] for k in sorted(rows)], TRYON_VIDEOS.schema)
    return store.replace(TRYON_VIDEOS, table, where, commit)


def _dress(
    store: DeltaStore,
    loaded: LoadedPipeline,
    settings: TryOnSettings,
    pair: Pair,
    versions: dict[str, int],
    on_progress: Callable[[str, int, int], None] | None,
) -> dict[str, Any]:
    video = pair.video
    out: dict[str, Any] = {
        "video_id": video["video_id"],
        "garment_id": pair.garment_id,
        "paired": pair.paired,
        "start_frame": 0,
        "num_frames": 0,
        "record": "{}",
        "created_at": datetime.now(UTC),
    }
    try:
        with tempfile.TemporaryDirectory() as folder:
            made = dress(
                loaded,
                store.blobs.verified_path(video["uri"]),
                video["num_frames"],
                load_garment(store, pair),
                StoredAnnotations(store, video),
                Path(folder),
                settings,
                on_progress=None
                if on_progress is None
                else lambda done, total: on_progress(video["video_id"], done, total),
            )
            out["uri"] = store.blobs.put_file(made.video)
            out["side_by_side_uri"] = store.blobs.put_file(made.side_by_side)
            out["sheet_uri"] = store.blobs.put_file(made.sheet)
    except Exception as error:
        return out | {"status": "error", "reason": f"{type(error).__name__}: {error}"}
    record = made.record | {
        # Its name, which is its id, and not the folder it was loaded from: a lake may move.
        "checkpoint": Path(made.record["checkpoint"]).name,
        "video": {k: video[k] for k in ("batch", "video_id", "sha256", "source_path")},
        "garment": {"garment_id": pair.garment_id, "uri": None if pair.worn else pair.garment["uri"]},
        "fingerprints": pair.fingerprints,
        "table_versions": versions,
    }
    return out | {
        "start_frame": record["start_frame"],
        "num_frames": record["num_frames"],
        "record": json.dumps(record, sort_keys=True),
        "status": "ok",
        "reason": None,
    }


def load_garment(store: DeltaStore, pair: Pair) -> Garment:
    """Photo and mask of a pair's garment, or the cut-out of what the person in the donor video wears.

    Raises:
        ValueError: The donor has no frame with a garment region, or the photo is not a picture.
    """
    if not pair.worn:
        return Garment(*garment_photo(store, pair.garment), pair.garment_id)
    donor = pair.garment
    where = {"batch": donor["batch"], "video_id": donor["video_id"]}
    rows = store.read(AGNOSTIC_MASKS, ["frame", "area_fraction"], where).to_pylist()
    if not rows:
        raise ValueError(f"Video {donor['video_id']} has no garment region to cut a garment out of")
    best = max(rows, key=lambda r: (r["area_fraction"], -r["frame"]))
    return Garment(*worn_garment(store, donor, best["frame"]), pair.garment_id)
