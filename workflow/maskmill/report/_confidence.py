"""How likely the classes of an image are right, where labelled images made them and were enough to measure it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskmill.images.sample import Sample
from maskmill.store.class_names import read

SHOWN = 12  # images


@dataclass(frozen=True)
class LeastSure:
    """One image: its place in the gallery or None, and the mean confidence of what it shows, 0..1."""

    id: str
    place: int | None
    confidence: float


@dataclass(frozen=True)
class Confidence:
    """A recipe whose classes labels made: what its confidence rests on, and the images that are the least sure first.

    Attributes:
        known: whether there is a confidence; without one there are no images, and `sentence` says why.
        images: the first few of `looked_at` sampled images.
    """

    recipe: str
    known: bool
    sentence: str
    images: tuple[LeastSure, ...]
    looked_at: int


def measured(results: Path, recipes: Mapping[str, Mapping[str, Any]], seed: int, sample: Sample) -> list[Confidence]:
    """What is known of each recipe whose classes labelled images made, of one seed."""
    places = {picture.id: i for i, picture in enumerate(sample.gallery)}
    found = []
    for name, body in recipes.items():
        if not body.get("named"):
            continue
        facts = read(results / f"recipes/{name}/seed{seed}/taxonomy/classes.json").body.get("calibration")
        if facts is None:
            continue
        sampled: Mapping[str, float] = facts["sampled"]
        first = sorted(sampled.items(), key=lambda pair: (pair[1], pair[0]))[:SHOWN]
        images = tuple(LeastSure(image_id, places.get(image_id), float(sure)) for image_id, sure in first)
        found.append(Confidence(name, facts["kind"] != "none", str(facts["sentence"]), images, len(sampled)))
    return found
