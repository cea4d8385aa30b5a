"""A headless Chromium for tests of pages, where one is installed, and how to wait for a page that draws itself."""

from __future__ import annotations

import base64
import io
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from PIL import Image

T = TypeVar("T")
PATIENCE_S = 300.0
"""How long a page may take to show something: the machine may be busy with much else."""
_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
    # Nothing is looked for outside of this machine.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
)
MOST_BYTES = 200_000
"""Largest picture for the documentation."""


class Browser:
    """A browser window.

    Attributes:
        driver: Selenium's driver.
    """

    def __init__(self, driver: Any):
        self.driver = driver

    def open(self, url: str) -> None:
        """Load a page."""
        self.driver.get(url)

    def size(self, width: int, height: int) -> None:
        """Give the page this many pixels."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    @property
    def text(self) -> str:
        """What can be read on the page."""
        return self.driver.execute_script("return document.body ? document.body.innerText : ''")

    def until(self, what: str, condition: Callable[[], T], seconds: float = PATIENCE_S) -> T:
        """The first true value of a condition, asked again and again; elements that went away meanwhile do no harm."""
        from selenium.common.exceptions import WebDriverException

        end = time.monotonic() + seconds
        while True:
            try:
                if value := condition():
                    return value
            except WebDriverException:
                pass
            if time.monotonic() > end:
                pytest.fail(f"not within {seconds:.0f} s: {what}. The page says:\n{self.text[:3000]}")
            time.sleep(0.5)

    def shows(self, *texts: str, seconds: float = PATIENCE_S) -> None:
        """Wait until the page has all these texts."""
        for text in texts:
            self.until(f"text {text!r}", lambda text=text: text in self.text, seconds)

    def find(self, xpath: str) -> list[Any]:
        """Visible elements."""
        return [e for e in self.driver.find_elements("xpath", xpath) if e.is_displayed()]

    def click(self, xpath: str) -> None:
        """Click the first visible element, once there is one."""

        def clicked() -> bool:
            found = self.find(xpath)
            if found:
                self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", found[0])
                found[0].click()
            return bool(found)

        self.until(f"click on {xpath}", clicked)

    def upload(self, name: str, file: Path, shown_as: str) -> None:
        """Put a file into the upload field with this id, and wait until an element of this tag shows it there."""
        field = f"//*[@id='{name}']//input[@type='file']"
        self.until(f"field {name}", lambda: self.driver.find_elements("xpath", field))[0].send_keys(str(file))
        self.until(f"{name} uploaded", lambda: self.find(f"//*[@id='{name}']//{shown_as}"))

    def shot(self) -> bytes:
        """What the window shows, as PNG."""
        # The driver's own command for it gives up after ten seconds.
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
        return base64.b64decode(shot["data"])

    def settled(self, seconds: float = 60.0) -> None:
        """Wait until nothing on the page moves or loads any more; a page that never rests is taken as it is then."""
        end, last = time.monotonic() + seconds, b""
        while time.monotonic() < end:
            time.sleep(1.0)
            now = self.shot()
            if now == last and "Loading" not in self.text:
                return
            last = now

    def picture(self, path: Path) -> None:
        """Write what the window shows as a PNG of at most `MOST_BYTES`, in as many colours as that allows."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(io.BytesIO(self.shot())) as shot:
            rgb = shot.convert("RGB")
        for colours in (256, 128, 64, 32):
            small = io.BytesIO()
            rgb.quantize(colours, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
            if small.tell() <= MOST_BYTES:
                path.write_bytes(small.getvalue())
                return
        pytest.fail(f"{path.name} has more than {MOST_BYTES} bytes in 32 colours: show less")


def open_browser(width: int = 1400, height: int = 900) -> Iterator[Browser]:
    """A browser; skips the test where there is none. For fixtures: `yield from open_browser()`."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not chromedriver:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (*_ARGUMENTS, f"--window-size={width},{height}"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    # Selenium itself gives up after two minutes otherwise.
    driver.command_executor.client_config.timeout = int(PATIENCE_S) + 60
    driver.set_page_load_timeout(PATIENCE_S)
    driver.set_script_timeout(PATIENCE_S)
    browser = Browser(driver)
    browser.size(width, height)
    try:
        yield browser
    finally:
        driver.quit()
