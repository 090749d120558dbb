"""Files of the cluster stage: fit a codebook on a sample of all shards, then assign regions shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.cluster import CountedMethod, Method, _auto
from maskmill.cluster._candidates import choose, fit_candidate, read_candidates
from maskmill.cluster._foreground import ForegroundTokens
from maskmill.cluster._selection import measure
from maskmill.errors import NumericsError, StoreError
from maskmill.images.nodata import box
from maskmill.numerics.points import points_of
from maskmill.numerics.sampling import sample_of_images
from maskmill.recipe.model import Stage, chosen_from
from maskmill.store import codebook as books
from maskmill.store.artefact import read_table, write_json, write_table
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged


@dataclass(frozen=True)
class OptionalFiles:
    """What some fits read or write besides.

    Attributes:
        selection: JSON to write, scores that need no labels, to choose among clusterings.
        foreground: codebook of background and foreground (stage foreground); only tokens of the foreground are
            clustered.
        head: of the stage adapt, for the method that takes its prototypes.
        candidates: folder of the clusterings to choose from, for the same method: nothing is fitted then.
        candidate: what is fitted is one of several, and need not exist.
    """

    selection: str | Path | None = None
    foreground: str | Path | None = None
    head: str | Path | None = None
    candidates: str | Path | None = None
    candidate: bool = False


def fit(
    vector_stores: Sequence[str | Path],
    params: Mapping[str, Any],
    seed: int,
    out_codebook: str | Path,
    threads: int,
    device: str = "auto",
    optional: OptionalFiles = OptionalFiles(),
) -> None:
    """Fit a codebook on at most `max_fit_points` vectors of all shards and write it as safetensors.

    Args:
        vector_stores: one Ragged of vectors a shard; the result does not depend on how images are spread over them.
        params: the flat `cluster` section of the recipe.
    """
    import torch

    torch.set_num_threads(threads)
    stage = Stage.of("cluster", params)
    method: Method = stage.module
    ground = books.read(optional.foreground) if optional.foreground is not None else None
    stores = _open(vector_stores, ground)
    limit = int(stage.settings.max_fit_points)
    more: dict[str, Any] = {}
    if method.TRAITS.reads_images:
        more = {"images": _images([Ragged(path) for path in vector_stores]), "foreground": ground}
    if method.TRAITS.reads_head:
        more = {"head": optional.head}
    made_of = [store.hash for store in stores] + ([ground.hash] if ground is not None else [])
    chosen: _auto.Choice | None = None
    if optional.candidates is not None:
        ready = read_candidates(optional.candidates, chosen_from(stage.params.readout))
        found = choose(ready)
        made_of += [book.hash for book in ready.values()]
    else:
        chosen, settings = number(stores, stage)

        def fitted() -> books.Codebook:
            return method.fit(points_of(stores, limit, seed), settings, seed, device, **more)[0]

        found = fit_candidate(fitted) if optional.candidate else fitted()
    provenance = Provenance.of("cluster", dict(params) | {"seed": seed}, made_of)
    if optional.selection is not None:
        told = {} if chosen is None else {"auto": chosen.as_dict()}
        write_json(optional.selection, measure(stores, found) | told, provenance)
    books.write(out_codebook, found, provenance)


def number(stores: Sequence[Ragged], stage: Stage[Any]) -> tuple[_auto.Choice | None, Any]:
    """How many clusters to make: what was chosen, where it is to be, and the parameters with the number in them.

    The choice depends on the vectors, the method and its parameters, and on no seed: all seeds of a recipe have the
    same number of clusters.
    """
    params = stage.params
    if not stage.module.TRAITS.counted or not params.auto:
        return None, params
    method: CountedMethod = stage.module
    limit = min(_auto.SAMPLE, int(stage.settings.max_fit_points))
    rows, images = sample_of_images(stores, limit, 0)
    spherical = bool(getattr(params, "spherical", True))  # `online` knows directions only
    choice = _auto.choose(rows, images, params.range, method.several(params), spherical)
    return choice, params.model_copy(update={"clusters": choice.chosen, "range": None})


def _open(paths: Sequence[str | Path], foreground: books.Codebook | None) -> list[Ragged]:
    """The stores of vectors; with a foreground without the tokens of the background."""
    from maskmill.numerics.blocks import one_thread

    if foreground is None:
        return [Ragged(path) for path in paths]
    with one_thread():
        stores: list[Ragged] = [ForegroundTokens(path, foreground) for path in paths]
    if not sum(int(store.offsets[-1]) for store in stores):
        raise NumericsError(
            "cluster: no token is foreground; lower foreground.threshold, or drop the section foreground"
        )
    return stores


def _images(stores: Sequence[Ragged]) -> Callable[[], Iterator[tuple[np.ndarray, bool]]]:
    """Every image's vectors [h, w, d] in the order of their ids, and whether h and w are places of tokens.

    Of an image with nodata only the box around what is valid is given, and nothing of one without any data.
    """
    places = sorted((image_id, s) for s, store in enumerate(stores) for image_id in store.ids)

    def images() -> Iterator[tuple[np.ndarray, bool]]:
        for image_id, s in places:
            valid, vectors = stores[s].valid(image_id), stores[s][image_id]
            if valid is not None:
                vectors = vectors[box(valid)] if valid.any() else vectors[:0]
            yield vectors, stores[s].kind == "features"

    return images


def assign(
    vector_store: str | Path,
    regions_table: str | Path,
    codebook: str | Path,
    out_parquet: str | Path,
    params: Mapping[str, Any] | None = None,
) -> None:
    """Assign the regions of one shard: Parquet with image, region, cluster (int32, 0..k-1) and distance (float32).

    Args:
        params: the flat `cluster` section, or its `distance` alone: what the column distance holds.

    Raises:
        StoreError: the table and the vectors are not of the same regions.
    """
    import pyarrow as pa

    book, store = books.read(codebook), Ragged(vector_store)
    distance = Stage.of("cluster", params or {}).settings.distance
    table = read_table(regions_table, ["image", "region"])
    counts = np.diff(store.offsets)
    if table["image"].to_pylist() != [
        image_id for image_id, n in zip(store.ids, counts, strict=True) for _ in range(n)
    ]:
        raise StoreError(f"{regions_table}: its regions are not those of {vector_store}; delete both and run again")
    parts = [books.assign(rows, book, distance) for _, rows in store.chunks()]
    labels = np.concatenate([part[0] for part in parts]) if parts else np.zeros(0, np.int32)
    distances = np.concatenate([part[1] for part in parts]) if parts else np.zeros(0, np.float32)
    body = pa.table(
        {
            "image": table["image"],
            "region": table["region"],
            "cluster": pa.array(labels, pa.int32()),
            "distance": pa.array(distances, pa.float32()),
        }
    )
    provenance = Provenance.of("cluster", {"codebook": book.hash, "distance": distance}, [store.hash])
    write_table(out_parquet, body, provenance)
