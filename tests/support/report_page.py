"""A page of the report as tests read it: written, checked for its form, and its text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from maskmill.report.run import run

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Checker(HTMLParser):
    """Every element is closed in order, ids are unique, references point at something, images have an alt."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.wanted: set[str] = set()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        assert len(values) == len(attrs), f"<{tag}> has an attribute twice: {attrs}"
        self.tags.append((tag, values))
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if (values.get("href") or "").startswith("#"):
            self.wanted.add(str(values["href"])[1:])
        self.wanted |= {values[k] for k in ("aria-labelledby",) if values.get(k)}  # type: ignore[misc]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag not in VOID, f"</{tag}>"
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}> at {self.getpos()}"
        self.open.pop()


def check(html: str) -> Checker:
    """The page, read to its end; an AssertionError says what is wrong with it."""
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert not checker.open
    assert len(set(checker.ids)) == len(checker.ids)
    assert checker.wanted <= set(checker.ids)
    assert all("alt" in values for tag, values in checker.tags if tag == "img")
    return checker


def text_of(html: str) -> str:
    """What a reader sees, with single blanks."""
    return " ".join(re.sub(r"<(script|style)>.*?</\1>|<[^>]+>", " ", html, flags=re.S).split())


def report(root: Path, plan: dict[str, Any]) -> str:
    """Write the report of a synthetic run; the page."""
    run(plan, root / "results", root / "benchmarks", root / "report.html")
    return (root / "report.html").read_text()
