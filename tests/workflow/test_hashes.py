"""Masks, instances, scores and exports are those of an earlier version, to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import outputs
import pytest
import whole_run
from job_server import serving
from tiny_recipes import NAMES

pytestmark = pytest.mark.slow
FILE = Path(__file__).parents[1] / "reference/hashes.json"


def recorded(part: str) -> dict[str, str]:
    """Output -> hash on a machine with the same numerics as this one, where one was recorded."""
    facts = outputs.machine()
    entry: dict[str, Any] = json.loads(FILE.read_text()).get(outputs.key(facts), {})
    if part not in entry:
        option = " --demo" if part == "demo" else ""
        pytest.skip(
            "no hashes of a machine with these kernels and versions; on code that is known to be right:"
            f" python tests/reference/record_hashes.py{option}"
        )
    return entry[part]


def test_every_output_of_every_recipe_is_what_it_was(finished: Path) -> None:
    wanted, found = recorded("recipes"), outputs.outputs(finished)
    recipes = {name.partition("/")[0] for name in wanted}
    assert recipes <= {*NAMES, "own", "coloured", "unfrozen"}, "a recorded recipe is gone: record the hashes again"
    # A recipe that came later has no hashes until somebody records them.
    found = {name: hash_ for name, hash_ in found.items() if name.partition("/")[0] in recipes}
    assert sorted(found) == sorted(wanted)
    assert {name for name in wanted if found[name] != wanted[name]} == set()


@pytest.mark.faults
def test_every_output_of_the_demo_is_what_it_was(tmp_path: Path) -> None:
    wanted = recorded("demo")
    with serving() as programs:
        whole_run.run(tmp_path / "work", whole_run.DEMO, programs)
    found = outputs.outputs(tmp_path / "work")
    assert sorted(found) == sorted(wanted)
    assert {name for name in wanted if found[name] != wanted[name]} == set()
