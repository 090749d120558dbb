"""The installed Chromium without a window, driven by playwright; nothing is fetched."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import ConsoleMessage, Page, Request, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find() -> str | None:
    """Path of an installed Chromium, or None; the variable CHROMIUM wins."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def tab(executable: str) -> Iterator[tuple[Page, list[str]]]:
    """A tab of a fresh Chromium that ends with the block, and its problems as they come.

    A problem is an error or a warning of the console, of which failed loads and violations of the page's policy are
    some, an exception, or a request that leaves the page.
    """
    problems: list[str] = []

    def said(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            problems.append(message.text)

    def asked(request: Request) -> None:
        if not request.url.startswith(("file:", "data:", "about:")):
            problems.append(f"loads {request.url}")

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.on("console", said)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", asked)
        yield page, problems
        browser.close()


def load(page: Page, path: Path, width: int = 1280, height: int = 900) -> None:
    """Open a file in a window of a size and wait for its load event."""
    page.set_viewport_size({"width": width, "height": height})
    page.goto(path.resolve().as_uri())


def until(page: Page, expression: str, seconds: float = 15) -> None:
    """Waits for an expression to hold; playwright's own wait needs `eval`, which the page's policy forbids."""
    for _ in range(int(seconds * 50)):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"not within {seconds:g} s: {expression}")
