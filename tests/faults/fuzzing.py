"""Mutated media files and manifests against the ingestion; `tests.fuzz_ingest` makes them and holds the rows to it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pipelines.ingest.settings import IngestSettings
from tests.faults.lakes import hold
from tests.faults.suite import Case, Kind, Outcome, Runner
from tests.fuzz_ingest import fuzz, fuzz_manifests

FILES, MANIFESTS, CHUNK = 2000, 2000, 250
MEMORY_MB = 2048.0


def cases(seed: int, count: int | None) -> list[Case]:
    """Chunks of media files, then of manifests; `count` is the number of files."""
    files, manifests = (FILES, MANIFESTS) if count is None else (count, count)
    found = []
    for what, total in (("media files", files), ("manifests", manifests)):
        for first in range(0, total, CHUNK):
            number = min(CHUNK, total - first)
            values = {"what": what, "seed": 1000 * seed + first // CHUNK, "number": number}
            found.append(Case(f"{what} {first} to {first + number}", values, number))
    return found


@contextlib.contextmanager
def session(work: Path, seed: int) -> Iterator[Runner]:
    """Nothing is shared between chunks; files that break a promise are kept in the folder."""
    work.mkdir(parents=True, exist_ok=True)

    def run(case: Case) -> Outcome:
        number = case.values["number"]
        if case.values["what"] == "manifests":
            kinds = fuzz_manifests(case.values["seed"], number)
            return Outcome("", {f"manifest lines {k}": v for k, v in kinds.items()})
        settings = IngestSettings(timeout_s=120, memory_gb=MEMORY_MB / 1024, workers=1)
        findings = fuzz(case.values["seed"], number, settings, work / "kept")
        hold(not findings.broken, f"promises are broken: {dict(list(findings.broken.items())[:3])}")
        hold(findings.peak_memory_mb < MEMORY_MB, f"a worker took {findings.peak_memory_mb:.0f} MB")
        return Outcome("", {f"files {k}": v for k, v in findings.kinds.items()})

    yield run


KIND = Kind(
    "fuzz",
    "Mutated media files of thirteen formats and mutated manifests, ingested",
    "no process crashes or hangs, memory stays within the limit, every file is a row that is ok or says why not, and "
    "no line of a manifest leads out of its folder",
    cases,
    session,
)
