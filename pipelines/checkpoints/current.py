"""Which checkpoint is the current one, read from the decisions in `promotions`.

Who decides is `pipelines.evaluation.promotion`; training and try-on only read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pipelines.store import DeltaStore
from pipelines.store.schemas import PROMOTIONS

PROMOTED, KEPT, ROLLED_BACK = "promoted", "kept", "rolled_back"


@dataclass
class Standing:
    """What a sequence of decisions comes to.

    Attributes:
        stack: Checkpoints that were promoted and not rolled back since, the current one last.
        withdrawn: Checkpoints that were rolled back: they are not promoted again but by hand.
        promoted_at: Checkpoint -> time of its last promotion or of the roll-back to it.
    """

    stack: list[str] = field(default_factory=list)
    withdrawn: set[str] = field(default_factory=set)
    promoted_at: dict[str, Any] = field(default_factory=dict)

    @property
    def current(self) -> str | None:
        """The current checkpoint; None where none was ever promoted."""
        return self.stack[-1] if self.stack else None


def decisions(store: DeltaStore) -> list[dict[str, Any]]:
    """Rows of `promotions`, oldest first."""
    return store.read(PROMOTIONS).to_pylist()


def standing(rows: Iterable[dict[str, Any]]) -> Standing:
    """What decisions come to.

    A promotion puts a checkpoint on top of those before it. A roll-back takes away what is above the checkpoint it
    names.

    Args:
        rows: Rows of `promotions`, oldest first.
    """
    out = Standing()
    for row in rows:
        name = row["checkpoint_id"]
        if row["kind"] == KEPT:
            continue
        if row["kind"] == ROLLED_BACK:
            keep = out.stack.index(name) + 1
            out.withdrawn |= set(out.stack[keep:])
            del out.stack[keep:]
        else:
            out.stack.append(name)
        out.withdrawn.discard(name)
        out.promoted_at[name] = row["created_at"]
    return out


def current_standing(store: DeltaStore) -> Standing:
    """What the decisions in the lake come to. Reads none of the comparisons that they were made by."""
    # Those that a decision is sorted by are among the columns.
    return standing(store.read(PROMOTIONS, ["sequence", "created_at", "kind", "checkpoint_id"]).to_pylist())


def current_id(store: DeltaStore) -> str | None:
    """The current checkpoint; None where none was promoted yet."""
    return current_standing(store).current
