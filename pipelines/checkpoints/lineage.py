"""Where a checkpoint comes from: its parents, the training sets of each, and the code that trained them."""

from __future__ import annotations

import json
from typing import Any

from pipelines.store import DeltaStore
from pipelines.store.schemas import CHECKPOINTS, TRAINING_SETS

_SHOWN = ("checkpoint_id", "parent_checkpoint_id", "training_set_id", "steps", "created_at", "weights_sha256")
_OF_SET = ("batches", "num_clips", "num_interaction_clips", "encoder_digest")


def lineage(store: DeltaStore, checkpoint_id: str) -> list[dict[str, Any]]:
    """The checkpoint, its parent and so on, as far as the lake knows them.

    Each row has what `checkpoints` says of the training, `batches`, `num_clips`, `num_interaction_clips`,
    `encoder_digest` and `table_versions` of its training set (empty or None where that is gone), `init_from` of its
    configuration, and `code_version` of the commit that wrote it (None where the log no longer has it).
    """
    rows = {r["checkpoint_id"]: r for r in store.read(CHECKPOINTS, list(_SHOWN)).to_pylist()}
    line: list[dict[str, Any]] = []
    name: str | None = checkpoint_id
    while name is not None and (row := rows.pop(name, None)):
        line.append(row)
        name = row["parent_checkpoint_id"]
    where = {"training_set_id": sorted({r["training_set_id"] for r in line})}
    columns = ["training_set_id", *_OF_SET, "table_versions"]
    sets = {r["training_set_id"]: r for r in store.read(TRAINING_SETS, columns, where).to_pylist()}
    started = store.read(
        CHECKPOINTS, ["checkpoint_id", "config"], {"checkpoint_id": [r["checkpoint_id"] for r in line]}
    ).to_pylist()
    init_from = {r["checkpoint_id"]: json.loads(r["config"]).get("init_from") for r in started}
    versions = _code_versions(store)
    for row in line:
        made_of = sets.get(row["training_set_id"])
        row |= {k: made_of[k] if made_of else None for k in _OF_SET}
        row["batches"] = row["batches"] or []
        row["table_versions"] = dict(made_of["table_versions"]) if made_of else {}
        row["init_from"] = init_from.get(row["checkpoint_id"])
        row["code_version"] = versions.get(row["checkpoint_id"])
    return line


def _code_versions(store: DeltaStore) -> dict[str, str]:
    """checkpoint_id -> code version of the commit that wrote its row last."""
    found: dict[str, str] = {}
    for commit in store.open(CHECKPOINTS).history():
        name, version = commit.get("itryon/checkpoint_id"), commit.get("itryon/code_version")
        if name and version:
            found.setdefault(name, version)
    return found
