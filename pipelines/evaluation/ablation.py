"""Rows of an ablation beside the checkpoints: networks that are compared with each other, and never used.

An ablation is measured outside the lake, against exact rendered truth and without a judge: `benchmarks/ablation` leaves
one JSON file a row and seed. Here they are checked, averaged over seeds and kept in a table of their own. No row of it
has a checkpoint_id or shares a measure's name with the leaderboard, so none can be promoted, published or ranked among
checkpoints.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field, ValidationError

from pipelines.evaluation.bootstrap import cluster_draws, percentile_interval
from pipelines.evaluation.settings import LEADERBOARD_VERSION
from pipelines.ingest.manifest import readable
from pipelines.store import Commit, DeltaStore
from pipelines.store.studio_schemas import ABLATIONS

KIND = "ablation"
"""What tells these rows from those of checkpoints where both are listed."""
_DRAWS = 2000

Response = Annotated[float, Field(allow_inf_nan=False)]
Distance = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class AblationError(ValueError):
    """Result files that cannot be used; the message names the file and what to do."""


class AblationClip(BaseModel):
    """One held-back clip in its other garment."""

    clip: str = Field(description="File name of the clip")
    asked: Response = Field(
        description="How far the result goes through the change that the interaction makes, when the caption asks for "
        "it: 0 not at all, 1 as the truth"
    )
    quiet: Response = Field(
        description="The same of a clip in which hands move alike and nothing is done or asked for; it wears the "
        "garment already"
    )
    unasked: Response = Field(description="The same of the first clip, in which it is done, when nothing is asked for")
    error: Distance = Field(description="Mean absolute difference from the truth where the garment changes pixels")
    error_interaction: Distance = Field(description="The same in the frames of the interaction")
    error_changed: Distance = Field(description="The same where the interaction changes pixels")


class AblationResult(BaseModel):
    """What one training of one row came to: a file that `benchmarks/ablation` leaves."""

    row: str = Field(min_length=1, description="Short name of the row")
    title: str | None = Field(None, description="What the row is; older files do not say")
    seed: int = Field(ge=0, description="Seed of the training")
    settings: str = Field(min_length=1, description="Digest of the ablation's settings")
    training_set: str = Field(min_length=1, description="Training set, in the ablation's own lake")
    weights_sha256: Digest = Field(description="Weights that were measured")
    final_loss: float = Field(description="Mean loss of the last tenth of the steps")
    seconds: float = Field(ge=0, description="Training time")
    clips: list[AblationClip] = Field(min_length=1, description="What was measured")


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def percent(self) -> str:
        """As percent."""
        return f"{100 * self.mean:.0f} % ({100 * self.low:.0f} to {100 * self.high:.0f})"

    def number(self) -> str:
        """Three decimals."""
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"


def interval(values: np.ndarray, seed: int = 0) -> Interval:
    """Mean over seeds and clips, and its bootstrap interval; clips and seeds are drawn with replacement.

    Args:
        values: (seeds, clips).
        seed: Of the bootstrap.
    """
    seeds, clips = values.shape
    of_seeds, of_clips = cluster_draws([seeds, clips], _DRAWS, seed)
    means = np.einsum("bs,sc,bc->b", of_seeds, values, of_clips, optimize=True) / values.size
    found = percentile_interval(means, 0.95)
    assert found is not None
    mean = float(values.mean())
    # Where all values are alike the draws differ from them by rounding.
    return Interval(mean, min(found[0], mean), max(found[1], mean))


def summary(clips_of_seeds: Sequence[Sequence[AblationClip]]) -> dict[str, Interval]:
    """Measures of one row: `isr` (done when asked), `false` (done in a clip in which nothing is done or asked for),
    `leaked` (done unasked, as the source shows it around the mask), the responses that these rest on (`asked`, `quiet`,
    `unasked`), `error`, `error_interaction` and `error_changed`.

    Args:
        clips_of_seeds: For each seed, the clips that it was measured on.

    Raises:
        AblationError: The seeds were measured on different clips.
    """
    if len({tuple(c.clip for c in clips) for clips in clips_of_seeds}) != 1:
        raise AblationError("the seeds of a row were measured on different clips: delete its results and run again")
    measures = {
        "isr": lambda c: float(c.asked > 0.5),
        "false": lambda c: float(c.quiet > 0.5),
        "leaked": lambda c: float(c.unasked > 0.5),
        "asked": lambda c: c.asked,
        "quiet": lambda c: c.quiet,
        "unasked": lambda c: c.unasked,
        "error": lambda c: c.error,
        "error_interaction": lambda c: c.error_interaction,
        "error_changed": lambda c: c.error_changed,
    }
    return {k: interval(np.array([[f(c) for c in clips] for clips in clips_of_seeds])) for k, f in measures.items()}


def read_results(paths: Iterable[str | Path]) -> list[tuple[AblationResult, str]]:
    """Results and the SHA-256 of their files, in the order of their names.

    Args:
        paths: JSON files, or folders of them.

    Raises:
        AblationError: There is no such file, it is no result, or two of them are of the same row, seed and training.
    """
    found: dict[tuple[str, ...], tuple[Path, AblationResult, str]] = {}
    for path in map(Path, paths):
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not files:
            raise AblationError(f"There are no results in {path}: `make ablation` writes them")
        for file in files:
            try:
                content = file.read_bytes()
                result = AblationResult.model_validate_json(content)
            except FileNotFoundError as e:
                raise AblationError(f"There is no file {file}: name results of `make ablation`") from e
            except OSError as e:
                raise AblationError(f"{file} cannot be read: {e.strerror}") from e
            except ValidationError as e:
                raise AblationError(f"{file} is no result of an ablation: {readable(e)}") from e
            sha256 = hashlib.sha256(content).hexdigest()
            key = (result.settings, result.row, result.training_set, f"{result.seed:09}")
            before = found.setdefault(key, (file, result, sha256))
            if before[2] != sha256:
                raise AblationError(
                    f"{before[0]} and {file} are both row {result.row} with seed {result.seed}: name one of them"
                )
    return [(result, sha256) for _, (_, result, sha256) in sorted(found.items())]


def ablation_rows(results: Sequence[tuple[AblationResult, str]]) -> list[dict[str, Any]]:
    """One row for each row of an ablation: means over its seeds; without `created_at` and `run_id`.

    Seeds are put together only where settings and training set are the same.

    Args:
        results: From `read_results`.

    Raises:
        AblationError: The seeds of a row were measured on different clips.
    """
    groups: dict[tuple[str, str, str], list[tuple[AblationResult, str]]] = {}
    for result, sha256 in results:
        groups.setdefault((result.settings, result.row, result.training_set), []).append((result, sha256))
    rows = []
    for (settings, name, training_set), of_row in groups.items():
        try:
            measured = summary([r.clips for r, _ in of_row])
        except AblationError as e:
            raise AblationError(f"row {name}: {e}") from e
        row: dict[str, Any] = {
            "settings_digest": settings,
            "row": name,
            "title": next((r.title for r, _ in of_row if r.title), None),
            "training_set_id": training_set,
            "seeds": [r.seed for r, _ in of_row],
            "weights_sha256": [r.weights_sha256 for r, _ in of_row],
            "result_sha256": [sha256 for _, sha256 in of_row],
            "held_back_clips": len(of_row[0][0].clips),
            "training_seconds": sum(r.seconds for r, _ in of_row),
        }
        for column, measure in _COLUMNS.items():
            value = measured[measure]
            row |= {column: value.mean, f"{column}_low": value.low, f"{column}_high": value.high}
        rows.append(row)
    return rows


_COLUMNS = {
    "exact_isr": "isr",
    "false_interactions": "false",
    "leaked_interactions": "leaked",
    "exact_error": "error",
    "exact_error_interaction": "error_interaction",
    "exact_error_changed": "error_changed",
}


def write_ablations(store: DeltaStore, rows: Sequence[dict[str, Any]], commit: Commit | None = None) -> None:
    """Put rows into the table in place of all rows of the same settings; those of other settings stay.

    Args:
        store: The lake.
        rows: From `ablation_rows`.
        commit: Provenance.
    """
    commit = Commit((commit or Commit()).run_id, LEADERBOARD_VERSION)
    now = {"created_at": datetime.now(UTC), "run_id": commit.run_id}
    for settings in sorted({r["settings_digest"] for r in rows}):
        mine = [r | now for r in rows if r["settings_digest"] == settings]
        store.replace(ABLATIONS, pa.Table.from_pylist(mine, ABLATIONS.schema), {"settings_digest": settings}, commit)


def read_ablations(store: DeltaStore) -> list[dict[str, Any]]:
    """Rows of the table, by settings and name."""
    return store.read(ABLATIONS).to_pylist()


HEADS = (
    "row",
    "seeds",
    "exact ISR",
    "false interactions",
    "leaked interactions",
    "error",
    "error in interaction frames",
    "error in interaction pixels",
    "clips",
    "training set",
    "settings",
    "weights",
)
"""The headings of `cells`."""

TITLE = "Ablation, measured against exact rendered truth: no checkpoints, never promoted"


def cells(row: dict[str, Any]) -> list[str]:
    """The cells of a row as people read them."""

    def of(column: str, show: Callable[[Interval], str]) -> str:
        # Columns that came later are null in older rows.
        if row[column] is None:
            return "not measured"
        return show(Interval(row[column], row[f"{column}_low"], row[f"{column}_high"]))

    return [
        row["row"] if row["title"] is None else f"{row['row']}: {row['title']}",
        ", ".join(map(str, row["seeds"])),
        *(of(c, Interval.percent) for c in ("exact_isr", "false_interactions", "leaked_interactions")),
        *(of(c, Interval.number) for c in ("exact_error", "exact_error_interaction", "exact_error_changed")),
        str(row["held_back_clips"]),
        row["training_set_id"][:12],
        row["settings_digest"],
        ", ".join(w[:8] for w in row["weights_sha256"]),
    ]


def ablations_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table under its title; empty without any."""
    if not rows:
        return ""
    lines = [f"{TITLE}.\n", f"| {' | '.join(HEADS)} |", "|" + "---|" * len(HEADS)]
    lines += [f"| {' | '.join(c.replace('|', '/') for c in cells(row))} |" for row in rows]
    return "\n".join(lines)
