"""The page: its interactions, what it says without gradio, and, where they are installed, a real browser on it."""

from __future__ import annotations

import builtins
import json
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
from pipelines.tryon.annotate import AnnotationSettings
from pipelines.video import probe
from tests.browser import Browser, open_browser
from tests.pipelines.media import dancer_frames, write_frames
from tests.pipelines.tryon_scene import SETTINGS, tiny_pipeline


def test_lines_of_the_field_become_spans():
    assert read_spans(None) is None and read_spans("\n  \n") is None
    assert read_spans("0.1, 0.3 ,  she zips, slowly \n\n1,2,x") == [(0.1, 0.3, "she zips, slowly"), (1, 2, "x")]
    for text in ("0, 1, x\na, 1, x", "0, 1, x\n0", "0, 1, x\nshe zips the jacket up"):
        with pytest.raises(ValueError, match=r"Interaction in line 2: start and end are seconds"):
            read_spans(text)
    for text in ("0, 1", "0, 1, "):
        with pytest.raises(ValueError, match=r"Interaction in line 1: say what happens"):
            read_spans(text)


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
    annotation = AnnotationSettings(workers=WorkerSettings(workers=1))
    page = build_page(dresser(tiny_pipeline(), SETTINGS, folder, annotation), SETTINGS)
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
def browser() -> Iterator[Browser]:
    yield from open_browser(1400, 1500)


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
    url, folder = address
    video = write_frames(tmp_path / "dancer.mp4", dancer_frames(100, 10, max_side=256))
    shirt = np.full((160, 140, 3), 255, np.uint8)
    cv2.fillPoly(shirt, [np.array([[40, 20], [100, 20], [135, 60], [105, 150], [35, 150], [5, 60]])], (40, 40, 200))
    cv2.imwrite(str(tmp_path / "shirt.png"), shirt)
    browser.open(url)
    browser.click("//*[@id='dress']")
    browser.shows("Choose a video with one person")

    browser.upload("video", video, "video")
    browser.upload("garment", tmp_path / "shirt.png", "img")
    browser.click("//*[@id='dress']")
    browser.until("record", lambda: browser.find("//*[@id='record']//*[@aria-label='result.json']"), 900)
    for name in ("result", "compare"):
        playing = f"return document.querySelector('#{name} video')?.videoWidth > 0"
        browser.until(f"video {name}", lambda playing=playing: browser.driver.execute_script(playing))
    moments = "return document.querySelector('#moments img')?.naturalWidth > 0"
    browser.until("moments", lambda: browser.driver.execute_script(moments))
    (result,) = folder.glob("results/*/result.mp4")
    assert probe(result).num_frames == 10
    assert json.loads(result.with_suffix(".json").read_text())["settings"]["steps"] == SETTINGS.steps
    browser.until("the hint goes", lambda: "Choose a video with one person" not in browser.text)
