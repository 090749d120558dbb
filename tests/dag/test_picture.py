"""The documentation shows the stages as the workflow has them."""

from __future__ import annotations

import re
from pathlib import Path

from maskmill.dag.picture import edges, picture, table
from maskmill.recipe import registry
from maskmill.recipe.stages import STAGES

ROOT = Path(__file__).parents[2]


def test_architecture_has_the_table_and_the_picture_of_today() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    assert table() in text, "run `maskmill stages` and paste its table into docs/architecture.md"
    assert picture(ROOT / "recipes") in text, "run `maskmill stages` and paste its picture into docs/architecture.md"


def test_the_readme_names_every_stage_and_every_method() -> None:
    rows = re.findall(r"^\| \[(\w+)\]\(docs/[\w.#-]+\) \|.*\|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert rows == [spec.name for spec in STAGES]
    for spec in STAGES:
        row = next(
            line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith(f"| [{spec.name}]")
        )
        shown = set(re.findall(r"\w+", row.rsplit("|", 2)[1]))
        absent = [name for name in registry.available(spec.name) if spec.method_key and name not in shown]
        assert absent == [], spec.name


def test_arrows_follow_the_order_of_the_table_and_reach_the_report() -> None:
    order = [spec.name for spec in STAGES]
    found = edges(ROOT / "recipes")
    backwards = [(a, b) for a, b in found if order.index(a) > order.index(b)]
    # A training reads the weights that it starts from, and segments of another backbone's tokens.
    assert sorted(backwards) == [("cut", "pretrain"), ("features", "pretrain")]
    assert {b for a, b in found if a == "rounds"} >= {"rounds", "evaluate", "export", "report"}
