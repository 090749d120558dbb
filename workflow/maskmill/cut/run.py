"""cut: tokens of each image of a shard -> segments and a confidence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.cut import Method
from maskmill.cut._needs import EVERYWHERE, Extras
from maskmill.cut._together import cut_together
from maskmill.device import pick
from maskmill.images.nodata import at_grid, box
from maskmill.images.photos import ManifestPhotos
from maskmill.numerics.blocks import one_thread, ordered
from maskmill.progress import track
from maskmill.recipe.model import Stage
from maskmill.recipe.sections import Cut
from maskmill.refine import refine_segments
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged, RaggedWriter


@dataclass(frozen=True)
class OptionalFiles:
    """What a cut may read besides the tokens.

    Attributes:
        colour: the feature store that `cut.colour` names, where the section has it; matched by image id.
        manifest: where the photos are; only needed to refine.
    """

    colour: str | Path | None = None
    manifest: str | Path | None = None


def run(
    features: str | Path,
    params: dict[str, Any],
    out: str | Path,
    seed: int,
    threads: int,
    device: str = "auto",
    *,
    optional: OptionalFiles = OptionalFiles(),
) -> None:
    """Cut every image of a feature store into a store of segments; diagnostics are stored once an image.

    Segments are uint8 [h, w] on the token grid, 0 = no segment. Images are independent and each is cut on one thread
    with one BLAS thread, so that the result does not depend on `threads`. Store attributes: `method`, and `outcomes`
    (name -> code of the per-image field `outcome`) where the method has them. With `refine` the segments are fitted to
    the photo: their grid and the attribute `cells` then have `refine_cells` cells for every token side, and the
    diagnostic `unrefined` counts the segments that refinement was not allowed to change.

    Tokens that show no data belong to no segment. What is cut is the box around those that do; the others within it
    hold the vector of the nearest one that does (features), so that a cut sees no border where the data ends.

    Args:
        params: the flat section of the recipe: `method`, `features`, `colour`, and the method's own parameters.
        device: auto, cpu, cuda or cuda:0. On CUDA, methods that are `batched` cut images of one grid
            together (see maskmill.cut.Traits).

    Raises:
        ConfigError: unknown method or key, or a value out of range. StoreError: no readable feature store, or it
            lacks what the method needs (see maskmill.cut.Need).
        DeviceError: no such device, or too little memory on it.
        NumericsError: an image with NaN or infinite tokens; nothing is written then.
    """
    stage = Stage.of("cut", params)
    method: Method = stage.module
    own = stage.params
    store = Ragged(features, "features")
    colours = None if optional.colour is None else Ragged(optional.colour, "features")
    extras = Extras(method.needs(own), store, colours)
    inputs = [store.hash] if colours is None else [store.hash, colours.hash]
    made = Provenance.of("cut", params | {"seed": seed}, inputs)
    place = pick(device)
    attrs: dict[str, Any] = {"method": stage.method, "outcomes": dict(method.TRAITS.outcomes)}
    finish = _Refiner.of(stage.settings, optional.manifest, Path(features).stem)
    if finish:
        attrs["cells"] = finish.cells

    def finished(
        i: int, found: tuple[np.ndarray, dict[str, Any]], within: tuple[slice, slice] = EVERYWHERE
    ) -> tuple[np.ndarray, dict[str, Any]]:
        grid = int(store.grid[i, 0]), int(store.grid[i, 1])
        return finish(store.ids[i], grid, within, *found) if finish else found

    def one(i: int) -> tuple[np.ndarray, dict[str, Any]]:
        valid, tokens = store.valid(i), store[i].astype(np.float32)
        within = EVERYWHERE if valid is None else box(valid)
        found = method.cut(tokens[within], own, seed, store.ids[i], **extras.of(i, within))
        segments, diagnostics = finished(i, found, within)
        return inside(segments, valid, within, finish.cells if finish else 1), diagnostics

    with one_thread(), RaggedWriter(out, "segments", dtype="uint8", attrs=attrs, provenance=made) as writer:
        if place.type == "cuda" and method.TRAITS.batched:
            found = cut_together(stage.module, own, store, seed, str(place))
            results = ordered(lambda i: finished(i, found[i]) if i in found else one(i), range(len(store)), threads)
        else:
            results = track(ordered(one, range(len(store)), threads), len(store), "cut")
        for i, (segments, diagnostics) in enumerate(results):
            valid = at_grid(store.valid(i), (segments.shape[0], segments.shape[1]))
            fields = {key: np.float32(value) for key, value in diagnostics.items()}
            writer.append(store.ids[i], segments, valid=valid, parent=store.parent(i), **fields)


def inside(segments: np.ndarray, valid: np.ndarray | None, within: tuple[slice, slice], cells: int = 1) -> np.ndarray:
    """Segments of the box `within` of a grid, laid on that grid, 0 where it is not `valid` [h, w].

    They have `cells` cells for every side of one of the grid: [h * cells, w * cells]. Their ids stay, so that a score
    still belongs to its segment; one that lies where there is no data alone is gone.
    """
    if valid is None:
        return segments
    fine = valid.repeat(cells, axis=0).repeat(cells, axis=1)
    found = np.zeros(fine.shape, segments.dtype)
    found[finer(within, cells)] = segments
    return np.where(fine, found, segments.dtype.type(0))


def finer(within: tuple[slice, slice], cells: int) -> tuple[slice, slice]:
    """A box on a grid of `cells` times as many cells a side."""
    rows, columns = (slice(*(None if end is None else end * cells for end in (s.start, s.stop))) for s in within)
    return rows, columns


class _Refiner:
    """Fits the segments of an image to its photo."""

    def __init__(self, settings: Cut, photos: ManifestPhotos) -> None:
        self.settings, self.cells, self.photos = settings, settings.refine_cells, photos

    @classmethod
    def of(cls, settings: Cut, manifest: str | Path | None, shard: str) -> _Refiner | None:
        """None where the section does not ask for it."""
        photos = ManifestPhotos.needed(settings.refine, manifest, "cut", shard)
        return cls(settings, photos) if photos else None

    def __call__(
        self,
        image_id: str,
        grid: tuple[int, int],
        within: tuple[slice, slice],
        segments: np.ndarray,
        diagnostics: dict[str, Any],
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """The segments of the box `within` of a grid (h, w), finer by `cells`, and the diagnostics."""
        h, w = grid
        photo = self.photos.on_grid(image_id, (h * self.cells, w * self.cells))[finer(within, self.cells)]
        settings = self.settings
        refined, kept = refine_segments(segments, photo, settings.refine, fill_holes=settings.fill_holes)
        return refined, diagnostics | {"unrefined": float(kept)}
