"""The pages of the UI as people use them: lineage, a batch's pictures, checks, checkpoints, leaderboard, decisions."""

from __future__ import annotations

from urllib.parse import quote, urlencode

import pytest

from assets.partitions import BATCHES
from dagster_project.graph import asset_edges
from pipelines.checkpoints.current import decisions, standing
from pipelines.evaluation.leaderboard import read_leaderboard
from pipelines.store.schemas import CHECKPOINTS, ISR_SCORES, VIDEO_METRICS
from tests.browser import Browser
from tests.ui.live_lake import EVALUATED, FIRST, SECOND, LiveLake

SHOW = "//*[normalize-space(text())='[Show Markdown]']"


def row(name: str) -> str:
    """XPath of the row of a metadata table."""
    return f"//tr[.//td[normalize-space(.)='{name}']]"


def shown_picture(browser: Browser, name: str) -> tuple[int, int]:
    """Open the picture in a row of metadata; width and height that the browser decoded."""
    browser.click(row(name) + SHOW)
    image = "//img[starts-with(@src, 'data:image/jpeg') or starts-with(@src, 'data:image/png')]"
    browser.until(f"picture {name}", lambda: [e for e in browser.find(image) if size(browser, e)[0] > 0])
    return size(browser, browser.find(image)[-1])


def size(browser: Browser, image) -> tuple[int, int]:
    return tuple(browser.driver.execute_script("return [arguments[0].naturalWidth, arguments[0].naturalHeight]", image))


def open_lineage(live: LiveLake, browser: Browser, selection: str = "") -> set[str]:
    """Open the lineage of a selection with all groups open; the assets there are."""
    edges, groups = asset_edges()
    expanded = ",".join(f"global@global:{g}" for g in sorted(set(groups.values())))
    # Here, unlike on other pages, the selection is part of the path.
    selected = f"~{quote(selection, safe='')}" if selection else ""
    browser.open(f"{live.url}/asset-groups{selected}?" + urlencode({"expanded": expanded}))
    return set(edges)


def test_the_lineage_has_every_asset_and_no_dialogue_before_it(live: LiveLake, browser: Browser, picture) -> None:
    browser.size(1900, 1000)
    try:
        assets = open_lineage(live, browser)
        browser.shows("videos", "Materialize all")
        browser.settled()

        def all_there() -> bool:
            # Boxes outside of the window are not drawn.
            there = not [a for a in assets if a not in browser.text]
            return there or browser.click("//button[.//*[@aria-label='zoom_out']]")

        browser.until(f"all of {', '.join(sorted(assets))}", all_there)
        assert "Sign up" not in browser.text
        # The way of a video, without the studio's measurements; without it the names can be read.
        open_lineage(live, browser, 'not group:"studio"')
        browser.shows("videos", "promotions")
        picture("lineage")
    finally:
        browser.size(1400, 900)


def test_the_lineage_of_retraining(live: LiveLake, browser: Browser, picture) -> None:
    assets = open_lineage(live, browser, 'key:"clips"+')
    below = {"clips", "training_set", "itryon_checkpoint", "tryon_videos", "video_metrics", "isr_scores"}
    below |= {"leaderboard", "promotions"}
    browser.shows(*below)
    browser.settled()
    assert not [a for a in assets - below if a in browser.text.split()]
    picture("retraining-lineage")


def test_an_asset_says_what_it_is_and_what_its_columns_mean(live: LiveLake, browser: Browser, picture) -> None:
    browser.open(f"{live.url}/assets/itryon_checkpoint?view=overview")
    browser.shows("Description", "machine-learning", "parent_checkpoint_id", "Checkpoint the training started from")
    picture("asset")


@pytest.mark.parametrize("asset", ["videos", "pose", "hands", "agnostic_masks", "captions", "clips"])
def test_a_batch_shows_what_each_stage_made_of_it(live: LiveLake, browser: Browser, picture, asset: str) -> None:
    browser.open(f"{live.url}/assets/{asset}?view=partitions&partition={SECOND}")
    browser.shows("preview", "dagster/row_count")
    names = [e.text for e in browser.find("//tr/td[1]")]
    assert names.index("preview") < names.index("dagster/row_count"), "what people look for comes first"
    width, height = shown_picture(browser, "preview")
    assert width > 800 and height > 100
    picture(f"batch-{asset}")


def test_every_batch_is_listed(live: LiveLake, browser: Browser) -> None:
    browser.open(f"{live.url}/assets/pose?view=partitions")
    browser.shows(EVALUATED, FIRST, SECOND)
    with live.instance() as instance:
        assert len(instance.get_dynamic_partitions(BATCHES)) == 3


