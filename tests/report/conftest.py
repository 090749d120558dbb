"""A tab of a real browser, for the tests that open a report."""

from __future__ import annotations

from collections.abc import Iterator

import chromium
import pytest
from playwright.sync_api import Page


@pytest.fixture(scope="module")
def tab() -> Iterator[tuple[Page, list[str]]]:
    """The tab, and its problems as they come; skips where there is no Chromium."""
    executable = chromium.find()
    if executable is None:
        pytest.skip("no Chromium here (set CHROMIUM to its path)")
    with chromium.tab(executable) as opened:
        yield opened
