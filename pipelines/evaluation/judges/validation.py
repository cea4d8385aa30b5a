"""What is known of a judge's agreement with known truth. Reads the table only, so that status reports stay light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from pipelines.evaluation.shown import UNKNOWN, shown
from pipelines.store import DeltaStore
from pipelines.store.studio_schemas import JUDGE_REPORTS

NEVER = (
    "never validated: run `itryon evaluate judge --batch NAME` with the same settings on a batch rendered with --undone"
)

METRICS = ("kappa", "kappa_all", "accuracy", "sensitivity", "specificity", "answered")
"""Figures of a judge report, most telling first."""


@dataclass(frozen=True)
class Validation:
    """The newest agreement of one judge, by the look of the results it judged.

    Attributes:
        batch: Batch it was measured on; None where the judge was never validated.
        held_back: Whether the judge was fitted on none of these clips.
        rows: Look of the results -> row of `judge_reports` with kappa over all cases.
    """

    batch: str | None
    held_back: bool
    rows: dict[str, dict[str, Any]]

    def kappa_or(self, when_judged: float | None) -> float | None:
        """The kappa of the report; where there is none, the one that verdicts came with."""
        return when_judged if self.batch is None else self.kappa

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa on results as rendered, or on what was judged instead; None where it is not known."""
        row = self.rows.get("rendered") or next(iter(self.rows.values()), None)
        return row["value"] if row else None

    @property
    def text(self) -> str:
        """For people, one line."""
        if self.batch is None:
            return NEVER
        parts = []
        for look, r in self.rows.items():
            if r["value"] is None:
                parts.append(f"no kappa on {look} results: the cases cannot tell")
                continue
            parts.append(f"kappa {figure_shown(r)} on {r['num_cases']} {look} results")
        known = f"{', '.join(parts)} of batch {self.batch}"
        return known if self.held_back else f"{known}, on which the judge was fitted: it looks better than it is"


def figure_shown(row: dict[str, Any] | None) -> str:
    """A row of `judge_reports` as people read it; a dash where there is none."""
    return UNKNOWN if row is None else shown(row["value"], row["low"], row["high"])


def newest_validation(store: DeltaStore, judge_digest: str | None) -> Validation:
    """The newest report of exactly this judge; batches that it was not fitted on go first.

    Args:
        store: The lake.
        judge_digest: Settings, version and weights of the judge; None for verdicts older than digests.
    """
    if judge_digest is None:
        return Validation(None, False, {})
    table = store.read(JUDGE_REPORTS, where={"judge_digest": judge_digest})
    rows = table.filter(pc.and_(pc.equal(table["metric"], "kappa"), pc.equal(table["split"], "all"))).to_pylist()
    if not rows:
        return Validation(None, False, {})
    newest = max(rows, key=lambda r: (r["held_back"], r["created_at"]))
    mine = sorted((r for r in rows if r["batch"] == newest["batch"]), key=lambda r: r["pictures"] != "rendered")
    return Validation(newest["batch"], newest["held_back"], {r["pictures"]: r for r in mine})


def kappa_now(store: DeltaStore, judge_digest: str | None, when_judged: float | None) -> float | None:
    """The kappa to show beside verdicts: that of the newest report, or, where none is left, the one they came with.

    Args:
        store: The lake.
        judge_digest: The judge, see `newest_validation`.
        when_judged: Column `judge_kappa` of the verdicts.
    """
    return newest_validation(store, judge_digest).kappa_or(when_judged)
