"""A few injections of each kind of fault, and that the suite notices a promise that does not hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.store import TABLES, Commit
from pipelines.store.schemas import POSE, VIDEOS
from tests.faults import clocks, damage, disk_full, object_store, poison, races, stage_kills, trainer_kills
from tests.faults.__main__ import KINDS, read, run_kind
from tests.faults.lakes import (
    BATCH,
    Broken,
    check_blobs,
    check_done,
    check_no_more,
    check_same,
    contents,
    fake_lake,
    names_remedy,
)
from tests.faults.report import markdown
from tests.faults.suite import Case, Kind, Outcome
from tests.fuzz_ingest import fuzz_manifests
from tests.pipelines.test_store import caption_rows


def chosen(cases: list[Case], *parts: str) -> list[Case]:
    """The first case whose name holds each of the parts."""
    return [next(c for c in cases if part in c.name) for part in parts]


# --- a few of each kind ---


@pytest.mark.slow
def test_kills_of_a_stage(tmp_path: Path):
    cases = stage_kills.cases(1, None, stage_kills.FAKE)
    with stage_kills.session(tmp_path, 1) as run:
        (boundaries,) = chosen(cases, "boundaries")
        # What was left is no promise: the next run may have used it.
        assert run(boundaries).figures["workers killed at a boundary"] == 2


@pytest.mark.slow
def test_kills_of_the_trainer(tmp_path: Path):
    with trainer_kills.session(tmp_path, 1) as run:
        for case in chosen(trainer_kills.cases(1, None), "filled:3", "forgotten:1"):
            assert run(case).note == "went on from a checkpoint"


@pytest.mark.slow
@pytest.mark.skipif(bool(disk_full.skip()), reason=disk_full.skip())
def test_a_disk_that_fills_up(tmp_path: Path):
    cases = disk_full.cases(1, None)
    with disk_full.session(tmp_path / "disk", 1) as run:
        for case in [*chosen(cases, "land"), *chosen(cases[1:], "land"), *chosen(cases, "stage")]:
            run(case)


@pytest.mark.slow
@pytest.mark.skipif(bool(object_store.skip()), reason=object_store.skip())
def test_an_object_store_in_trouble(tmp_path: Path):
    cases = object_store.cases(1, None)
    with object_store.session(tmp_path / "store", 1) as run:
        for case in chosen(cases, "refuses from request", "20% of the requests without an answer"):
            run(case)


@pytest.mark.slow
def test_two_runs_of_a_batch_at_once(tmp_path: Path):
    with races.session(tmp_path / "races", 1) as run:
        for case in chosen(races.cases(1, None), "2 runs, 0.05 s", "a promotion and a rollback"):
            run(case)


@pytest.mark.slow
@pytest.mark.skipif(bool(clocks.skip()), reason=clocks.skip())
def test_a_writer_whose_clock_is_hours_off(tmp_path: Path):
    with clocks.session(tmp_path, 1) as run:
        for case in chosen(clocks.cases(1, None), "+26"):
            run(case)


@pytest.mark.slow
def test_damage_by_hand(tmp_path: Path):
    cases = damage.cases(1, None)
    with damage.session(tmp_path, 1, stage_kills.FAKE) as run:
        for case in chosen(cases, "data file of pose is gone", "newest commit of stage_status", "older commit of pose"):
            run(case)


def test_weights_that_are_not_what_they_say(tmp_path: Path):
    cases = poison.cases(1, None)
    with poison.session(tmp_path / "poison", 1) as run:
        for case in chosen(cases, "hand_landmark", "(saved) as I3D", "(saved) as transformer", "(plain) as tensors"):
            run(case)


def test_odd_manifests_are_rows_with_reasons():
    kinds = fuzz_manifests(7, 120)
    assert kinds["right"] > 20 and kinds["wrong"] > 20 and kinds["lists landed"] > 0


# --- what would not hold is noticed ---


def test_rows_that_are_lost_doubled_or_strange_are_noticed(lake):
    wanted = contents(lake)
    lake.replace(TABLES["captions"], caption_rows(BATCH, ["one"]), {"batch": BATCH}, Commit())
    one = contents(lake)
    with pytest.raises(Broken, match="captions has other rows"):
        check_same(one, wanted)
    with pytest.raises(Broken, match="not in the undisturbed"):
        check_no_more(one, wanted)
    twice = {**one, "captions": one["captions"] * 2}
    with pytest.raises(Broken, match="twice"):
        check_no_more(twice, one)
    with pytest.raises(Broken, match="other rows"):
        check_same(twice, one)
    silent = {**one, "stage_status": [{"status": "error", "reason": "ValueError: it went wrong"}]}
    with pytest.raises(Broken, match="names no remedy"):
        check_no_more(silent, one)


def test_half_blobs_and_files_that_nobody_deletes_are_noticed(tmp_path: Path):
    store = fake_lake(tmp_path / "lake")
    check_blobs(store)
    check_done(store, contents(store))
    uri = store.blobs.put_bytes(b"a video", ".mp4")
    with pytest.raises(Broken, match="no row names"):
        check_done(store, contents(store))
    rows = store.read(VIDEOS).to_pylist()
    rows[0]["uri"] = uri
    table = store.read(VIDEOS).from_pylist(rows, VIDEOS.schema)
    store.replace(VIDEOS, table, {"batch": BATCH}, Commit())
    check_blobs(store)
    check_done(store, contents(store))
    (tmp_path / "lake" / uri).write_bytes(b"a vi")
    with pytest.raises(Broken, match="damaged blob"):
        check_blobs(store)
    (tmp_path / "lake" / uri).unlink()
    with pytest.raises(Broken, match="not there"):
        check_blobs(store)
    rows[0]["uri"] = None
    table = store.read(VIDEOS).from_pylist(rows, VIDEOS.schema)
    store.replace(VIDEOS, table, {"batch": BATCH}, Commit())
    # Below a table it is deleted with the data files that no commit names; elsewhere nobody looks after it.
    (tmp_path / "lake" / "tables" / "pose" / "half.tmp").write_bytes(b"x")
    assert "/lake/tables/pose/half.tmp" in check_done(store, contents(store))[0]
    (tmp_path / "lake" / "half.tmp").write_bytes(b"x")
    with pytest.raises(Broken, match="never deleted"):
        check_done(store, contents(store))


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("Table pose is damaged: run `itryon repair`, then run again", True),
        ("The worker process died (exit code -9); the next run tries again", True),
        ("Took longer than 5 s and was stopped (workers.timeout_s)", True),
        ("ValueError: no person in the video", False),
        ("OSError: [Errno 28] No space left on device", False),
        ("Generic S3 error: error sending request", False),
    ],
)
def test_a_remedy_is_known_by_its_words(message: str, named: bool):
    assert names_remedy(message) == named


# --- the suite itself ---


def test_cases_are_drawn_by_the_seed_and_have_names_of_their_own():
    kills = 0
    for kind in KINDS.values():
        names = [c.name for c in kind.cases(1, None)]
        assert len(set(names)) == len(names), kind.name
        assert names == [c.name for c in kind.cases(1, None)]
        few = [c.name for c in kind.cases(1, 2)]
        assert few == [c.name for c in kind.cases(1, 2)]
        if kind.name in ("stages", "runs", "trainer"):
            kills += sum(c.injections for c in kind.cases(1, None))
    assert [c.name for c in stage_kills.cases(1, None)] != [c.name for c in stage_kills.cases(2, None)]
    assert kills >= 100


def test_what_is_done_is_not_done_again_and_what_broke_is(tmp_path: Path):
    from contextlib import contextmanager

    tried: list[str] = []
    works = False

    @contextmanager
    def session(work: Path, seed: int):
        def run(case: Case) -> Outcome:
            tried.append(case.name)
            if case.name == "b" and not works:
                raise Broken("a row is lost")
            return Outcome("went on", {"leftovers": 2})

        yield run

    kind = Kind("kind", "fault", "checked", lambda seed, count: [Case("a"), Case("b", injections=3)], session)
    results, console = tmp_path / "results.jsonl", Console(quiet=True)
    run_kind(kind, 1, None, tmp_path, results, done := read(results), console)
    page = markdown([kind], list(done.values()), 1)
    assert "1 of 4 held" in page and "kind, b: a row is lost" in page
    works = True
    run_kind(kind, 1, None, tmp_path, results, done := read(results), console)
    assert tried == ["a", "b", "b"]
    page = markdown([kind], list(done.values()), 1)
    assert "4 of 4 held" in page and "Broken" not in page and "2 × went on; leftovers: 4" in page
    run_kind(kind, 1, None, tmp_path, results, read(results), console)
    assert tried == ["a", "b", "b"]


def test_the_committed_table_is_complete_and_names_no_broken_promise():
    from tests.conftest import REPOSITORY

    page = (REPOSITORY / "docs" / "faults.md").read_text()
    assert "## Broken promises" not in page
    done = {}
    for kind in KINDS.values():
        (line,) = [v for v in page.splitlines() if v.startswith(f"| {kind.name} | ")]
        done[kind.name] = int(line.split(" | ")[2])
        assert done[kind.name] == sum(c.injections for c in kind.cases(1, None)), f"make faults has more of {kind.name}"
        assert f"| {done[kind.name]} of {done[kind.name]} held |" in line, kind.name
    assert sum(done[k] for k in ("stages", "runs", "trainer")) >= 100, "kills"
    assert done["fuzz"] >= 2000


def test_results_are_one_json_line_each(tmp_path: Path):
    file = tmp_path / "results.jsonl"
    rows = [{"kind": "k", "case": "c", "seed": 1, "result": r} for r in ("broken", "held")]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert [r["result"] for r in read(file).values()] == ["held"], "the last line about a case counts"
    assert read(tmp_path / "none") == {}


def test_a_lake_for_stages_without_networks_has_videos(tmp_path: Path):
    store = fake_lake(tmp_path / "lake")
    assert store.read(VIDEOS).num_rows == 3 and store.read(POSE).num_rows == 0
