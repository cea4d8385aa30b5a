"""A batch that lands becomes a decision on a checkpoint, without anybody's doing."""

from __future__ import annotations

import json

import dagster as dg

from assets.partitions import BATCHES
from dagster_project.retraining import CAUSE_TAG
from pipelines.checkpoints.current import decisions
from pipelines.store.schemas import CAPTIONS, CHECKPOINTS, CLIPS, ISR_SCORES, TRAINING_SETS, TRYON_VIDEOS, VIDEOS
from tests.browser import Browser
from tests.ui.conftest import is_on, switch
from tests.ui.live_lake import EVALUATED, FIRST, SECOND, LiveLake, timeline


def test_the_landed_batch_was_annotated_by_one_run(live: LiveLake) -> None:
    with live.instance() as instance:
        assert set(instance.get_dynamic_partitions(BATCHES)) == {EVALUATED, FIRST, SECOND}
        runs = instance.get_runs(dg.RunsFilter(tags={"dagster/sensor_name": "landing_zone"}))
    # Batches that were annotated by hand before are left alone.
    assert [r.tags["dagster/partition"] for r in runs] == [SECOND]
    assert live.store.read(VIDEOS, where={"batch": SECOND, "status": "ok"}).num_rows == 3
    for table in (CAPTIONS, CLIPS):
        assert len(live.store.read(table, where={"batch": SECOND})["video_id"].unique()) == 3


def test_its_clips_were_trained_on_once_from_the_current_checkpoint(live: LiveLake) -> None:
    with live.instance() as instance:
        (run,) = instance.get_runs(dg.RunsFilter(tags={"dagster/sensor_name": "retraining"}))
    clips = live.store.read(CLIPS, where={"batch": SECOND}).num_rows
    assert run.tags[CAUSE_TAG] and run.tags["itryon/new_clips"] == str(clips)
    first, second = sorted(live.store.read(CHECKPOINTS).to_pylist(), key=lambda r: r["created_at"])
    assert first["parent_checkpoint_id"] is None and second["parent_checkpoint_id"] == first["checkpoint_id"]
    assert second["run_id"] == run.run_id and second["weights_sha256"] != first["weights_sha256"]
    sets = {r["training_set_id"]: r for r in live.store.read(TRAINING_SETS).to_pylist()}
    assert SECOND in sets[second["training_set_id"]]["batches"]
    assert all(EVALUATED not in r["batches"] for r in sets.values())
    # Nothing comes of it a second time.
    assert len(sets) == 2


def test_both_checkpoints_dressed_and_were_judged_on_the_videos_held_back(live: LiveLake) -> None:
    held = set(live.store.read(VIDEOS, where={"batch": EVALUATED})["video_id"].to_pylist())
    dressed: dict[str, set[tuple]] = {}
    for row in live.store.read(TRYON_VIDEOS).to_pylist():
        assert row["status"] == "ok", row["reason"]
        dressed.setdefault(row["checkpoint_id"], set()).add((row["video_id"], row["garment_id"]))
    first, second = dressed.values()
    assert first == second and {v for v, _ in first} <= held
    judged = [(r["checkpoint_id"], r["action"]) for r in live.store.read(ISR_SCORES).to_pylist()]
    assert {c for c, _ in judged} == set(dressed)


def test_the_decision_follows_from_what_was_measured(live: LiveLake) -> None:
    first, second = decisions(live.store)
    assert first["kind"] == "promoted" and second["checkpoint_id"] != first["checkpoint_id"]
    compared = json.loads(second["comparison"])
    assert {"ssim (corrected)", "lpips (corrected)"} <= set(compared["compared"]) and not compared["missing"]
    worse = "worse" in compared["compared"].values()
    assert second["kind"] == ("kept" if worse else "promoted")
    with live.instance() as instance:
        run = instance.get_run_by_id(second["run_id"])
    assert run.tags["dagster/sensor_name"] == "retraining"
    assert run.is_success is not worse, "a refused candidate fails its check, and so its run"


def test_everything_happened_in_order(live: LiveLake) -> None:
    made = [e["what"] for e in timeline(live)]
    places = [made.index(a) for a in ("videos", "captions", "clips", "training_set", "itryon_checkpoint")]
    places += [made.index(a) for a in ("tryon_videos", "isr_scores", "leaderboard", "promotions")]
    assert places == sorted(places)


def test_the_page_automation_shows_that_both_sensors_are_on(live: LiveLake, browser: Browser, picture) -> None:
    browser.open(f"{live.url}/automation")
    browser.shows("landing_zone", "retraining", "retraining_schedule")
    names = ("landing_zone", "retraining", "retraining_schedule")
    browser.until("switches", lambda: all(browser.find(switch(n)) for n in names))
    assert [is_on(browser, n) for n in names] == [True, True, False]
    picture("automation")
