"""Other ways to cluster the same tokens, scored beside the one whose masks a recipe exports.

A head's codes can be read out by the prototypes that it has trained or by k-means, tokens by k-means or by prototypes
trained on them. Tables that compare a head with k-means show both of both: prototypes that have not converged say
little about the codes. Masks are made as the stage paint makes them, of the labelled images only, and not kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.evaluate.labelled import (
    check_complete,
    digest,
    labelled_images,
    labelled_rows,
    read_label,
    scored_once,
)
from maskmill.evaluate.tally import Tally
from maskmill.images.masks import MaskSet, ignore_value
from maskmill.images.nodata import at_grid
from maskmill.images.photos import ManifestPhotos
from maskmill.painting.tokens import paint_tokens
from maskmill.progress import track
from maskmill.recipe.base import validate
from maskmill.recipe.model import CANDIDATES
from maskmill.recipe.scoring import Evaluate
from maskmill.recipe.sections import Paint
from maskmill.store import codebook as books
from maskmill.store.artefact import write_json
from maskmill.store.codebook import Codebook
from maskmill.store.manifest import read_manifest
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged


def run(
    vector_stores: Sequence[str | Path],
    codebooks: Mapping[str, str | Path],
    manifest: str | Path,
    params: Mapping[str, Any],
    out: str | Path,
    masks: MaskSet,
    foreground: str | Path | None = None,
) -> None:
    """Score the masks of every way to cluster the tokens of one recipe and seed.

    Args:
        vector_stores: Ragged of the (reduced) tokens of all shards.
        codebooks: {name: safetensors} of the candidates; "chosen" is that of the recipe's own masks.
        params: the `evaluate` section, `paint` with `upsample` and `refine` of the recipe, and `own`, its
            `cluster.method`.
        masks: of which recipe and seed; round 0.
        out: JSON to write: recipe, seed, round, clusters, `exported` (the name of the candidate whose masks the
            recipe exports), and `candidates`: a list of {name, scores as in scores.json}.
        foreground: codebook of background and foreground, where the recipe has one.

    Raises:
        InputError: no labelled image, or nothing of the scored classes. StoreError: a labelled image has no tokens.
    """
    import torch

    torch.set_num_threads(1)
    rest = {key: value for key, value in params.items() if key not in ("paint", "own", "among")}
    settings = validate(Evaluate, rest, "--params", "evaluate")
    painting = validate(Paint, params["paint"], "--params", "paint")
    rows, stores = labelled_rows(read_manifest(manifest)), [Ragged(path) for path in vector_stores]
    settings = scored_once(settings, rows)
    found = {name: books.read(path) for name, path in codebooks.items()}
    exported = _exported(found.pop("chosen"), str(params["own"]), found)
    found = {name: book for name, book in found.items() if len(book)}  # others could not be made
    ground = books.read(foreground) if foreground is not None else None
    photos = ManifestPhotos.needed(painting.refine, manifest, "paint")
    tallies = {name: Tally(len(book), settings) for name, book in found.items()}
    digests: dict[str, str] = {}
    count = 0
    for store, image_id, tokens in track(labelled_images(stores, rows), len(rows), "candidates"):
        label, count = read_label(rows[image_id]), count + 1
        digests[image_id] = digest(label)
        see = partial(photos.on_grid, image_id) if photos else None
        valid = store.valid(image_id)
        for name, book in found.items():
            mask = paint_tokens(tokens, book, painting.upsample, painting.refine, see, ground, valid)
            void = mask == ignore_value(mask.dtype)
            rows_of, shown = np.where(void, len(book) + 1, mask.astype(np.int32)), at_grid(valid, mask.shape)
            tallies[name].add(rows_of, label, shown)
    check_complete(rows, digests, count, stores, "tokens")
    scores = [{"name": name, "scores": tallies[name].scores(digests)[0]} for name in CANDIDATES if name in found]
    made = Provenance.of("evaluate", dict(params), [*(s.hash for s in stores), *(b.hash for b in found.values())])
    body = {"clusters": len(found[exported]), "exported": exported, "candidates": scores}
    write_json(out, asdict(masks) | body, made)


def _exported(chosen: Codebook, own: str, found: dict[str, Codebook]) -> str:
    """The name of the recipe's own clustering; it joins the candidates where it is none of them."""
    place = chosen.diagnostics.get("candidate")
    name = own if place is None else CANDIDATES[int(place)]
    found[name] = chosen
    return name
