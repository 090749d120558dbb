"""The clusters of one recipe as the page's editor has them: read from the survey and the codebook of the first seed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskmill.errors import StoreError
from maskmill.images.palette import hexadecimal, palette
from maskmill.images.sample import Picture, Sample, read_images
from maskmill.report import _pictures, _strips
from maskmill.report._strips import Layer, Piece
from maskmill.store.artefact import read_json
from maskmill.store.codebook import Codebook, read
from maskmill.store.ragged import Ragged

CROPS = 3000  # in one report: with very many clusters each shows fewer, then the smallest show none
ROWS = 2000  # clusters of one recipe that can be named in the page
NEAR = 4  # neighbours shown
GRID = 64  # longest side of a map that the page paints
PHOTO = 1024  # longest side of a photo that crops are taken from
COLOURS = 512  # of classes


@dataclass(frozen=True)
class Row:
    """One cluster: mask value, colour, name by labels, share of the average image, neighbours, crops, regions."""

    value: int
    colour: str
    hint: str
    share: float
    near: tuple[int, ...]
    typical: tuple[dict[str, str], ...]
    doubtful: tuple[dict[str, str], ...]
    regions: int | None


@dataclass(frozen=True)
class Editor:
    """One recipe's clusters, largest first; `total` of them there are; `mapped` are the images that the
    page paints; `data` is JSON for its script.
    """

    name: str
    rows: tuple[Row, ...]
    total: int
    images: int
    mapped: frozenset[str]
    data: str


@dataclass(frozen=True)
class Survey:
    """What is read for one recipe: maps and margins by image id, the codebook, its fingerprint, the run's taxonomy.

    `influences` [k] are, for each cluster, the clusters that its name tells of and how much (stage taxonomy).
    """

    layers: dict[str, Layer]
    book: Codebook
    codebook: str
    taxonomy: str | None = None
    members: str | None = None
    influences: Sequence[Any] = ()


NOTHING = Survey({}, Codebook(np.zeros((0, 1), np.float32), np.zeros(0, np.int64), 0.0, False), "")  # of no images


@dataclass(frozen=True)
class Wanted:
    """What is to be shown: recipe, seed, typical pieces a cluster, number of recipes, the gallery, names by labels.

    Of recipes with a cut also `regions` [k], how many each cluster has, and `parts`: by id of an image of the gallery
    the region uint8 [h, w] of every cell of its survey, 0 where none can be corrected.
    """

    recipe: str
    seed: int
    typical: int
    recipes: int
    gallery: Sequence[str]
    hints: dict[int, str]
    regions: np.ndarray | None = None
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)


def read_survey(results: Path, recipe: str, seed: int, sample: Sample, named: bool) -> Survey:
    """The survey of a recipe's first seed, of the images of the sample; with `named` the taxonomy of the run too.

    Raises:
        StoreError: a store of the survey or the codebook is missing or damaged.
    """
    folder = results / f"recipes/{recipe}/seed{seed}"
    book = read(folder / "cluster/codebook.safetensors")
    places = read_json(folder / "taxonomy/members.json")
    maps, margins = Ragged(folder / "taxonomy/survey.zarr", "masks"), Ragged(folder / "taxonomy/margins.zarr")
    ids = [*dict.fromkeys([*(p.id for p in sample.gallery), *(i for row in sample.statistics.values() for i in row)])]
    values, sure = read_images(maps, ids), read_images(margins, ids)
    return Survey(
        {image: Layer(values[image], sure[image]) for image in sorted(ids)},
        book,
        str(maps.attrs.get("codebook", "")),
        _text(folder / "taxonomy/taxonomy.yaml") if named else None,
        str(places["members"]),
        list(places.get("influences", ())),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path}: cannot be read ({error}); delete it and run snakemake again") from None


def editor(survey: Survey, wanted: Wanted, pictures: Callable[[Sequence[str]], dict[str, Picture]],
           photo: Callable[[Picture], np.ndarray]) -> Editor:  # fmt: skip
    """Rows with their crops, and the data of the script.

    Args:
        pictures: manifest rows of ids. photo: the photo of a row, uint8 [H, W, 3].
    """
    k = len(survey.book)
    covered = _strips.shares(survey.layers, k)
    order = sorted(range(k), key=lambda c: (-covered[c], c))[:ROWS]
    typical, doubtful = quota(wanted.typical, wanted.recipes * k)
    strips = _strips.strips(survey.layers, k, typical, doubtful)
    near = _strips.neighbours(survey.book, NEAR) + 1
    shown = order[: max(1, CROPS // max(1, wanted.recipes * (typical + doubtful)))]
    pieces = {(c, kind): getattr(strips[c], kind) for c in shown for kind in ("typical", "doubtful")}
    crops = _crops(survey, pieces, pictures, photo, 144 if k <= 64 else 104)
    colours = [hexadecimal(colour) for colour in _pictures.distinct(palette(k + 1))]
    rows = tuple(
        Row(
            c + 1,
            colours[c + 1],
            wanted.hints.get(c + 1, ""),
            float(covered[c]),
            tuple(int(n) for n in near[c]),
            crops.get((c, "typical"), ()),
            crops.get((c, "doubtful"), ()),
            None if wanted.regions is None else int(wanted.regions[c]),
        )
        for c in order
    )
    mapped = frozenset(wanted.gallery) & frozenset(survey.layers)
    return Editor(wanted.recipe, rows, k, len(survey.layers), mapped, _data(survey, wanted, rows, colours))


def quota(typical: int, clusters: int) -> tuple[int, int]:
    """Typical and doubtful pieces a cluster, where there are so many clusters in the report; at least 3 where any."""
    if typical <= 0:
        return 0, 0
    whole = min(typical + (typical + 1) // 2, max(3, CROPS // max(1, clusters)))
    doubtful = max(1, whole // 3)
    return whole - doubtful, doubtful


def _crops(
    survey: Survey,
    pieces: dict[tuple[int, str], tuple[Piece, ...]],
    pictures: Callable[[Sequence[str]], dict[str, Picture]],
    photo: Callable[[Picture], np.ndarray],
    side: int,
) -> dict[tuple[int, str], tuple[dict[str, str], ...]]:
    """Data URI, image id and margin of every piece; each photo is decoded once, image by image."""
    found: dict[tuple[int, str], dict[int, dict[str, str]]] = {key: {} for key in pieces}
    wanted: dict[str, list[tuple[tuple[int, str], int, Piece]]] = {}
    for key, row in pieces.items():
        for rank, piece in enumerate(row):
            wanted.setdefault(piece.image, []).append((key, rank, piece))
    known = pictures(list(wanted))
    for image in sorted(set(wanted) & set(known)):
        small = Image.fromarray(photo(known[image]))
        small.thumbnail((PHOTO, PHOTO), reducing_gap=2)
        numbers = _strips.components(survey.layers[image].values)
        for key, rank, piece in wanted[image]:
            uri = _pictures.crop_uri(np.asarray(small), numbers == piece.number, piece.box, 0.12, side)
            found[key][rank] = {"uri": uri, "id": image, "margin": f"{piece.margin:.2f}"}
    return {key: tuple(row[rank] for rank in sorted(row)) for key, row in found.items()}


def _data(survey: Survey, wanted: Wanted, rows: Sequence[Row], colours: Sequence[str]) -> str:
    """JSON that can stand in a script element: clusters, palette, taxonomy, and the maps of the gallery."""
    maps = {}
    for image in wanted.gallery:
        if image in survey.layers:
            values = _strips.coarser(survey.layers[image].values, GRID)
            maps[image] = [*values.shape, _strips.packed(values)]
    body: dict[str, Any] = {
        "recipe": wanted.recipe,
        "seed": wanted.seed,
        "codebook": survey.codebook,
        "several": wanted.recipes > 1,
        "taxonomy": survey.taxonomy,
        "members": survey.members,
        "influences": list(survey.influences),
        "total": len(survey.book),
        "clusters": [[row.value, round(row.share, 6), list(row.near)] for row in rows],
        "colours": list(colours),
        "palette": [hexadecimal(colour) for colour in palette(max(32, min(len(colours), COLOURS)) + 1)[1:]],
        "maps": maps,
    }
    parts = {image: _strips.coarser(wanted.parts[image], GRID) for image in maps if image in wanted.parts}
    if parts:
        body["parts"] = {image: [*values.shape, _strips.packed(values)] for image, values in parts.items()}
    text = json.dumps(body, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
