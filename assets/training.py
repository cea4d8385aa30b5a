"""`training_set` and `itryon_checkpoint`: clips are pinned, and a process of its own trains on them."""

import json
from typing import Any

import dagster as dg

from assets.metadata import picture, static_metadata, table_metadata, upstream_metadata
from pipelines.checkpoints.settings import CODE_VERSION as TRAINING_VERSION
from pipelines.store import Commit
from pipelines.store.schemas import CHECKPOINTS, TRAINING_SETS
from pipelines.training_sets.settings import CODE_VERSION as TRAINING_SET_VERSION

_COMMON: dict[str, Any] = {"group_name": "training", "owners": ["team:machine-learning"]}


@dg.asset(
    deps=["clips"],
    description="A pinned selection of clips from annotated batches.\n\n"
    "One row: the clips by digest, with the filters and table versions behind them. The same row gives the same "
    "samples for ever.",
    code_version=TRAINING_SET_VERSION,
    kinds={"deltalake"},
    metadata=static_metadata(TRAINING_SETS),
    required_resource_keys={"lake", "training_set"},
    **_COMMON,
)
def training_set(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Pin the clips there are now."""
    from pipelines.training_sets.build import TrainingSetError, build_training_set

    store = context.resources.lake.store()
    try:
        row = build_training_set(
            store, context.resources.training_set.build(), commit=Commit(context.run.run_id, TRAINING_SET_VERSION)
        )
    except TrainingSetError as e:
        raise dg.Failure(str(e), allow_retries=False) from e
    return dg.MaterializeResult(
        metadata={
            "training_set_id": row["training_set_id"],
            "clips": row["num_clips"],
            "interaction_clips": row["num_interaction_clips"],
            "batches": dg.MetadataValue.json(sorted(row["batches"])),
            "filters": dg.MetadataValue.json(json.loads(row["filters"])),
            "table_versions": dg.MetadataValue.json(dict(row["table_versions"])),
        }
        | table_metadata(store, TRAINING_SETS, store.version(TRAINING_SETS), 1),
        data_version=dg.DataVersion(row["training_set_id"]),
    )


@dg.asset(
    deps=["training_set"],
    description="The diffusion model: an iTryOn transformer trained on the newest training set, by flow matching and "
    "the paper's action-aware constraint (AC) loss, which weighs the frames in which hands act.\n\n"
    "One row: a checkpoint, with its training set and the checkpoint it goes on from.",
    code_version=TRAINING_VERSION,
    kinds={"deltalake", "pytorch", "diffusers"},
    metadata=static_metadata(CHECKPOINTS),
    required_resource_keys={"lake", "training", "clips", "pipes"},
    pool="gpu",
    **_COMMON,
)
def itryon_checkpoint(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """Train through Dagster Pipes, unless a checkpoint of exactly this training set and configuration exists."""
    from pipelines.checkpoints.train import find_checkpoint, plan_training, register_checkpoint, validation_sheet
    from pipelines.previews.plots import loss_curve
    from pipelines.training_sets.build import training_set_row as find_training_set

    store = context.resources.lake.store()
    training_set_row = find_training_set(store, upstream_metadata(context, "training_set", "training_set_id"))
    try:
        plan = plan_training(
            store, training_set_row, context.resources.training.build(), context.resources.clips.build()
        )
    except (LookupError, OSError, ValueError) as e:
        raise dg.Failure(str(e), allow_retries=False) from e
    row = find_checkpoint(store, plan.checkpoint_id)
    if row is None:
        if plan.remark:
            context.log.warning(plan.remark)
        extras = {"checkpoint_id": plan.checkpoint_id, "lake": store.root}
        context.resources.pipes.run(context=context, command=plan.command, extras=extras).get_results()
        row = register_checkpoint(store, plan, training_set_row, Commit(context.run.run_id, TRAINING_VERSION))
    return dg.MaterializeResult(
        metadata={
            "loss_curve": picture(loss_curve(store, row["checkpoint_id"])) or "no step was logged",
            "validation": picture(validation_sheet(store, row)) or "none: set validate_every",
            "checkpoint_id": row["checkpoint_id"],
            "training_set_id": row["training_set_id"],
            "parent_checkpoint_id": row["parent_checkpoint_id"] or "none",
            "checkpoint_uri": f"{store.root}/{row['uri']}",
            "preset": row["preset"],
            "steps": row["steps"],
            "final_loss": round(row["final_loss"], 4),
            "seconds": round(row["seconds"], 1),
            "seconds_per_step": round(row["seconds"] / row["steps"], 3),
            "weights_sha256": row["weights_sha256"],
            "tensorboard": f"tensorboard --logdir {plan.output_dir / 'tensorboard'}",
        }
        | table_metadata(store, CHECKPOINTS, store.version(CHECKPOINTS), 1),
        data_version=dg.DataVersion(row["weights_sha256"][:32]),
    )


training_assets = [training_set, itryon_checkpoint]