def test_check_results_say_what_was_checked(live: LiveLake, browser: Browser, picture) -> None:
    browser.open(f"{live.url}/assets/captions?view=checks")
    browser.shows("coverage", "referential_integrity", "schema", "3 of 3 usable videos are annotated", "Passed")
    picture("checks")


def test_a_success_rate_comes_with_what_its_judge_is_worth(live: LiveLake, browser: Browser, picture) -> None:
    browser.open(f"{live.url}/assets/isr_scores?view=checks")
    kappa = live.store.read(ISR_SCORES)["judge_kappa"].to_pylist()
    assert kappa, "the batch held back was judged"
    browser.shows("judge_is_validated", f"agrees with known truth at kappa {kappa[0]:.2f}", "questions have an answer")
    picture("judge-check")


def test_a_checkpoint_shows_its_loss_and_where_it_comes_from(live: LiveLake, browser: Browser, picture) -> None:
    rows = sorted(live.store.read(CHECKPOINTS).to_pylist(), key=lambda r: r["created_at"])
    browser.open(f"{live.url}/assets/itryon_checkpoint?view=events")
    browser.shows("parent_checkpoint_id", rows[-1]["checkpoint_id"], rows[0]["checkpoint_id"], "seconds_per_step")
    picture("checkpoint")
    assert shown_picture(browser, "loss_curve")[0] > 500
    picture("loss")


def test_a_validation_video_of_the_training_is_shown(live: LiveLake, browser: Browser) -> None:
    browser.open(f"{live.url}/assets/itryon_checkpoint?view=events")
    browser.shows("validation")
    assert shown_picture(browser, "validation")[0] > 100


def test_dressed_people_are_shown(live: LiveLake, browser: Browser, picture) -> None:
    browser.open(f"{live.url}/assets/tryon_videos?view=events")
    browser.shows("preview", "videos_made")
    assert shown_picture(browser, "preview")[0] > 800
    picture("tryon")


def test_metrics_and_success_rate_are_tables(live: LiveLake, browser: Browser, picture) -> None:
    newest = max(live.store.read(CHECKPOINTS).to_pylist(), key=lambda r: r["created_at"])["checkpoint_id"]
    rows = live.store.read(VIDEO_METRICS, where={"checkpoint_id": newest}).to_pylist()
    (ssim,) = [r["value"] for r in rows if r["metric"] == "ssim" and not r["tryon_id"]]
    browser.open(f"{live.url}/assets/video_metrics?view=events")
    # In place, not behind a click.
    browser.until("table of metrics", lambda: browser.find(row("metrics") + "//table"))
    browser.shows(f"{ssim:.4f}", "fvd_i3d_unpaired", "not_computed")
    picture("metrics")
    browser.open(f"{live.url}/assets/isr_scores?view=events")
    browser.until("table of rates", lambda: browser.find(row("rates") + "//table"))
    browser.shows("success rate", "judge_kappa", "judge_agreement")
    picture("isr")


def test_the_leaderboard_has_both_checkpoints(live: LiveLake, browser: Browser, picture) -> None:
    browser.open(f"{live.url}/assets/leaderboard?view=events")
    browser.until("leaderboard in place", lambda: browser.find(row("leaderboard") + "//table"))
    table = read_leaderboard(live.store)
    assert len(table) == 2
    # The decision rests on the leaderboard, and so comes after it.
    before = standing(decisions(live.store)[:-1]).current
    browser.shows(*(r["checkpoint_id"][:12] for r in table), f"{before[:12]} (current)", "judge's kappa")
    picture("leaderboard")


def test_a_decision_says_why(live: LiveLake, browser: Browser, picture) -> None:
    decision = decisions(live.store)[-1]
    browser.open(f"{live.url}/assets/promotions?view=events")
    browser.shows(decision["reason"], decision["checkpoint_id"], "comparison")
    picture("decision")


def test_reports_about_annotators_and_judge(live: LiveLake, browser: Browser, picture) -> None:
    browser.open(f"{live.url}/assets/annotator_report?view=partitions&partition={FIRST}")
    browser.shows("goals")
    assert shown_picture(browser, "goals_picture")[0] > 500
    picture("annotators")
    browser.open(f"{live.url}/assets/judge_report?view=partitions&partition={EVALUATED}")
    browser.shows("judge_digest", "kappa_rendered")
    assert shown_picture(browser, "agreement_picture")[0] > 500
    picture("judge")


def test_runs_say_who_asked_for_them(live: LiveLake, browser: Browser, picture) -> None:
    browser.open(f"{live.url}/runs")
    browser.shows("retrain", "annotate", "landing_zone", "retraining")
    picture("runs")
