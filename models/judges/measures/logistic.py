"""A logistic regression over a few named measures, kept as JSON that people can read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit


@dataclass(frozen=True)
class Logistic:
    """Probability of yes, from measures by name.

    Attributes:
        names: Measures, in order.
        mean: Mean of each over the cases it was fitted on.
        scale: Standard deviation of each.
        weight: Weight of each after standardisation.
        bias: Logit where all are at their mean.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weight: tuple[float, ...]
    bias: float

    def probability(self, measures: Mapping[str, float]) -> float:
        """Of yes, 0 to 1; a measure that is NaN counts as its mean."""
        return float(self.probabilities(np.array([[measures[n] for n in self.names]]))[0])

    def probabilities(self, rows: np.ndarray) -> np.ndarray:
        """Of yes for rows (N, measures) in the order of `names`."""
        z = np.nan_to_num((rows - np.array(self.mean)) / np.array(self.scale), nan=0.0).clip(-4, 4)
        return expit(z @ np.array(self.weight) + self.bias)


def fit_logistic(
    rows: Sequence[Mapping[str, float]], truth: Sequence[bool], names: Sequence[str], penalty: float = 1.0
) -> Logistic:
    """The weights of greatest likelihood under a ridge penalty; both classes count alike whatever their numbers.

    Args:
        rows: Measures of each case.
        truth: What is so.
        names: Measures to use.
        penalty: Weight of the squared weights against the summed log-likelihood.

    Raises:
        ValueError: Only one class, or a measure that no case has.
    """
    x = np.array([[r[n] for n in names] for r in rows], float)
    y = np.asarray(truth, bool)
    if y.all() or not y.any():
        raise ValueError("cases of one class only: nothing can be fitted")
    if not np.isfinite(x).any(0).all():
        raise ValueError("a measure is unknown in all cases")
    mean, scale = np.nanmean(x, 0), np.maximum(np.nanstd(x, 0), 1e-6)
    z = np.nan_to_num((x - mean) / scale, nan=0.0).clip(-4, 4)
    each = np.where(y, 0.5 / y.sum(), 0.5 / (~y).sum()) * len(y)

    def loss(p: np.ndarray) -> tuple[float, np.ndarray]:
        logit = z @ p[1:] + p[0]
        value = float((each * np.logaddexp(0, np.where(y, -logit, logit))).sum() + 0.5 * penalty * (p[1:] ** 2).sum())
        slope = each * (expit(logit) - y)
        return value, np.concatenate([[slope.sum()], z.T @ slope + penalty * p[1:]])

    best = minimize(loss, np.zeros(len(names) + 1), jac=True, method="L-BFGS-B").x

    def plain(values: np.ndarray) -> tuple[float, ...]:
        return tuple(round(float(v), 6) for v in values)

    return Logistic(tuple(names), plain(mean), plain(scale), plain(best[1:]), round(float(best[0]), 6))


def read_models(path: Path) -> tuple[dict[str, Logistic], dict]:
    """Models by name, and the notes of a file of `write_models`.

    Raises:
        FileNotFoundError: There is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: restore it, or make it as docs/judges.md says")
    stored = json.loads(path.read_text())
    models = {}
    for name, stored_model in stored["models"].items():
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored_model.items()}
        models[name] = Logistic(**values)
    return models, stored["notes"]


def write_models(path: Path, models: Mapping[str, Logistic], notes: Mapping[str, object]) -> None:
    """Replace the file by these models and notes on what made them."""
    values = {"models": {k: vars(m) for k, m in models.items()}, "notes": dict(notes)}
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
    partial.replace(path)
