"""One lake and one server for all tests of the UI."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.browser import Browser, open_browser
from tests.ui.live_lake import KEEP_ENV, LiveLake, lake_before, land_second, served, timeline, wait_for_decision

PICTURES_ENV = "ITRYON_UI_PICTURES"
"""Folder that pictures for the documentation are written to; `docs/images/ui` renews them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.ui)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    yield from open_browser()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where lake, settings and log are."""
    kept = os.environ.get(KEEP_ENV)
    return Path(kept) if kept else tmp_path_factory.mktemp("ui")


@pytest.fixture(scope="session")
def live(folder: Path, browser: Browser) -> Iterator[LiveLake]:
    """A lake with its UI, after a second batch landed and was decided on without anybody's doing.

    The browser comes first: without one nothing has to be made.
    """
    lake = lake_before(folder)
    with served(lake, folder / "config.yaml"):
        for sensor in ("landing_zone", "retraining"):
            turn_on(browser, lake, sensor)
        land_second(lake, folder)
        wait_for_decision(lake)
        (folder / "timeline.json").write_text(json.dumps(timeline(lake), indent=1))
        yield lake


def turn_on(browser: Browser, live: LiveLake, sensor: str) -> None:
    """Turn a sensor on by hand, on the page Automation."""
    browser.open(f"{live.url}/automation")
    browser.shows(sensor)
    browser.until(f"switch of {sensor}", lambda: browser.find(switch(sensor)))
    browser.settled()
    if not is_on(browser, sensor):
        browser.click(switch(sensor))
        browser.until(f"{sensor} is on", lambda: is_on(browser, sensor))


def switch(name: str) -> str:
    """XPath of the switch of a sensor or schedule on the page Automation."""
    row = f"//div[contains(@class, 'ListItem_listItem')][.//*[normalize-space(text())='{name}']]"
    return f"{row}//label[contains(@class, 'formatSwitch')]"


def is_on(browser: Browser, name: str) -> bool:
    """Whether that switch is on."""
    (box,) = browser.driver.find_elements("xpath", f"{switch(name)}//input")
    return bool(box.is_selected())


@pytest.fixture
def picture(browser: Browser) -> Callable[[str], None]:
    """Takes a picture of the page for the documentation, where pictures are asked for."""

    def take(name: str) -> None:
        if wanted := os.environ.get(PICTURES_ENV):
            browser.settled()
            browser.picture(Path(wanted) / f"{name}.png")

    return take
