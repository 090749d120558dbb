"""Files of the stage taxonomy: where the clusters lie, what classes they become, and the classes of regions."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.errors import StoreError
from maskmill.images.masks import ignore_value, mask_dtype
from maskmill.painting.scoring import assign
from maskmill.progress import track
from maskmill.recipe import registry
from maskmill.store import classes as kinds
from maskmill.store import codebook as books
from maskmill.store.artefact import read_json, read_table, write_json, write_table
from maskmill.store.atomic import atomic
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged, RaggedWriter
from maskmill.taxonomy import Clustered
from maskmill.taxonomy import _members as members
from maskmill.taxonomy._calibrate import called
from maskmill.taxonomy._names import described, document_text
from maskmill.taxonomy._next import Suggestion, influences, write_csv
from maskmill.taxonomy._next import suggest as suggestions
from maskmill.taxonomy._survey import maps, sampled

MOST = 2000  # clusters that a person can be asked about


@dataclass(frozen=True)
class SurveyFiles:
    """What `survey` writes.

    Attributes:
        clusters, margins: Ragged, "masks" of mask values and "confidence" of margins on the grid of the tokens (see
            `maskmill.taxonomy._survey.maps`).
        places: JSON: the key `members` of a taxonomy of these clusters (see `_members`), and `influences`, by which the
            report says what to name next (see `_next`).
    """

    clusters: str | Path
    margins: str | Path
    places: str | Path


@dataclass(frozen=True)
class FitFiles:
    """What `fit` writes.

    Attributes:
        classes: safetensors of `maskmill.store.classes`.
        held: Ragged "masks" of the images whose labels made the classes, at the size of the labels.
    """

    classes: str | Path
    held: str | Path


@dataclass(frozen=True)
class NameFiles:
    """What `names` writes: the classes for the stages that follow (JSON), and for a person to edit (YAML)."""

    classes: str | Path
    document: str | Path


def survey(given: Clustered, gallery: int, out: SurveyFiles) -> None:
    """Write where the clusters lie in a sample of the images.

    Args:
        given: what was clustered. gallery: images that the report shows; they are in the sample.
    """
    import torch

    torch.set_num_threads(1)
    book, ground = given.book, given.ground
    chosen, at = sampled(given.manifest, gallery), {shard.vectors.stem: shard for shard in given.shards}
    if missing := sorted(set(chosen) - set(at)):
        raise StoreError(f"--vectors: nothing for shard {missing[0]!r}; run snakemake again to make it")
    used = [at[shard] for shard in chosen]
    inputs = [book.hash, *(Ragged(each.vectors).hash for each in used)] + ([ground.hash] if ground else [])
    made = Provenance.of("taxonomy", {"gallery": gallery}, inputs)
    attrs = {"clusters": len(book), "codebook": books.fingerprint(book)}
    dtype = mask_dtype(len(book)).name
    coarse: list[tuple[str, np.ndarray]] = []
    with (
        RaggedWriter(out.clusters, "masks", dtype=dtype, attrs=attrs, provenance=made) as clusters,
        RaggedWriter(out.margins, "confidence", dtype="uint8", provenance=made) as sure,
    ):
        for shard, ids in track(list(chosen.items()), len(chosen), "taxonomy"):
            for image_id, values, margin in maps(at[shard], book, ids, ground):
                clusters.append(image_id, values)
                sure.append(image_id, margin)
                coarse.append((image_id, members.coarse(values)))
    body = {"codebook": attrs["codebook"], "members": members.write(coarse)}
    body["influences"] = influences(book) if len(book) <= MOST else []
    write_json(out.places, body, made)


def fit(source: str, grouping: Mapping[str, Any], given: Clustered, out: FitFiles, threads: int = 1) -> None:
    """Write the classes that a source makes of the clusters.

    Args:
        source: its name. grouping: what its `grouping` has returned. given: what was clustered.

    Raises:
        UserError: as the source's `fit`.
    """
    import torch

    torch.set_num_threads(threads)
    found, held = registry.load("taxonomy", source).fit(grouping, given)
    for note in found.notes:
        print(f"taxonomy: {note}", file=sys.stderr)
    if found.calibration is not None:
        print(f"taxonomy: confidence of regions: {found.calibration.sentence}", file=sys.stderr)
    inputs = [given.book.hash, *(Ragged(shard.vectors).hash for shard in given.shards)]
    if given.ground is not None:
        inputs.append(given.ground.hash)
    made = Provenance.of("taxonomy", {"source": source, "grouping": dict(grouping), "seed": given.seed}, inputs)
    dtype = mask_dtype(len(found))
    attrs = {"clusters": len(found), "ignore": ignore_value(dtype)}
    with RaggedWriter(out.held, "masks", dtype=dtype.name, attrs=attrs, provenance=made) as writer:
        for image_id, values in held.items():
            writer.append(image_id, np.where(values == kinds.IGNORE, attrs["ignore"], values).astype(dtype))
    kinds.write(out.classes, found, made)


def names(
    classes: str | Path, codebook: str | Path, places: str | Path, params: Mapping[str, Any], out: NameFiles
) -> None:
    """Write what the classes are called.

    Args:
        places: JSON of the survey.
        params: source; naming, as the source has returned it; recipe and seed, whose clusters these are.
    """
    found, book = kinds.read(classes), books.read(codebook)
    body = {key: params[key] for key in ("recipe", "seed", "source")} | {"codebook": books.fingerprint(book)}
    body |= described(found, book, params["naming"])
    for note in body["notes"][len(found.notes) :]:  # the others `fit` has told
        print(f"taxonomy: {note}", file=sys.stderr)
    made = Provenance.of("taxonomy", {"naming": params["naming"]}, [found.hash, book.hash])
    write_json(out.classes, body, made)
    with atomic(out.document) as temporary:
        temporary.write_text(document_text(body, found, read_json(places)["members"]), encoding="utf-8")


def map_regions(vectors: str | Path, assignments: str | Path, classes: str | Path, out: str | Path) -> None:
    """Give the regions of one shard their classes: the table of the stage cluster, with classes for clusters.

    In the column cluster, class i - 1 stands for class i, -1 for ignore, -2 for background. Distances stay those of the
    clusters. Regions of images that are corrected have what the correction says. Where labels made the classes and were
    enough to calibrate them, the column confidence says how often such a region is right.

    Args:
        vectors: Ragged of the shard, as it was clustered. assignments: table of the stage cluster.
    """
    import pyarrow as pa

    labels, store = kinds.read(classes), Ragged(vectors)
    table = read_table(assignments, ["image", "region", "cluster", "distance"])
    if len(table) != int(store.offsets[-1]):
        raise StoreError(f"{assignments}: its regions are not those of {vectors}; delete both and run snakemake again")
    if labels.calibration:
        table = table.append_column("confidence", pa.array(_confidence(store, labels), pa.float32()))
    parts = [assign(rows, labels) for _, rows in store.chunks()]
    value = np.concatenate([np.zeros(0, np.int32), *parts])
    value = _corrected(value, table["image"].to_pylist(), table["region"].to_pylist(), labels)
    column = np.where(value > 0, value - 1, np.where(value == kinds.BACKGROUND, kinds.BACKGROUND_ROW, -1))
    table = table.set_column(2, "cluster", pa.array(column.astype(np.int32), pa.int32()))
    made = Provenance.of("taxonomy", {"classes": labels.hash}, [store.hash])
    write_table(out, table.replace_schema_metadata(None), made)


def _confidence(store: Ragged, labels: kinds.Classes) -> np.ndarray:
    """Calibrated confidence [n] float32 of the regions of a shard; NaN where there is no class."""
    assert labels.calibration is not None
    parts = [np.zeros(0, np.float32)]
    for _, rows in store.chunks():
        value, odds = called(rows, labels)
        parts.append(np.where(value == kinds.IGNORE, np.nan, labels.calibration.confidence(odds)).astype(np.float32))
    return np.concatenate(parts)


def _corrected(value: np.ndarray, images: Sequence[str], regions: Sequence[int], labels: kinds.Classes) -> np.ndarray:
    """Values [n] of regions after the corrections of their images, each in the order of the file."""
    value = value.copy()
    for row, (image, region) in enumerate(zip(images, regions, strict=True) if labels.corrections else ()):
        for each in labels.corrections_of(image):
            whole = each.region is None and each.was is None
            if whole or each.region == region or (each.was is not None and each.was == value[row]):
                value[row] = each.value
    return value


def suggest(folder: str | Path, count: int, out: str | Path) -> list[Suggestion]:
    """Write what to name or to label next as CSV, and return it; see `maskmill.taxonomy._next.suggest`."""
    found = suggestions(Path(folder), count)
    write_csv(Path(out), found)
    return found
