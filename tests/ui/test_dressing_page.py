"""`itryon page` as people use it: video, garment and an interaction in, a video that plays out; and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import socket
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.browser import Browser
from tests.ui.live_lake import command, serving

SETTINGS = {"workers": {"workers": 1}, "tryon": {"steps": 8}}
_RESULT_S = 1800.0
"""How long annotating and dressing 17 frames may take on a machine that is busy with much else."""


@dataclass
class Clip:
    """A rendered clip and a garment of another one.

    Attributes:
        video: The clip.
        garment: Photo of a jacket.
        span: The zip being pulled, as the page takes it.
        seconds: Length of the clip.
    """

    video: Path
    garment: Path
    span: str
    seconds: float


@pytest.fixture(scope="module")
def clip(browser: Browser, folder: Path) -> Clip:
    """Someone who opens a zip, and another jacket, both of one colour: what the nano checkpoint is for."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("gradio is not installed: it comes with the extra `page`")
    made = folder / "page-clips"
    if not (made / "manifest.jsonl").exists():
        size = ("--size", "288x384", "--frames", "17", "--fps", "8", "--interaction-share", "0.42", "--workers", "1")
        what = ("--action", "operate_zipper", "--plain", "--split", "0,0", "--no-counterfactual")
        command(folder / "page-lake", "studio", "--clips", "1", "--seed", "23", "--out", str(made), *size, *what)
    entry = json.loads((made / "manifest.jsonl").read_text().splitlines()[0])
    (action,) = entry["actions"]
    span = f"{action['start_s']}, {action['end_s']}, {action['text']}"
    return Clip(made / entry["video"], made / entry["tryon_garment"], span, 17 / 8)


@pytest.fixture(scope="module")
def page(clip: Clip, folder: Path) -> Iterator[str]:
    """Address of the page, with the checkpoint that a lake without any falls back on."""
    config, log = folder / "page.yaml", folder / "page.log"
    config.write_text(yaml.safe_dump(SETTINGS))
    with serving(folder / "page-lake", log, _answers, "page", "--config", str(config)) as url:
        assert str(Path("models", "itryon", "nano")) in log.read_text()
        yield url


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/config", timeout=10) as answer:
            return json.load(answer)["title"] == "iTryOn"
    except OSError:
        return False


def test_it_answers_under_one_address_of_this_machine_alone(page: str) -> None:
    port = int(page.rsplit(":", 1)[1])
    socket.create_connection(("127.0.0.1", port), timeout=10).close()
    # Also of this machine, but not the address that was bound: a server for all of them would answer.
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", port), timeout=10)


def test_a_span_that_does_not_fit_is_refused_with_the_reason(page: str, browser: Browser, clip: Clip) -> None:
    browser.size(1300, 1250)
    browser.open(page)
    browser.upload("video", clip.video, "video")
    browser.upload("garment", clip.garment, "img")
    fill(browser, "0.5, 9, she zips the jacket up")
    browser.click("//*[@id='dress']")
    browser.shows("A span of 0.5 to 9 s", f"does not fit a video of {clip.seconds:.2f} s")
    assert "result.mp4" not in playing(browser, "result")["source"]
    fill(browser, "half, 1, she zips the jacket up")
    browser.click("//*[@id='dress']")
    browser.shows("Interaction in line 1: start and end are seconds")


def test_a_person_is_dressed_and_the_result_plays(page: str, browser: Browser, clip: Clip, picture) -> None:
    browser.size(1300, 1250)
    browser.open(page)
    browser.upload("video", clip.video, "video")
    browser.upload("garment", clip.garment, "img")
    fill(browser, clip.span)
    browser.click("//*[@id='dress']")
    # The name is shown in two parts, so it is not in the page's text.
    record = "//*[@id='record']//*[@aria-label='result.json']"
    browser.until("record", lambda: browser.find(record), _RESULT_S)
    for name in ("result", "compare"):
        browser.until(f"video {name}", lambda name=name: playing(browser, name)["width"] > 0)
    result = playing(browser, "result")
    assert (result["width"], result["height"]) == (288, 384)
    assert result["seconds"] == pytest.approx(clip.seconds, abs=0.15)
    script = browser.driver.execute_script
    script("const v = document.querySelector('#result video'); v.muted = true; v.play()")
    browser.until("the result plays", lambda: playing(browser, "result")["at"] > 0)
    # At a moment with the zip open.
    for name in ("video", "result", "compare"):
        script(f"const v = document.querySelector('#{name} video'); v.pause(); v.currentTime = 1.5")
    script("window.scrollTo(0, 0)")
    picture("page")


def fill(browser: Browser, text: str) -> None:
    """Write into the field for interactions."""
    (field,) = browser.until("field", lambda: browser.find("//*[@id='spans']//textarea"))
    field.clear()
    field.send_keys(text)


def playing(browser: Browser, name: str) -> dict:
    """What the browser knows of a video: file, size, length, and where it is."""
    return browser.driver.execute_script(
        """const v = document.querySelector(`#${arguments[0]} video`);
        return {source: v?.currentSrc ?? "", width: v?.videoWidth ?? 0, height: v?.videoHeight ?? 0,
                seconds: v?.duration ?? 0, at: v?.currentTime ?? 0};""",
        name,
    )
