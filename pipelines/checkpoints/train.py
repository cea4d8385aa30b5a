"""Plans a training run, and files what came of it.

A run is named by what goes in: the training set, the configuration and the parent. The same name is never trained
twice, and a run that was killed goes on where its last checkpoint was, since its working folder has the same name.
"""

from __future__ import annotations

import json
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from models.filesystem import open_root
from models.itryon.embedded import EMBEDDED, embedded_digest
from models.training.config import WITHOUT_EFFECT, TrainConfig, load_config, read_recipe
from pipelines.checkpoints.current import current_id
from pipelines.checkpoints.settings import CODE_VERSION, TrainingSettings
from pipelines.clips.settings import ClipsSettings
from pipelines.stage import digest
from pipelines.stage.base import scratch
from pipelines.store import Commit, DeltaStore
from pipelines.store.clock import later_than
from pipelines.store.schemas import CHECKPOINTS, TRAINING_METRICS
from pipelines.training_sets.build import manifest_path

# What does not decide what comes out; the parent counts by its identity, not by where it lies.
_NOT_IN_THE_NAME = WITHOUT_EFFECT | {"init_from"}


LATEST, CURRENT = "latest", "current"
"""Names of the newest and of the promoted checkpoint, wherever a setting takes a checkpoint_id."""


class CheckpointMissing(LookupError):
    """There is no such checkpoint; the message says what to do."""


@dataclass(frozen=True)
class TrainingPlan:
    """One training run that is about to start, or was done before.

    Attributes:
        checkpoint_id: Digest of training set, configuration and parent.
        config: Configuration of the trainer, paths included.
        output_dir: Working folder of the trainer.
        parent_checkpoint_id: Checkpoint it starts from.
        command: Command line of the trainer process.
        remark: Why something that was asked for is left out; empty if nothing is.
    """

    checkpoint_id: str
    config: TrainConfig
    output_dir: Path
    parent_checkpoint_id: str | None
    command: list[str]
    remark: str = ""


def newest_checkpoint(store: DeltaStore) -> dict[str, Any]:
    """Row of the checkpoint written last.

    Raises:
        CheckpointMissing: None was trained yet.
    """
    rows = store.read(CHECKPOINTS).sort_by([("created_at", "descending")]).slice(0, 1).to_pylist()
    if not rows:
        raise CheckpointMissing("No checkpoint was trained yet: materialise `itryon_checkpoint` first")
    return rows[0]


def find_checkpoint(store: DeltaStore, checkpoint_id: str) -> dict[str, Any] | None:
    """Row of a checkpoint, None when there is none."""
    rows = store.read(CHECKPOINTS, where={"checkpoint_id": checkpoint_id}).to_pylist()
    return rows[0] if rows else None


def starting_with(store: DeltaStore, digits: str) -> list[dict[str, Any]]:
    """Rows of the checkpoints whose id starts with these digits; none without any digit."""
    names = store.read(CHECKPOINTS, ["checkpoint_id"])["checkpoint_id"].to_pylist()
    fitting = [n for n in names if digits and n.startswith(digits)]
    return store.read(CHECKPOINTS, where={"checkpoint_id": fitting}).to_pylist() if fitting else []


def named_checkpoint(store: DeltaStore, name: str) -> dict[str, Any]:
    """Row of the checkpoint that a setting names.

    Args:
        store: The lake.
        name: `latest` for the newest one, `current` for the promoted one, or a checkpoint_id or its first digits.

    Raises:
        CheckpointMissing: There is none of that name, or several start with these digits.
    """
    if name == LATEST:
        return newest_checkpoint(store)
    promoted = current_id(store) if name == CURRENT else None
    if name == CURRENT and promoted is None:
        raise CheckpointMissing("No checkpoint was promoted yet: run `itryon promote`, or choose `latest`")
    row = find_checkpoint(store, promoted or name)
    if row is None and not promoted:
        # The leaderboard prints the first digits.
        fitting = starting_with(store, name)
        if len(fitting) > 1:
            raise CheckpointMissing(f"Several checkpoints start with {name!r}: give more of its digits")
        row = fitting[0] if fitting else None
    if row is None:
        what = f"The promoted checkpoint {promoted} is gone" if promoted else f"There is no checkpoint {name!r}"
        raise CheckpointMissing(f"{what}: `itryon leaderboard` lists those there are")
    return row


