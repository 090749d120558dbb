"""cut: tokens of each image of a shard -> segments and a confidence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.cut import Method
from maskmill.cut._needs import Extras
from maskmill.cut._together import cut_together
from maskmill.device import pick
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

    def finished(i: int, found: tuple[np.ndarray, dict[str, Any]]) -> tuple[np.ndarray, dict[str, Any]]:
        return finish(store.ids[i], *found) if finish else found

    def one(i: int) -> tuple[np.ndarray, dict[str, Any]]:
        return finished(i, method.cut(store[i].astype(np.float32), own, seed, store.ids[i], **extras.of(i)))

    with one_thread(), RaggedWriter(out, "segments", dtype="uint8", attrs=attrs, provenance=made) as writer:
        if place.type == "cuda" and method.TRAITS.batched:
            found = cut_together(stage.module, own, store, seed, str(place))
            results = ordered(lambda i: finished(i, found[i]), range(len(store)), threads)
        else:
            results = track(ordered(one, range(len(store)), threads), len(store), "cut")
        for image_id, (segments, diagnostics) in zip(store.ids, results, strict=True):
            writer.append(image_id, segments, **{key: np.float32(value) for key, value in diagnostics.items()})


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
        self, image_id: str, segments: np.ndarray, diagnostics: dict[str, Any]
    ) -> tuple[np.ndarray, dict[str, Any]]:
        h, w = segments.shape
        photo = self.photos.on_grid(image_id, (h * self.cells, w * self.cells))
        settings = self.settings
        refined, kept = refine_segments(segments, photo, settings.refine, fill_holes=settings.fill_holes)
        return refined, diagnostics | {"unrefined": float(kept)}
