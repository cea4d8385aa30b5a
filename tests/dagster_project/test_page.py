"""The page: its table, what it says without gradio, and, where they are installed, a real browser on it."""

from __future__ import annotations

import builtins
import json
import shutil
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from dagster_project.cli import app
from dagster_project.page import HOST, PageUnavailable, build_page, dresser, gradio, read_spans
from pipelines.stage import WorkerSettings
from pipelines.video import probe
from tests.pipelines.media import dancer_frames, write_frames
from tests.pipelines.tryon_scene import SETTINGS, tiny_pipeline


def test_rows_of_the_table_become_spans():
    assert read_spans(None) is None and read_spans([["", "", ""], [None, None, None]]) is None
    assert read_spans([["0.1", "0.3 ", " she zips "], ["", "", ""], [1, 2, "x"]]) == [
        (0.1, 0.3, "she zips"),
        (1, 2, "x"),
    ]
    with pytest.raises(ValueError, match=r"Interaction 2: start and end are seconds"):
        read_spans([["0", "1", "x"], ["a", "1", "x"]])
    with pytest.raises(ValueError, match=r"Interaction 1: say what happens"):
        read_spans([["0", "1", ""]])


def test_without_gradio_it_says_how_to_install_it(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "gradio":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PageUnavailable, match=r"pip install 'itryon-pipeline\[page\]'"):
        gradio()
    result = CliRunner().invoke(app, ["page"])
    assert result.exit_code == 1 and "itryon-pipeline[page]" in result.output


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """A page that runs, with a tiny random model, and its folder."""
    pytest.importorskip("gradio", reason="the extra `page` is not installed")
    folder = tmp_path_factory.mktemp("page")
    page = build_page(dresser(tiny_pipeline(), SETTINGS, folder, WorkerSettings(workers=1)), SETTINGS)
    # Gradio takes port 0 literally.
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    _, url, _ = page.launch(
        server_name=HOST, server_port=port, prevent_thread_lock=True, quiet=True, allowed_paths=[str(folder)]
    )
    yield url, folder
    page.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,1500"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    driver.implicitly_wait(60)
    yield driver
    driver.quit()


@pytest.mark.slow
def test_the_server_answers_this_machine_alone(address):
    url, _ = address
    assert url.startswith(f"http://{HOST}:")
    config = json.load(urllib.request.urlopen(f"{url}config"))
    labels = {c["props"].get("label") for c in config["components"]}
    assert {"Video with one person", "Garment photo", "Result"} <= labels
    assert config["analytics_enabled"] is False


@pytest.mark.slow
def test_a_person_is_dressed_in_a_browser(address, browser, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    url, folder = address
    video = write_frames(tmp_path / "dancer.mp4", dancer_frames(100, 10, max_side=256))
    shirt = np.full((160, 140, 3), 255, np.uint8)
    cv2.fillPoly(shirt, [np.array([[40, 20], [100, 20], [135, 60], [105, 150], [35, 150], [5, 60]])], (40, 40, 200))
    cv2.imwrite(str(tmp_path / "shirt.png"), shirt)
    browser.get(url)

    def text(css: str) -> str:
        return " ".join(e.text for e in browser.find_elements(By.CSS_SELECTOR, css))

    browser.find_element(By.ID, "dress").click()
    WebDriverWait(browser, 120).until(lambda _: "Choose a video" in text("body"))
    browser.find_element(By.CSS_SELECTOR, "#video input[type=file]").send_keys(str(video))
    browser.find_element(By.CSS_SELECTOR, "#garment input[type=file]").send_keys(str(tmp_path / "shirt.png"))
    WebDriverWait(browser, 120).until(
        lambda b: b.find_elements(By.CSS_SELECTOR, "#video video") and b.find_elements(By.CSS_SELECTOR, "#garment img")
    )
    browser.find_element(By.ID, "dress").click()
    WebDriverWait(browser, 480).until(lambda _: "result.json" in text("#record"))
    browser.save_screenshot(str(folder / "page.png"))
    (result,) = folder.glob("results/*/result.mp4")
    assert probe(result).num_frames == 10
    assert json.loads(result.with_suffix(".json").read_text())["settings"]["steps"] == SETTINGS.steps
