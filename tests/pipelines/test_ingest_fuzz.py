"""A few of the mutated files of `tests.fuzz_ingest`, and that it notices a broken promise."""

import numpy as np
import pytest

from pipelines.ingest.landing import landing_folder
from pipelines.ingest.settings import IngestSettings
from tests.fuzz_ingest import Findings, check_batch, fuzz, originals, write_batch


@pytest.mark.slow
def test_mutated_files_are_rows_with_reasons():
    findings = fuzz(7, 24, IngestSettings(workers=1, timeout_s=60, memory_gb=2))
    assert findings.broken == {}
    assert sum(findings.kinds.values()) == 24 and findings.kinds["error"] > 0


def test_the_same_seed_makes_the_same_files(tmp_path):
    (tmp_path / "whole").mkdir()
    whole = originals(tmp_path / "whole")
    for name in ("a", "b"):
        write_batch(tmp_path / name, whole, 12, np.random.default_rng(3))
    made = [{p.name: p.read_bytes() for p in (tmp_path / n).rglob("*") if p.is_file()} for n in ("a", "b")]
    assert made[0] == made[1] and len(made[0]) == 13


def test_a_file_without_a_row_is_noticed(lake):
    landing_folder(lake, "b").mkdir(parents=True)
    findings = Findings()
    check_batch(lake, "b", ["x.mp4"], findings)
    assert findings.broken == {"b/x.mp4": "is no row"}
