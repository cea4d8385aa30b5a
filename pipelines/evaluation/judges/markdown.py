"""The judge report in Markdown."""

from __future__ import annotations

from pipelines.evaluation.judges.report import JudgeReport
from pipelines.evaluation.judges.validation import METRICS, figure_shown


def agreement_markdown(report: JudgeReport) -> str:
    """All figures over all cases, then accuracy and kappa of every kind of case and action."""
    looks = report.pictures
    lines = [f"| figure | {' | '.join(looks)} |", "|---" * (len(looks) + 1) + "|"]
    for metric in METRICS:
        lines.append(f"| {metric} | {' | '.join(figure_shown(report.of(metric, p)) for p in looks)} |")
    names = list(dict.fromkeys(r["split"] for r in report.rows if r["split"] != "all"))
    lines += ["", "| cases | " + " | ".join(f"{p}: accuracy | {p}: kappa" for p in looks) + " |"]
    lines.append("|---" * (2 * len(looks) + 1) + "|")
    for name in names:
        cells = [figure_shown(report.of(m, p, name)) for p in looks for m in ("accuracy", "kappa")]
        lines.append(f"| {name.replace('=', ' ')} | {' | '.join(cells)} |")
    return "\n".join(lines)
