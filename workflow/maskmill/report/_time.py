"""How far the masks of frames that follow one another agree, recipe by recipe."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from maskmill.store.artefact import read_json


@dataclass(frozen=True)
class Agreement:
    """One recipe's line: shares as printed, in percent."""

    recipe: str
    pairs: int
    sequences: int
    warped: str
    warped_shuffled: str
    same_place: str
    same_place_shuffled: str
    covered: str
    features: str
    own: bool


def read(results: Path, recipes: Iterable[str], seed: int) -> list[Agreement]:
    """The lines of one seed, of the recipes that have a time.json."""
    found = []
    for recipe in recipes:
        path = results / f"recipes/{recipe}/seed{seed}/time.json"
        if not path.is_file():
            continue
        body = read_json(path)
        names = ("warped", "warped_shuffled", "same_place", "same_place_shuffled", "covered")
        shares = {name: "\u2013" if body[name] is None else f"{100 * body[name]:.1f}" for name in names}
        own = bool(body["own_features"])
        found.append(Agreement(recipe, body["pairs"], body["sequences"], features=body["features"], own=own, **shares))
    return found
