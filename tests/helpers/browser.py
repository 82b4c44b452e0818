"""Headless Chromium, driven through a pipe by its DevTools protocol; needs no driver.

    python -m tests.helpers.browser PAGE.html PICTURE.jpg [WIDTH HEIGHT [dark]]

draws a page as it looks on a screen of that size; a height of 0 draws all of it. Without a size it
draws a report as in the README.
"""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--remote-debugging-pipe",
)
_SETTLED = "new Promise(done => setTimeout(done, 300))"
_HALF, _WIDTH = (1100, 1420), 1760
"""Size of each half of the README's picture, and the width of both in the end."""


def find_browser() -> str | None:
    """Return the path of an installed Chromium or Chrome; None if there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One open page.

    Attributes:
        requests: the addresses that it asked for, in order.
        problems: errors that its console shows.
    """

    def __init__(self, commands: int, answers: int):
        self._commands, self._answers = commands, answers
        self._buffer, self._last, self._session = b"", 0, {}
        self._loaded = False
        self.requests: list[str] = []
        self.problems: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def open(self, path: Path) -> None:
        """Open a file, and wait until it is loaded."""
        self._loaded = False
        self.send("Page.navigate", url=path.resolve().as_uri())
        while not self._loaded:
            self._receive()

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression; a promise is waited for."""
        answer = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def look(self, width: int, height: int, dark: bool) -> None:
        """Show the page on a screen of this size, in a light or dark theme."""
        scale = {"deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, **scale)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[theme])

    def draw(self, whole: bool) -> bytes:
        """Return a JPEG of the screen, or of the whole page."""
        options: dict = {"format": "jpeg", "quality": 88}
        if whole:
            size = self.send("Page.getLayoutMetrics")["cssContentSize"]
            options |= {"captureBeyondViewport": True, "clip": {**size, "scale": 1}}
        return base64.b64decode(self.send("Page.captureScreenshot", **options)["data"])

    def send(self, method: str, **parameters: Any) -> dict:
        """Send a command of the protocol, and return its answer."""
        self._last += 1
        command = {"id": self._last, "method": method, "params": parameters, **self._session}
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        while (message := self._receive()).get("id") != self._last:
            pass
        assert "error" not in message, message
        return message["result"]

    def _receive(self) -> dict:
        while b"\0" not in self._buffer:
            data = os.read(self._answers, 1 << 20)
            assert data, "the browser has ended"
            self._buffer += data
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event: str | None, details: dict) -> None:
        if event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Network.requestWillBeSent":
            self.requests.append(details["request"]["url"][:200])
        elif event == "Runtime.exceptionThrown":
            self.problems.append(str(details["exceptionDetails"]))
        elif event == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning"):
            self.problems.append(str(details["args"]))
        elif event == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
            self.problems.append(str(details["entry"]))


@contextmanager
def open_browser() -> Iterator[Page]:
    """Start the browser, which `find_browser` has to find, with an empty page."""
    browser = find_browser()
    assert browser is not None
    to_browser, from_browser = os.pipe(), os.pipe()
    ours, theirs = (to_browser[1], from_browser[0]), (to_browser[0], from_browser[1])
    # The protocol uses the descriptors 3 and 4 of the browser.
    shell = f'exec "$0" "$@" 3<&{theirs[0]} 4>&{theirs[1]}'
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            ["bash", "-c", shell, browser, *_FLAGS, f"--user-data-dir={profile}"],
            pass_fds=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in theirs:
            os.close(end)
        try:
            yield Page(*ours)
        finally:
            process.terminate()
            process.wait()
            for end in ours:
                os.close(end)


def main(page: str, picture: str, width: str = "", height: str = "0", theme: str = "") -> None:
    """Draw a page."""
    with open_browser() as browser:
        if width:
            browser.look(int(width), int(height) or 900, theme == "dark")
            browser.open(Path(page))
            browser.run(_SETTLED)
            Path(picture).write_bytes(browser.draw(whole=height == "0"))
        else:
            draw_themes(browser, Path(page)).save(picture, quality=85)
        print("\n".join(browser.problems), end="")


def draw_themes(browser: Page, page: Path) -> Image.Image:
    """Draw the picture of the README: a report's top in light beside its cases in dark."""
    picture = Image.new("RGB", (2 * _HALF[0], _HALF[1]))
    for left, selector, dark in ((0, "body", False), (_HALF[0], "section[id$=cases]", True)):
        browser.look(*_HALF, dark)
        browser.open(page)
        browser.run(_SETTLED)
        browser.run(f"document.querySelector('{selector}').scrollIntoView({{behavior: 'instant'}})")
        picture.paste(Image.open(io.BytesIO(browser.draw(whole=False))), (left, 0))
    return picture.resize((_WIDTH, round(_WIDTH * _HALF[1] / picture.width)))


if __name__ == "__main__":
    main(*sys.argv[1:])
