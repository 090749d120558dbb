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


def render(*, recipes: Sequence[View], jobs: Sequence[_timing.RuleJob], **context: Any) -> str:
    """The whole page. Every value from outside is escaped by the template; the script is allowed by its hash only."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    folder = resources.files("maskmill.report")
    files = {name: (folder / name).read_text("utf-8") for name in ("report.html", "report.css", "report.js")}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"duration": duration, "memory": _timing.memory, "percent": percent, "count": count}
    stages = _timing.by_rule(jobs)
    script = files["report.js"]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.from_string(files["report.html"]).render(
        css=Markup(files["report.css"]),
        script=Markup(script),
        script_hash=digest,
        recipes=recipes,
        opening=_opening(recipes),
        stages=stages,
        longest=max([stage.seconds for stage in stages] + [1e-3]),
        most=max([stage.memory or 0 for stage in stages] + [1e-3]),
        busy=_timing.busy_seconds(jobs),
        made=datetime.fromtimestamp(max(job.ended for job in jobs), UTC).strftime("%Y-%m-%d %H:%M UTC") if jobs else "",
        **context,
    )


def _opening(recipes: Sequence[View]) -> str:
    """The recipe that is shown first: the one with the most to show."""
    return max(recipes, key=lambda view: (view.rounds, not view.tokens)).name if recipes else ""


def percent(share: float) -> str:
    """12.3 %, and never 0.0 % for what is there."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def count(number: int) -> str:
    """Thousands apart by a thin space."""
    return f"{number:,}".replace(",", "\u2009")
