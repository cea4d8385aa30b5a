"""Fits the embedded judge: `python -m pipelines.evaluation.judges.fit --batch NAME [NAME ...]`.

The batches must be rendered with `undone` and annotated up to `agnostic_masks`. Results are looked at as rendered and
as the nano autoencoder gives them back. What the model is worth is measured on other batches: `itryon evaluate judge`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.contact.network import weights_digest
from models.judges.base import JudgeRequest
from models.judges.kinematic import WEIGHTS, ClothSampling
from models.judges.measures.features import measure
from models.judges.measures.logistic import Logistic, fit_logistic, write_models
from models.judges.settings import KinematicJudgeSettings
from pipelines.evaluation.judges.agreement import Answer, figures
from pipelines.evaluation.judges.cases import DONE, UNDONE, JudgeCase, read_cases
from pipelines.evaluation.judges.report import requests
from pipelines.store import DeltaStore

ASKED = ("acting", "acting_share", "touching", "named", "margin", "source_change")
"""Measures that the model `asked` reads."""
FOLLOWS = ("change_kept", "in_time", "in_place", "edges_kept", "own_edges_kept")
"""Measures that the model `follows` reads."""


@dataclass(frozen=True)
class MeasuredCase:
    """A case with its measures; `clip` is the number of its clip, `look` what the result looked like."""

    clip: int
    look: str
    case: JudgeCase
    measures: dict[str, float]


def measured_cases(store: DeltaStore, batch: str, settings: KinematicJudgeSettings) -> list[MeasuredCase]:
    """All cases of a batch that can be measured.

    Raises:
        NothingToJudge: The batch yields no cases.
    """
    found = read_cases(store, batch)
    out = []
    for clip, look, case, request in requests(store, ClothSampling(settings), found, ("rendered", "nano")):
        if isinstance(request, JudgeRequest) and any(request.hands):
            out.append(MeasuredCase(clip, look, case, dict(measure(request, settings))))
    return out


def fit_models(cases: Sequence[MeasuredCase], penalty: float) -> dict[str, Logistic]:
    """The models `asked` and `follows`.

    `asked` learns from all cases whether the source shows what the caption says, `follows` from those where it does
    whether the result shows it, too.
    """
    seen = [c for c in cases if np.isfinite(c.measures["result_change"])]
    truly = [c for c in seen if c.case.kind in (DONE, UNDONE)]
    return {
        "asked": fit_logistic(
            [c.measures for c in seen], [c.case.kind in (DONE, UNDONE) for c in seen], ASKED, penalty
        ),
        "follows": fit_logistic([c.measures for c in truly], [c.case.expected for c in truly], FOLLOWS, penalty),
    }


def answers(cases: Sequence[MeasuredCase], models: dict[str, Logistic], least: float) -> list[Answer]:
    """What the models say of cases."""
    out = []
    for c in cases:
        known = np.isfinite(c.measures["result_change"])
        score = models["asked"].probability(c.measures) * models["follows"].probability(c.measures)
        out.append(Answer(c.clip, c.case.kind, c.case.action, c.case.expected, bool(score >= least) if known else None))
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.evaluation.judges.fit", description=__doc__)
    parser.add_argument("--batch", nargs="+", required=True, help="studio batches in the lake at ITRYON_LAKE")
    parser.add_argument("--penalty", type=float, default=4.0, help="ridge penalty of both models")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="file to write")
    parser.add_argument("--measures", type=Path, help="also write every case's measures there, JSON lines")
    args = parser.parse_args(argv)
    store, settings = DeltaStore(), KinematicJudgeSettings()
    cases: list[MeasuredCase] = []
    for batch in args.batch:
        first = 1 + max((c.clip for c in cases), default=-1)
        cases += [
            MeasuredCase(c.clip + first, c.look, c.case, c.measures) for c in measured_cases(store, batch, settings)
        ]
    models = fit_models(cases, args.penalty)
    on_itself: dict[str, Any] = {}
    clips = 1 + max(c.clip for c in cases)
    for look in ("rendered", "nano"):
        said = answers([c for c in cases if c.look == look], models, settings.min_score)
        on_itself[look] = {k: e.value for k, e in figures(said, clips).items()}
    notes = {
        "batches": args.batch,
        "clips": sorted({str(c.case.seed) for c in cases}),
        "cases": len(cases),
        "penalty": args.penalty,
        "settings": settings.model_dump(),
        "contact_weights": weights_digest(),
        "on_the_clips_it_was_fitted_on": on_itself,
    }
    write_models(args.out, models, notes)
    if args.measures:
        lines = [{"clip": c.clip, "look": c.look, **asdict(c.case), **c.measures} for c in cases]
        args.measures.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    print(json.dumps(on_itself, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