def plan_training(
    store: DeltaStore,
    training_set: dict[str, Any],
    settings: TrainingSettings,
    clips: ClipsSettings | None = None,
) -> TrainingPlan:
    """Settle what will be trained and write the trainer's configuration file.

    Args:
        store: The lake.
        training_set: Row of `training_sets`.
        settings: What to train.
        clips: How clips are encoded now: validation videos are decoded with that VAE, if it made the training set,
            and frames are encoded on the fly with these settings.

    Raises:
        CheckpointMissing: `settings.parent` names no checkpoint.
        FileNotFoundError: There is no such recipe.
        OSError: The training set's manifest is damaged.
        TrainingSetError: The manifest does not hold the training set's rows.
        ValueError: The configuration is invalid; the message names the field.
    """
    parent, remarks = None, []
    if settings.parent == CURRENT and current_id(store) is None:
        # The first round of a lake that retrains by itself has nothing to continue yet.
        remarks.append("No checkpoint was promoted yet: training starts where the recipe says")
    elif settings.parent:
        parent = named_checkpoint(store, settings.parent)
    fields = ("steps", "batch_size", "learning_rate", "seed", "lora_rank", "validate_every", "wandb_project")
    chosen = {k: getattr(settings, k) for k in fields}
    overrides: dict[str, Any] = {
        **{k: v for k, v in chosen.items() if v is not None},
        "manifest": str(manifest_path(store, training_set)),
        "blob_root": store.root,
        "training_set_id": training_set["training_set_id"],
        "output_dir": "",
    }
    if parent:
        overrides["init_from"] = str(checkpoint_folder(store, parent))
    if settings.steps is not None:
        # A short run keeps the recipe's shape: its warm-up must not be longer than a tenth of it.
        overrides["warmup_steps"] = min(read_recipe(settings.recipe).get("warmup_steps", 0), settings.steps // 10)
    if settings.allow_oversize:
        overrides["allow_oversize"] = True
    config = load_config(settings.recipe, overrides)
    clips = clips or ClipsSettings()
    config, remark = _with_vae(config, training_set["encoder_digest"], clips)
    content = {k: v for k, v in config.model_dump(mode="json").items() if k not in _NOT_IN_THE_NAME}
    parent_id = parent["checkpoint_id"] if parent else None
    # By content: a release may bring other weights under the same name.
    source = embedded_digest() if config.init_from == EMBEDDED else config.init_from
    checkpoint_id = digest(training_set["training_set_id"], content, parent_id or source, CODE_VERSION)[:16]
    output = _scratch(store) / checkpoint_id
    config = config.model_copy(update={"output_dir": str(output)})
    output.mkdir(parents=True, exist_ok=True)
    file = _write(output / "config.json", config.model_dump_json(indent=1))
    program = ["-m", "models.training"]
    if settings.encode == "on_the_fly":
        clips_file = _write(output / "clips.json", clips.model_dump_json(indent=1))
        program = ["-m", "pipelines.checkpoints.live", "--clips", str(clips_file)]
    command = [*(settings.launcher or [sys.executable]), *program, "--config", str(file)]
    remark = ". ".join(filter(None, [*remarks, remark]))
    return TrainingPlan(checkpoint_id, config, output, parent_id, command, remark)


def _write(file: Path, text: str) -> Path:
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
    temporary.write_text(text)
    temporary.replace(file)
    return file


def _with_vae(config: TrainConfig, encoder: str, clips: ClipsSettings) -> tuple[TrainConfig, str]:
    """The configuration with the VAE that encoded the clips, or without validation when that one is not at hand."""
    if config.validate_every is None:
        return config, ""
    from pipelines.clips.encoders import encoder_digest

    try:
        now = encoder_digest(clips)
    except FileNotFoundError as e:
        now, reason = "", str(e)
    else:
        reason = f"clips are encoded by {now[:12]} now, those of the training set were by {encoder[:12]}"
    if now == encoder:
        return config.model_copy(update={"validation_vae": clips.vae}), ""
    return config.model_copy(update={"validate_every": None}), f"No validation videos: {reason}"


def register_checkpoint(
    store: DeltaStore, plan: TrainingPlan, training_set: dict[str, Any], commit: Commit
) -> dict[str, Any]:
    """Copy a finished run into the lake and write its rows; returns the row of `checkpoints`.

    Raises:
        FileNotFoundError: The trainer did not finish.
    """
    summary_file = plan.output_dir / "summary.json"
    if not summary_file.is_file():
        raise FileNotFoundError(f"{summary_file} is missing: the trainer did not finish; run it again to go on")
    summary = json.loads(summary_file.read_text())
    uri = f"checkpoints/{plan.checkpoint_id}"
    _copy_folder(plan.output_dir / "final", store, uri)
    metrics = pq.read_table(plan.output_dir / "metrics.parquet").rename_columns({"lr": "learning_rate"})
    metrics = metrics.append_column("checkpoint_id", pa.array([plan.checkpoint_id] * metrics.num_rows))
    where = {"checkpoint_id": plan.checkpoint_id}
    store.replace(TRAINING_METRICS, metrics, where, commit)
    row = {
        "checkpoint_id": plan.checkpoint_id,
        "training_set_id": training_set["training_set_id"],
        "parent_checkpoint_id": plan.parent_checkpoint_id,
        "preset": plan.config.preset,
        "uri": uri,
        "weights_sha256": summary["weights_sha256"],
        "config": plan.config.model_dump_json(),
        "steps": summary["steps"],
        "final_loss": summary["final_loss"],
        "seconds": summary["seconds"],
        "created_at": later_than(store, CHECKPOINTS),
        "run_id": commit.run_id,
    }
    store.replace(CHECKPOINTS, pa.Table.from_pylist([row], CHECKPOINTS.schema), where, commit)
    return row


def checkpoint_folder(store: DeltaStore, row: dict[str, Any]) -> Path:
    """Local folder of a checkpoint in diffusers layout: in the lake, or a cached copy of a remote one.

    Raises:
        CheckpointMissing: The lake does not hold its files.
    """
    parts = Path(row["uri"]).parts
    if parts[:1] != ("checkpoints",) or ".." in parts:
        raise CheckpointMissing(
            f"{row['uri']!r} of checkpoint {row['checkpoint_id']} is no checkpoint folder of the lake"
        )
    cached = _scratch(store) / "cache" / row["checkpoint_id"]
    if cached.is_dir():
        return cached
    system, base = open_root(store.root)
    if system.get_file_info(f"{base}/{row['uri']}").type != fs.FileType.Directory:
        raise CheckpointMissing(
            f"The files of checkpoint {row['checkpoint_id']} are gone from {store.root}/{row['uri']}: restore the "
            "folder from a copy, or choose another checkpoint (`itryon leaderboard` lists them)"
        )
    if isinstance(system, fs.LocalFileSystem):
        return Path(base) / row["uri"]
    temporary = cached.with_name(f".{cached.name}.{uuid.uuid4().hex}.tmp")
    fs.copy_files(f"{base}/{row['uri']}", str(temporary), source_filesystem=system)
    temporary.rename(cached)
    return cached


def verify_weights(folder: Path, row: dict[str, Any]) -> None:
    """Compare the weights in a checkpoint's folder with the digest in its row.

    Raises:
        CheckpointMissing: They were changed since they were trained.
    """
    from models.training.run import weights_sha256

    if weights_sha256(folder / "transformer") != row["weights_sha256"]:
        raise CheckpointMissing(
            f"The weights of checkpoint {row['checkpoint_id']} in {folder} are not those that were trained: put them "
            "back from a copy of the lake, or choose another checkpoint; `itryon leaderboard` lists them"
        )


def validation_sheet(store: DeltaStore, row: dict[str, Any]) -> bytes | None:
    """JPEG of try-on frames from the checkpoint's own training clips or split val; None where it has none."""
    system, base = open_root(store.root)
    path = f"{base}/{row['uri']}/validation.jpg"
    if system.get_file_info(path).type != fs.FileType.File:
        return None
    with system.open_input_file(path) as f:
        return f.read()


def _scratch(store: DeltaStore) -> Path:
    return scratch(store) / "training"


def _copy_folder(source: Path, store: DeltaStore, uri: str) -> None:
    system, base = open_root(store.root)
    target, temporary = f"{base}/{uri}", f"{base}/{uri}.{uuid.uuid4().hex}.tmp"
    if not isinstance(system, fs.LocalFileSystem):
        # Object stores cannot rename folders. The row that names the checkpoint comes after its files.
        fs.copy_files(str(source), target, destination_filesystem=system)
        return
    if system.get_file_info(target).type == fs.FileType.Directory:
        return
    system.create_dir(temporary, recursive=True)
    fs.copy_files(str(source), temporary, destination_filesystem=system)
    system.move(temporary, target)
