"""Ablation results on the leaderboard: checked files, averaged seeds, and rows that nothing takes for a checkpoint."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pipelines.checkpoints.train import CheckpointMissing, named_checkpoint
from pipelines.evaluation.ablation import (
    AblationError,
    ablation_rows,
    ablations_markdown,
    read_ablations,
    read_results,
    write_ablations,
)
from pipelines.evaluation.leaderboard import leaderboard_rows, write_leaderboard
from pipelines.evaluation.promotion import PromotionError, promote, rollback
from pipelines.store import DeltaStore
from pipelines.store.schemas import LEADERBOARD
from pipelines.store.studio_schemas import ABLATIONS
from tests.pipelines.scored_checkpoints import add_checkpoint, add_training_set


def write_result(folder: Path, row: str, seed: int = 0, asked=(0.9, 0.8, 0.2), quiet=(0.1, 0.7, 0.3), **more) -> Path:
    """A result file as `benchmarks/ablation` writes them."""
    clips = [
        {"clip": f"c{i}.mp4", "asked": a, "quiet": q, "unasked": 0.8}
        | {"error": 0.1 + 0.01 * seed, "error_interaction": 0.2, "error_changed": 0.4, "unchanged": 0.3}
        for i, (a, q) in enumerate(zip(asked, quiet))
    ]
    result = {
        "row": row,
        "seed": seed,
        "settings": "0123456789ab",
        "training_set": "set-of-it",
        "weights_sha256": hashlib.sha256(f"{row}{seed}".encode()).hexdigest(),
        "final_loss": 0.4,
        "seconds": 600.0,
        "clips": clips,
    }
    file = folder / f"{row}-{seed}.json"
    file.write_text(json.dumps(result | more, indent=1) + "\n")
    return file


def test_a_row_is_the_mean_over_seeds_and_names_its_files(tmp_path):
    files = [
        write_result(tmp_path, "e", s, asked, title="(e) | all")
        for s, asked in enumerate([(0.9, 0.8, 0.2), (0.9, 0.4, 0.2)])
    ]
    write_result(tmp_path, "a", training_set="another")
    rows = ablation_rows(read_results([tmp_path]))
    assert [r["row"] for r in rows] == ["a", "e"]
    row = rows[1]
    assert row["exact_isr"] == pytest.approx(3 / 6) and row["false_interactions"] == pytest.approx(1 / 3)
    assert row["leaked_interactions"] == 1
    assert row["exact_error"] == pytest.approx(0.105) and row["exact_error_interaction"] == pytest.approx(0.2)
    assert row["exact_error_changed"] == pytest.approx(0.4)
    for column in ("exact_isr", "false_interactions", "exact_error", "exact_error_interaction", "exact_error_changed"):
        assert row[f"{column}_low"] <= row[column] <= row[f"{column}_high"]
    assert row["exact_isr_low"] < row["exact_isr_high"], "three clips do not settle a share"
    assert (row["seeds"], row["held_back_clips"], row["training_seconds"]) == ([0, 1], 3, 1200)
    assert row["result_sha256"] == [hashlib.sha256(f.read_bytes()).hexdigest() for f in files]
    assert [w[:4] for w in row["weights_sha256"]] == [hashlib.sha256(f"e{s}".encode()).hexdigest()[:4] for s in (0, 1)]
    assert rows[0]["training_set_id"] == "another" and rows[0]["title"] is None
    lines = ablations_markdown(rows).splitlines()
    assert len({line.count("|") for line in lines[2:]}) == 1, "a bar in a title is no column"
    # As in a lake of before there was the column.
    before = rows[1] | {f"exact_error_changed{end}": None for end in ("", "_low", "_high")}
    assert "not measured" in ablations_markdown([before]) and "not measured" not in lines[-1]
    assert "50 % (" in lines[-1] and "no checkpoints" in lines[0] and ablations_markdown([]) == ""


def test_seeds_of_other_settings_or_training_sets_are_not_averaged(tmp_path):
    write_result(tmp_path, "e", 0)
    write_result(tmp_path, "e", 1, settings="ffff")
    write_result(tmp_path, "e", 2, training_set="another")
    assert [r["seeds"] for r in ablation_rows(read_results([tmp_path]))] == [[2], [0], [1]]


def test_files_that_cannot_be_used_are_named_with_what_is_wrong(tmp_path):
    good = write_result(tmp_path, "e")
    with pytest.raises(AblationError, match=r"no file .*missing"):
        read_results([good, tmp_path / "missing.json"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(AblationError, match=r"no results in .*make ablation"):
        read_results([tmp_path / "empty"])
    clip = {"clip": "c", "asked": 1, "quiet": 0, "unasked": 0, "error": 0}
    clip |= {"error_interaction": 0, "error_changed": 0}
    for wrong, said in (
        ({"weights_sha256": "abc"}, "weights_sha256"),
        ({"clips": []}, "clips"),
        ({"clips": [clip | {"asked": float("nan")}]}, "asked"),
        ({"clips": [clip | {"error": float("inf")}]}, "error"),
        ({"clips": [{k: v for k, v in clip.items() if k != "quiet"}]}, "quiet"),
    ):
        with pytest.raises(AblationError, match=rf"b-0.json is no result of an ablation: .*{said}"):
            read_results([write_result(tmp_path / "empty", "b", **wrong)])
    (tmp_path / "empty" / "b-0.json").write_text("[1, 2")
    with pytest.raises(AblationError, match=r"b-0\.json is no result"):
        read_results([tmp_path / "empty"])


def test_a_file_named_twice_counts_once_and_two_of_one_seed_are_refused(tmp_path):
    first = write_result(tmp_path, "e")
    assert len(read_results([first, tmp_path])) == 1
    (tmp_path / "other").mkdir()
    second = write_result(tmp_path / "other", "e", asked=(0.1, 0.1, 0.1))
    with pytest.raises(AblationError, match="both row e with seed 0"):
        read_results([first, second])
    fewer = write_result(tmp_path / "other", "e", 1, asked=(0.9,))
    with pytest.raises(AblationError, match=r"row e: .*different clips"):
        ablation_rows(read_results([first, fewer]))


def test_rows_stay_until_the_same_settings_are_measured_again(lake: DeltaStore, tmp_path):
    write_result(tmp_path, "a")
    write_result(tmp_path, "old", settings="ffff")
    write_ablations(lake, ablation_rows(read_results([tmp_path])))
    assert [r["row"] for r in read_ablations(lake)] == ["a", "old"]
    write_ablations(lake, ablation_rows(read_results([write_result(tmp_path, "b")])))
    assert [r["row"] for r in read_ablations(lake)] == ["b", "old"]
    before = lake.version(ABLATIONS)
    write_ablations(lake, [])
    assert lake.version(ABLATIONS) == before


def test_no_row_is_ever_a_checkpoint(lake: DeltaStore, tmp_path):
    add_training_set(lake)
    add_checkpoint(lake, "real", verdicts=[True, False])
    write_leaderboard(lake)
    # Perfect, and named after the checkpoint itself.
    write_result(tmp_path, "real", asked=(1, 1, 1), quiet=(0, 0, 0), training_set="set1")
    rows = ablation_rows(read_results([tmp_path]))
    write_ablations(lake, rows)
    assert [r["checkpoint_id"] for r in leaderboard_rows(lake)] == ["real"]
    assert leaderboard_rows(lake)[0]["isr"] == 0.5
    shared = set(rows[0]) & set(LEADERBOARD.schema.names)
    assert shared == {"training_set_id", "weights_sha256"}, "no identity and no measure in common"
    write_result(tmp_path, "ghost", asked=(1, 1, 1))
    write_ablations(lake, ablation_rows(read_results([tmp_path])))
    weights = next(r["weights_sha256"][0] for r in read_ablations(lake) if r["row"] == "ghost")
    for name in ("ghost", weights, "0123456789ab"):
        with pytest.raises(PromotionError, match="not on the leaderboard"):
            promote(lake, name)
        with pytest.raises(PromotionError, match="No checkpoint starts"):
            rollback(lake, name)
        with pytest.raises(CheckpointMissing):
            named_checkpoint(lake, name)
