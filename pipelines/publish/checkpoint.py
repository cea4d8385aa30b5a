"""Writes a checkpoint of the lake as a folder that can be handed on or uploaded."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from models.training.publish import publish
from models.training.run import weights_sha256
from pipelines.checkpoints.lineage import lineage
from pipelines.checkpoints.train import checkpoint_folder, named_checkpoint
from pipelines.evaluation.leaderboard import leaderboard_rows, titled
from pipelines.publish.card import CardFacts, licence_of, write_card
from pipelines.publish.evaluation import evaluation_of
from pipelines.publish.pictures import choose, draw
from pipelines.store import DeltaStore
from pipelines.training_sets.build import TrainingSetError, training_set_row
from pipelines.training_sets.contents import BatchPart, batch_parts
from pipelines.video import VideoError


class CannotPublish(ValueError):
    """The checkpoint or the folder cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Published:
    """What was written.

    Attributes:
        checkpoint_id: Checkpoint.
        folder: The folder.
        card: README.md in it.
        pictures: Pictures in it.
        missing: What the card shows as missing, a line each.
    """

    checkpoint_id: str
    folder: Path
    card: Path
    pictures: list[Path] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def publish_checkpoint(
    store: DeltaStore, name: str, out: Path, *, licence: str | None = None, pictures: bool = True
) -> Published:
    """Write a checkpoint's transformer in half precision, `training.json`, README.md and pictures of its try-on.

    The folder appears with all of it or not at all.

    Args:
        store: The lake.
        name: checkpoint_id or its first digits, or `current` for the promoted one.
        out: Folder to write; it must be empty, or not there.
        licence: SPDX identifier of the licence of the weights; by default that of what they were trained from.
        pictures: Whether frames of try-on videos, which show people, are put in.

    Raises:
        pipelines.checkpoints.train.CheckpointMissing: There is no such checkpoint, or its files are gone.
        CannotPublish: The folder is not empty, or the checkpoint's files are not what was trained.
        pipelines.publish.card.LicenceUnknown: The licence must be named.
        OSError: The folder cannot be written.
    """
    out = out.expanduser().resolve()
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise CannotPublish(f"{out} is not an empty folder: name another one with --out, or empty it")
    checkpoint = named_checkpoint(store, name)
    checkpoint_id = checkpoint["checkpoint_id"]
    source = checkpoint_folder(store, checkpoint)
    line = lineage(store, checkpoint_id)
    chosen_licence = licence_of(line, licence)
    if weights_sha256(source / "transformer") != checkpoint["weights_sha256"]:
        raise CannotPublish(
            f"The weights in {source} are not those that were trained as checkpoint {checkpoint_id}: restore the "
            "folder from a copy, or delete it and run `itryon train` with the same settings to make it again"
        )
    (row,) = leaderboard_rows(store, [checkpoint_id])
    evaluation = evaluation_of(store, checkpoint_id)
    parts, parts_missing = _parts(store, checkpoint["training_set_id"])
    choices = choose(evaluation.videos) if pictures else []
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".publish-") as temporary:
        # Temporary folders are for their owner alone; this one has the usual mode, and gets its name as a whole.
        folder = Path(temporary) / out.name
        folder.mkdir()
        try:
            publish(source, folder)
        except FileNotFoundError as e:
            raise CannotPublish(
                f"Checkpoint {checkpoint_id} is incomplete ({e}): restore {source} from a copy, or delete it and run "
                "`itryon train` with the same settings to make it again"
            ) from e
        facts = CardFacts(
            row=row,
            lineage=line,
            parts=parts,
            parts_missing=parts_missing,
            training=json.loads((folder / "training.json").read_text()),
            evaluation=evaluation,
            choices=choices,
            pictures_missing="" if pictures else "pictures were left out",
            licence=chosen_licence,
        )
        if choices:
            try:
                draw(store, choices, folder)
            except VideoError as e:
                raise CannotPublish(
                    f"A try-on video of checkpoint {checkpoint_id} cannot be read ({e}): run `itryon tryon` again, or "
                    "leave the pictures out with --no-pictures"
                ) from e
        write_card(facts, folder)
        folder.replace(out)
    missing = [f"{titled(m)}: {m['reason'] or 'no reason given'}" for m in row["metrics"] if m["value"] is None]
    missing += [f"ISR: {evaluation.no_rates}"] if evaluation.no_rates else []
    missing += [parts_missing] if parts_missing else []
    return Published(checkpoint_id, out, out / "README.md", [out / c.file for c in choices], missing)


def _parts(store: DeltaStore, training_set_id: str) -> tuple[list[BatchPart], str]:
    """Batches of a training set; or none, and why."""
    try:
        return batch_parts(store, training_set_row(store, training_set_id)), ""
    except LookupError:
        return [], f"training set {training_set_id} is no longer in the lake"
    except (OSError, TrainingSetError) as e:
        return [], f"the rows pinned by training set {training_set_id} cannot be read: {e}"
