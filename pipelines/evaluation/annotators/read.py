"""Reads what is to be compared: the truth of a studio batch and the annotations of the same videos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.captions.manifest import read_labels
from pipelines.stage import digest
from pipelines.store import TABLES, DeltaStore
from pipelines.store.schemas import CAPTIONS, HANDS, STAGE_STATUS, VIDEOS
from pipelines.store.studio_schemas import STUDIO_CLIPS, STUDIO_FRAMES, STUDIO_HANDS

STAGES = ("pose", "hands", "agnostic_masks", "captions")
_AT_ONCE = 16
"""Videos read together: a read goes through the whole partition, and masks of too many would fill the memory."""
_COLUMNS = {
    "pose": ["batch", "video_id", "frame", "detected", "landmarks", "person_mask"],
    "agnostic_masks": ["batch", "video_id", "frame", "mask", "height", "width"],
    "captions": ["batch", "video_id", "kind", "action", "start_frame", "end_frame", "confidence"],
}


class NothingToMeasure(LookupError):
    """The batch cannot be measured; the message says why and what to do."""


@dataclass(frozen=True)
class Clip:
    """What a rendered video shows.

    Attributes:
        video_id: Identity.
        source_path: File below the landing folder.
        performance: See `studio_schemas.PERFORMANCES`.
        action: Action performed or mimed; None where there is none.
    """

    video_id: str
    source_path: str
    performance: str
    action: str | None


@dataclass(frozen=True)
class Annotator:
    """Whose annotations were measured.

    Attributes:
        backend: Such as mediapipe, hamer, geometric or kinematic; `none` where there are no rows at all.
        digest: Digest of the fingerprints of all rows.
    """

    backend: str
    digest: str


@dataclass(frozen=True)
class VideoTables:
    """Rows of one video.

    Attributes:
        clip: What it shows.
        frames: `studio_frames`.
        true_hands: `studio_hands`.
        pose: `pose`.
        hands: Backend -> its rows of `hands`.
        masks: `agnostic_masks`.
        captions: `captions`.
    """

    clip: Clip
    frames: pa.Table
    true_hands: pa.Table
    pose: pa.Table
    hands: dict[str, pa.Table]
    masks: pa.Table
    captions: pa.Table


@dataclass
class BatchReader:
    """The videos of a studio batch with truth and annotations.

    Hands may have been annotated twice, with different backends: a batch holds one, another batch of the same videos
    another one.

    Args:
        store: The lake.
        batch: A batch that the studio rendered, ingested and annotated up to captions.

    Attributes:
        clips: Its clips, in order of their files.
        annotators: Stage -> who annotated; `hands` has one for each backend.
        unannotated: Stage -> videos it failed on; they count as if it found nothing.

    Raises:
        NothingToMeasure: The batch has no truth, was not annotated, or its captions are the manifest's labels.
    """

    store: DeltaStore
    batch: str
    clips: list[Clip] = field(init=False)
    annotators: dict[str, list[Annotator]] = field(init=False)
    unannotated: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        of_batch = {"batch": self.batch}
        columns = ["batch", "video_id", "source_path", "performance", "action"]
        rows = self.store.read(STUDIO_CLIPS, columns, of_batch).to_pylist()
        if not rows:
            raise NothingToMeasure(
                f"batch {self.batch!r} has no truth in the lake: only rendered batches have one. Render one with "
                f"`itryon studio --batch {self.batch} --no-labels`, then `itryon materialize --batch {self.batch} "
                "--to captions`"
            )
        # Two clips can be the same file only if the studio drew the same frames twice: they are one video.
        unique = {r["video_id"]: r for r in rows}
        self.clips = [Clip(*(r[c] for c in columns[1:])) for r in unique.values()]
        self._refuse_labels()
        self.unannotated = self._failures()
        self._hand_batches = self._batches_of_hands()
        self.annotators = {stage: self._annotators(stage) for stage in STAGES}

    def _refuse_labels(self) -> None:
        videos = self.store.read(VIDEOS, ["batch", "video_id", "manifest", "global_caption"], {"batch": self.batch})
        for row in videos.to_pylist():
            try:
                labelled = read_labels(row["manifest"], row["global_caption"]).actions is not None
            except ValueError:
                continue  # the captions stage has failed on it and said why
            if labelled:
                raise NothingToMeasure(
                    f"the captions of batch {self.batch!r} are the labels of its manifest, i.e. the truth itself: "
                    "render a batch with `itryon studio --no-labels` to measure annotators on"
                )

    def _failures(self) -> dict[str, int]:
        columns = ["batch", "stage", "video_id", "status"]
        status = self.store.read(STAGE_STATUS, columns, {"batch": self.batch}).to_pylist()
        done = {stage: {r["video_id"] for r in status if r["stage"] == stage} for stage in STAGES}
        if missing := [stage for stage in STAGES if not done[stage]]:
            raise NothingToMeasure(
                f"batch {self.batch!r} has no {', '.join(missing)} yet: run `itryon materialize --batch {self.batch} "
                "--to captions`"
            )
        good = {(r["stage"], r["video_id"]) for r in status if r["status"] == "ok"}
        return {stage: sum((stage, c.video_id) not in good for c in self.clips) for stage in STAGES}

    def _batches_of_hands(self) -> dict[str, str]:
        """Backend -> the batch whose rows of `hands` are its; this batch first."""
        wanted = {c.video_id for c in self.clips}
        videos = self.store.read(VIDEOS, ["batch", "video_id"])
        others = {b for b, v in zip(videos["batch"].to_pylist(), videos["video_id"].to_pylist()) if v in wanted}
        out: dict[str, str] = {}
        for batch in [self.batch, *sorted(others - {self.batch})]:
            rows = self.store.read(HANDS, ["batch", "video_id", "source"], {"batch": batch})
            rows = rows.filter(pc.is_in(rows["video_id"], pa.array(sorted(wanted))))
            for source in sorted(set(rows["source"].to_pylist())):
                out.setdefault(source, batch)
        return out

    def _annotators(self, stage: str) -> list[Annotator]:
        spec = TABLES[stage]
        source = [c for c in ("source",) if c in spec.schema.names]
        columns = ["batch", "video_id", "fingerprint", *source]
        if stage == "hands":
            found = []
            for backend, batch in self._hand_batches.items():
                rows = self.store.read(spec, columns, {"batch": batch, "source": backend})
                found.append(Annotator(backend, _digest(rows)))
            return found or [Annotator("none", "")]
        where = {"batch": self.batch, **({"kind": "global"} if spec is CAPTIONS else {})}
        rows = self.store.read(spec, columns, where)
        names = sorted(set(rows["source"].to_pylist())) if source else ["mediapipe"]
        return [Annotator("+".join(names) if rows.num_rows else "none", _digest(rows))]

    def __iter__(self) -> Iterator[VideoTables]:
        for start in range(0, len(self.clips), _AT_ONCE):
            part = self.clips[start : start + _AT_ONCE]
            ids = [c.video_id for c in part]
            tables = {name: self._read(name, self.batch, ids, columns) for name, columns in _COLUMNS.items()}
            tables["frames"] = self._read(STUDIO_FRAMES.name, self.batch, ids)
            tables["true_hands"] = self._read(STUDIO_HANDS.name, self.batch, ids)
            hands = {
                backend: _of_source(self._read(HANDS.name, batch, ids), backend)
                for backend, batch in self._hand_batches.items()
            }
            for clip in part:
                mine = {name: _of_video(t, clip.video_id) for name, t in tables.items()}
                yield VideoTables(
                    clip,
                    mine["frames"],
                    mine["true_hands"],
                    mine["pose"],
                    {backend: _of_video(t, clip.video_id) for backend, t in hands.items()}
                    or {"none": HANDS.schema.empty_table()},
                    mine["agnostic_masks"],
                    mine["captions"],
                )

    def _read(self, table: str, batch: str, ids: Sequence[str], columns: list[str] | None = None) -> pa.Table:
        return self.store.read(TABLES[table], columns, {"batch": batch, "video_id": list(ids)})


def _of_video(rows: pa.Table, video_id: str) -> pa.Table:
    return rows.filter(pc.equal(rows["video_id"], video_id)).combine_chunks()


def _of_source(rows: pa.Table, source: str) -> pa.Table:
    return rows.filter(pc.equal(rows["source"], source))


def _digest(rows: pa.Table) -> str:
    return digest(sorted(set(rows["fingerprint"].to_pylist())))[:16]
