"""Whether there is enough that no model has seen, and what the next training set is made of.

The answer follows from the tables alone and not from who asks when: it can be asked again at any time, by a sensor, a
schedule or a person, and names its cause, so that one cause leads to one retraining.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.checkpoints.current import current_id
from pipelines.ingest.private import is_private
from pipelines.stage import digest
from pipelines.store import DeltaStore
from pipelines.store.schemas import CHECKPOINTS, CLIPS, TRAINING_SETS, VIDEOS
from pipelines.training_sets.build import TrainingSetError, select_clips
from pipelines.training_sets.settings import RetrainingSettings, TrainingSetSettings


class NotDue(LookupError):
    """Why there is nothing to train, and what would change that."""


@dataclass(frozen=True)
class RetrainingDue:
    """A training set worth building.

    Attributes:
        cause: Digest of the clips that are in no training set yet.
        num_new: Their number.
        batches: Batches that may take part: all that have clips, without those held back for evaluation and those of
            `itryon tryon --video`.
        new_batches: Those with clips that the current checkpoint and its parents were not trained on.
        exclude_videos: Videos to leave out: those that the filters name, and held-back ones that also lie in `batches`.
    """

    cause: str
    num_new: int
    batches: tuple[str, ...]
    new_batches: tuple[str, ...]
    exclude_videos: tuple[str, ...]


def retraining_due(
    store: DeltaStore, settings: RetrainingSettings, filters: TrainingSetSettings | None = None
) -> RetrainingDue:
    """What to retrain on now.

    A clip is new while no training set holds it: what a set was built for counts as tried, also when the training
    failed or its checkpoint was refused. Such clips take part again in the next round, since `new_batches` are all
    those that the current checkpoint has not seen, but they do not ask for a round by themselves. A batch without
    clips, because it failed or is not done, is not waited for.

    Args:
        store: The lake.
        settings: Threshold, and the batches held back for evaluation.
        filters: Which clips belong to training sets; its batches and replay are decided here.

    Raises:
        NotDue: There are fewer new clips than the threshold, nothing is held back for evaluation, or the clips cannot
            be trained on together.
    """
    if not settings.evaluation_batches:
        raise NotDue(
            "no batch is held back for evaluation, so that checkpoints could not be compared: set retraining: "
            "{evaluation_batches: [NAME]}"
        )
    chosen = (filters or TrainingSetSettings()).model_dump()
    found = store.read(CLIPS, ["clip_id", "batch", "video_id"], {"split": chosen["splits"]})
    there = set(found["batch"].unique().to_pylist())
    left_out = {b for b in there if is_private(b)} | set(settings.evaluation_batches)
    batches = sorted(there - left_out)
    if not batches:
        raise NotDue("there are no clips outside of the batches held back for evaluation")
    sets = {r["training_set_id"]: r for r in store.read(TRAINING_SETS).to_pylist()}
    tried = set().union(*(_clips_of(store, r) for r in sets.values()))
    found = found.filter(pc.is_in(found["batch"], pa.array(batches)))
    # Checkpoints are compared by videos, and one that is held back may lie in another batch, too.
    held_back = set(store.read(VIDEOS, ["video_id"], {"batch": settings.evaluation_batches})["video_id"].to_pylist())
    copies = held_back & set(found["video_id"].unique().to_pylist())
    chosen["exclude_videos"] = sorted({*chosen["exclude_videos"], *copies})
    copied = pc.is_in(found["video_id"], pa.array(sorted(copies), pa.string()))
    untried = set(found.filter(pc.invert(copied))["clip_id"].to_pylist()) - tried
    # Mostly nothing is due, and that can be told without reading whole rows: filters only take clips away.
    if len(untried) < settings.min_new_clips:
        raise NotDue(_too_few(len(untried), settings))
    chosen |= {"batches": batches, "new_batches": None, "replay_share": None}
    try:
        clips = select_clips(store, TrainingSetSettings.model_validate(chosen))
    except TrainingSetError as e:
        raise NotDue(str(e)) from e
    rows = [r for r in clips.select(["clip_id", "batch", "split"]).to_pylist() if r["split"] == "train"]
    new = sorted(r["clip_id"] for r in rows if r["clip_id"] not in tried)
    if len(new) < settings.min_new_clips:
        raise NotDue(_too_few(len(new), settings))
    seen = set().union(*(_clips_of(store, sets[s]) for s in _lineage(store) if s in sets))
    new_batches = sorted({r["batch"] for r in rows if r["clip_id"] not in seen})
    return RetrainingDue(
        digest(new)[:16], len(new), tuple(batches), tuple(new_batches), tuple(chosen["exclude_videos"])
    )


def _too_few(count: int, settings: RetrainingSettings) -> str:
    return f"{count} new clips, retraining starts at {settings.min_new_clips}"


def _lineage(store: DeltaStore) -> list[str]:
    """Training sets of the current checkpoint and of those it was continued from."""
    rows = {r["checkpoint_id"]: r for r in store.read(CHECKPOINTS).to_pylist()}
    out: list[str] = []
    name = current_id(store)
    # Each row is left behind once, so that damaged parents cannot make this go round for ever.
    while name is not None and (row := rows.pop(name, None)):
        out.append(row["training_set_id"])
        name = row["parent_checkpoint_id"]
    return out


def _clips_of(store: DeltaStore, training_set: dict[str, Any]) -> frozenset[str]:
    try:
        return _manifest_clips(store.root, training_set["manifest_uri"])
    except FileNotFoundError:
        # A set that was deleted holds nothing: its clips are new again.
        return frozenset()


@lru_cache(maxsize=512)
def _manifest_clips(root: str, uri: str) -> frozenset[str]:
    """Clips of a manifest; content-addressed, so that a process reads it once."""
    content = DeltaStore(root).blobs.read_bytes(uri)
    return frozenset(pq.read_table(io.BytesIO(content), columns=["clip_id"])["clip_id"].to_pylist())
