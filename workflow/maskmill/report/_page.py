"""The page: a Jinja template with its style sheet and script put inline."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from maskmill.progress import duration
from maskmill.report import _timing
from maskmill.report._recipe import View

PAGES = ("report.html", "clusters.html")
STYLES = ("report.css", "editor.css")
SCRIPTS = (  # in this order
    "taxonomy.js", "naming.js", "editor.js", "classes.js", "corrections.js", "regions.js", "keys.js", "report.js",
)  # fmt: skip


def render(*, recipes: Sequence[View], jobs: Sequence[_timing.RuleJob], **context: Any) -> str:
    """The whole page. Every value from outside is escaped by the template; scripts are allowed by their hashes only."""
    from jinja2 import DictLoader, Environment, StrictUndefined
    from markupsafe import Markup

    folder = resources.files("maskmill.report")
    files = {name: (folder / name).read_text("utf-8") for name in (*PAGES, *STYLES, *SCRIPTS)}
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=DictLoader(files)
    )
    environment.filters |= {"duration": duration, "memory": _timing.memory, "percent": percent, "count": count}
    stages = _timing.by_rule(jobs)
    return environment.get_template(PAGES[0]).render(
        css=Markup("".join(files[name] for name in STYLES)),
        scripts=[Markup(files[name]) for name in SCRIPTS],
        script_hashes=[_digest(files[name]) for name in SCRIPTS],
        data=[Markup(recipe.editor.data) for recipe in recipes],
        recipes=recipes,
        opening=_opening(recipes),
        stages=stages,
        longest=max([stage.seconds for stage in stages] + [1e-3]),
        most=max([stage.memory or 0 for stage in stages] + [1e-3]),
        busy=_timing.busy_seconds(jobs),
        made=datetime.fromtimestamp(max(job.ended for job in jobs), UTC).strftime("%Y-%m-%d %H:%M UTC") if jobs else "",
        **context,
    )


def _digest(script: str) -> str:
    """The SHA-256 of a script as a content security policy names it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _opening(recipes: Sequence[View]) -> str:
    """The recipe that is shown first: the one with the most to show."""
    return max(recipes, key=lambda view: (view.rounds, not view.tokens)).name if recipes else ""


def percent(share: float) -> str:
    """12.3 %, and never 0.0 % for what is there."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def count(number: int) -> str:
    """Thousands apart by a thin space."""
    return f"{number:,}".replace(",", "\u2009")
