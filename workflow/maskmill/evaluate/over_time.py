"""evaluate time: how far masks of frames that follow one another agree. No labels play a part.

A cell and the place in the next frame that the flow of tokens leads it to should have one class. Only cells count whose
flow is found both ways and that have a class in both frames. Alone, this figure flatters. So beside it stand the same
between a frame and another of its sequence that is no neighbour, which a mask that never changes reaches as well; and
both of the same cells at the same place, without the flow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.errors import ConfigError
from maskmill.images.flow import Flow, token_flow
from maskmill.images.masks import MaskSet, ignore_value, to_size
from maskmill.images.order import ordered
from maskmill.progress import track
from maskmill.recipe.base import validate
from maskmill.recipe.scoring import Time
from maskmill.store.artefact import write_json
from maskmill.store.hashing import json_hash
from maskmill.store.manifest import Row, read_manifest
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged

_OPEN = 4  # shards whose stores are open at a time
_FIGURES = ("warped", "same_place", "warped_shuffled", "same_place_shuffled")


def run(
    masks: Sequence[str | Path],
    features: Sequence[str | Path],
    manifest: str | Path,
    params: Mapping[str, Any],
    out: str | Path,
    scored: MaskSet,
) -> None:
    """Write the agreement of the masks of neighbouring frames.

    Args:
        masks, features: Ragged "masks" and "features" of all shards; a stem names its shard.
        params: `time`, the section `evaluate.time`; `name` of the feature set; `own`, whether masks were made of it.
        out: JSON: shares from 0 to 1, averaged over the sequences. `warped`; `same_place`; the same `_shuffled`, null
            where no sequence has three frames; `covered`, the share of cells that `warped` compares.

    Raises:
        ConfigError: `evaluate.time` is off. InputError: no image follows another. StoreError: a store is damaged.
    """
    if not params.get("time"):
        raise ConfigError("--params: evaluate.time: off; set it to true, or to a mapping")
    settings = validate(Time, params["time"], "--params", "evaluate.time")
    series = ordered(read_manifest(manifest).rows, settings.order, "evaluate.time")
    pairs = chosen(series, settings.pairs)
    frames = _Frames(masks, features)
    tallies = {name: Tally() for name, _ in pairs}
    for name, i in track(pairs, len(pairs), "evaluate"):
        rows, tally = series[name], tallies[name]
        a, b = frames.of(rows[i]), frames.of(rows[i + 1])
        tally.add(a, b, settings.radius, "")
        other = stranger(rows, i)
        if other is not None:
            tally.add(a, frames.of(other), settings.radius, "_shuffled")
    about = {"recipe": scored.recipe, "seed": scored.seed, "round": scored.round}
    about |= {"features": params["name"], "own_features": params["own"], "settings": settings.model_dump(mode="json")}
    body = {"sequences": len(tallies), "pairs": len(pairs)} | mean(list(tallies.values()))
    write_json(out, about | body, Provenance.of("evaluate", dict(params) | about, frames.hashes()))


def chosen(series: Mapping[str, Sequence[Row]], most: int) -> list[tuple[str, int]]:
    """(sequence, place of the first of two neighbours) of at most `most` pairs, evenly over all of them."""
    found = [(name, i) for name, rows in series.items() for i in range(len(rows) - 1)]
    if len(found) <= most:
        return found
    return [found[i * len(found) // most] for i in range(most)]


def stranger(rows: Sequence[Row], i: int) -> Row | None:
    """A frame of the sequence that is not next to frame i, drawn by the id of that; None where there is none."""
    others = [row for j, row in enumerate(rows) if abs(j - i) > 1]
    return others[int(json_hash(rows[i].id), 16) % len(others)] if others else None


@dataclass
class Tally:
    """Cells of one sequence: by figure, those that were compared and those that agree."""

    compared: dict[str, int] = field(default_factory=dict)
    same: dict[str, int] = field(default_factory=dict)
    cells: int = 0

    def add(self, a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray], radius: int, ending: str) -> None:
        """Compare two frames, each a mask [H, W] and tokens [h, w, d]: the same cells with their flow and without."""
        flow = token_flow(a[1], b[1], radius)[0]
        for name, way in {"warped": flow, "same_place": Flow(np.zeros_like(flow.steps), flow.sure)}.items():
            same, compared = agreement(a[0], b[0], way)
            self.same[name + ending] = self.same.get(name + ending, 0) + same
            self.compared[name + ending] = self.compared.get(name + ending, 0) + compared
        self.cells += 0 if ending else a[0].size


def agreement(a: np.ndarray, b: np.ndarray, flow: Flow) -> tuple[int, int]:
    """(cells of mask a that have the class of the cell of mask b that the flow leads to, cells compared)."""
    reached = b.ravel()[flow.target((a.shape[0], a.shape[1]), (b.shape[0], b.shape[1]))]
    known = (a != ignore_value(a.dtype)) & (reached != ignore_value(b.dtype))
    known &= to_size(flow.sure, (a.shape[0], a.shape[1]))
    return int(((a == reached) & known).sum()), int(known.sum())


def mean(tallies: Sequence[Tally]) -> dict[str, float | None]:
    """Each figure, averaged over the sequences that have it, and the share of cells that `warped` compares."""
    found: dict[str, float | None] = {}
    for name in _FIGURES:
        shares = [tally.same[name] / tally.compared[name] for tally in tallies if tally.compared.get(name)]
        found[name] = float(np.mean(shares)) if shares else None
    covered = [tally.compared.get("warped", 0) / tally.cells for tally in tallies]
    return found | {"covered": float(np.mean(covered))}


class _Frames:
    """Masks and tokens by the rows of the manifest."""

    def __init__(self, masks: Sequence[str | Path], features: Sequence[str | Path]) -> None:
        self._paths = {Path(m).stem: (Path(m), Path(f)) for m, f in zip(masks, features, strict=True)}
        self._kept: dict[str, tuple[Ragged, Ragged]] = {}
        self._hashes: dict[str, list[str]] = {}

    def of(self, row: Row) -> tuple[np.ndarray, np.ndarray]:
        """Mask [H, W] and tokens [h, w, d] of an image."""
        if row.shard not in self._kept:
            masks, features = self._paths[row.shard]
            stores = Ragged(masks, "masks"), Ragged(features, "features")
            self._kept[row.shard] = stores
            self._hashes[row.shard] = [store.hash for store in stores]
            while len(self._kept) > _OPEN:
                del self._kept[next(iter(self._kept))]
        masks_of, tokens_of = self._kept[row.shard]
        return masks_of[row.id], tokens_of[row.id]

    def hashes(self) -> list[str]:
        """Of the stores that were read, by shard."""
        return [each for shard in sorted(self._hashes) for each in self._hashes[shard]]
