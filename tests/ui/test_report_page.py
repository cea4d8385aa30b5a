"""The report of a checkpoint, opened from its folder without a server: videos play, failures come first."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.evaluation.leaderboard import read_leaderboard
from pipelines.store.schemas import ISR_SCORES
from tests.browser import Browser
from tests.ui.live_lake import LiveLake, command


@pytest.fixture(scope="module")
def page(live: LiveLake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the newest checkpoint."""
    folder = tmp_path_factory.mktemp("report")
    command(live.root, "report", "--checkpoint", "latest", "--out", str(folder))
    return folder / "index.html"


def test_videos_play_and_pictures_are_there(page: Path, browser: Browser, picture) -> None:
    browser.size(1200, 1000)
    browser.open(page.as_uri())
    script = browser.driver.execute_script
    videos = browser.driver.find_elements("css selector", "video")
    assert len(videos) == 6
    for video in videos:
        browser.until(
            "metadata", lambda v=video: script("return arguments[0].readyState >= 1 && arguments[0].videoWidth", v)
        )
    script("arguments[0].scrollIntoView(); arguments[0].play()", videos[0])
    browser.until("a video plays", lambda: script("return arguments[0].currentTime > 0", videos[0]))
    script("arguments[0].pause(); window.scrollTo(0, 0)", videos[0])
    for image in browser.driver.find_elements("css selector", "img"):
        script("arguments[0].scrollIntoView()", image)
        browser.until(
            "picture", lambda i=image: script("return arguments[0].complete && arguments[0].naturalWidth > 0", i)
        )
    script("window.scrollTo(0, 0)")
    assert not [e for e in browser.driver.get_log("browser") if e["level"] == "SEVERE"]
    picture("report")
    script("document.querySelector('section.video').scrollIntoView()")
    picture("report-video")


def test_what_failed_comes_first_and_rates_name_their_judge(page: Path, browser: Browser, live: LiveLake) -> None:
    browser.open(page.as_uri())
    newest = max(read_leaderboard(live.store), key=lambda r: r["trained_at"])
    verdicts = live.store.read(ISR_SCORES, where={"checkpoint_id": newest["checkpoint_id"]}).to_pylist()
    assert verdicts, "the batch held back has labels, so there is something to judge"
    worst: dict[str, int] = {}
    for v in verdicts:
        rank = {False: 0, None: 1, True: 2}[v["success"]]
        worst[v["tryon_id"]] = min(rank, worst.get(v["tryon_id"], 2))
    shown = [e.get_attribute("id") for e in browser.driver.find_elements("css selector", "section.video")]
    ranks = [worst.get(s, 2) for s in shown]
    assert ranks == sorted(ranks)
    text = browser.text
    assert f"{newest['judge_kappa']:.2f}" in text and newest["judge"] in text
    assert {v["action"] for v in verdicts} <= set(text.split())
