"""Bytes on disk by artefact: feature stores and vectors by construction, compressed labels by what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from maskmill.plan.disk import feature_bytes, value_bytes
from maskmill.plan.geometry import geometry, weight_bytes
from maskmill.plan.images import PlannedImages
from maskmill.plan.jobs import seeds_of_codes, used_sets, vectors_of
from maskmill.recipe.model import Recipe, Run
from maskmill.recipe.stages import RULES

# Bytes of a label cell in a store of masks or segments (zstd), measured on the demo (docs/scaling.md).
CELL = {"cut": 0.019, "masks": 0.028, "confidence": 0.25, "instances": 0.02}
ROW = {"manifest": 120, "regions": 90, "assignments": 60}  # bytes of a row of a Parquet table
EXPORT = 5200  # bytes of an image's PNG mask and COCO entries
FORMATS = {  # and of its part of each format, without photos: the masks of CamVid, 480 x 360, 11 classes
    "coco_panoptic": 8_000, "voc": 5_800, "yolo": 157_000, "mmseg": 5_800, "cvat": 30_400, "label_studio": 69_900,
    "geotiff": 8_100, "ome_zarr": 16_000, "pyramid_tiff": 8_000, "geojson": 77_200,
}  # fmt: skip


@dataclass(frozen=True)
class Artefact:
    """What a run leaves on disk: bytes, whether by construction, and for feature sets which rules read them."""

    name: str
    owner: str
    bytes: int
    exact: bool
    readers: tuple[str, ...] = ()

    @property
    def feature_set(self) -> bool:
        return self.name == "features"

    @property
    def whole(self) -> bool:
        """A feature set of which all shards must be there at once, even where it is not kept."""
        return any(RULES[rule].whole for rule in self.readers)


def artefacts(
    run: Run,
    images: PlannedImages,
    regions: Mapping[str, float] | None = None,
    measured: Mapping[str, float] | None = None,
) -> list[Artefact]:
    """Every artefact of a run.

    Args:
        regions: recipe -> regions of an image, where an earlier run says it.
        measured: bytes of an image by `name/owner`, of an earlier run, for what is compressed.
    """
    regions, measured = regions or {}, measured or {}
    found = [_measured("manifest", "", ROW["manifest"], images, measured)]
    for slug, readers in used_sets(run).items():
        feature_set = run.feature_sets[slug]
        shape = geometry(feature_set)
        total = sum(
            group.count
            * feature_bytes(
                group.tokens(feature_set.size, shape.stride, shape.cells), group.images, shape.depth, feature_set.dtype,
                shape.vectors, 0 if feature_set.pq is None else feature_set.pq.bytes,
            )
            for group in images.shards
        )  # fmt: skip
        found.append(Artefact("features", slug, total, True, tuple(sorted(readers))))
    trained = {
        chosen.weights_slug: chosen for recipe in run.recipes.values() for chosen in recipe.trained_sets.values()
    }
    # What was trained, and what was chosen of it and of the start: two files of the same network.
    found += [Artefact("pretrain", slug, 2 * weight_bytes(chosen), False) for slug, chosen in trained.items()]
    for name, recipe in run.recipes.items():
        found += _of_recipe(name, recipe, run, images, regions.get(name), measured)
    return found


def _of_recipe(
    name: str, recipe: Recipe, run: Run, images: PlannedImages, regions: float | None, measured: Mapping[str, float]
) -> Iterator[Artefact]:
    seeds, coded = len(run.config.seeds), seeds_of_codes(recipe, run)
    _, depth, reduced = vectors_of(recipe, images, regions)
    each = 0.0 if recipe.tokens else (recipe.regions_an_image if regions is None else regions)
    if recipe.adapt is not None and coded:
        tokens = _mean_cells(recipe, recipe.adapt.settings.features, images, 1)
        codes = coded * _vectors(images, lambda n: round(n * tokens), recipe.code_length, 2)
        yield Artefact("codes", name, codes, True)
    if not recipe.tokens:
        cut = recipe.stage("cut").settings
        cells = 1 if cut.refine.method == "none" else int(cut.refine_cells)
        per_image = CELL["cut"] * _mean_cells(recipe, cut.features, images, cells)
        yield _measured("cut", name, per_image, images, measured)
        yield Artefact("vectors", name, _vectors(images, lambda n: round(n * each), depth, 4), True)
        yield _measured("regions", name, ROW["regions"] * each, images, measured)
        yield _measured("assignments", name, seeds * ROW["assignments"] * each, images, measured)
    if recipe.reduce.method != "none":
        if recipe.tokens:
            tokens = _mean_cells(recipe, recipe.regions.settings.features, images, 1)
            yield Artefact("reduce", name, _vectors(images, lambda n: round(n * tokens), reduced, 2), True)
        else:
            yield Artefact("reduce", name, _vectors(images, lambda n: round(n * each), reduced, 4), True)
    yield from _masks(name, recipe, images, seeds, measured)
    formats = sum(FORMATS[each] for each in run.config.export.formats)
    yield _measured("export", name, EXPORT + formats, images, measured)


def _masks(
    name: str, recipe: Recipe, images: PlannedImages, seeds: int, measured: Mapping[str, float]
) -> Iterator[Artefact]:
    """Masks of all rounds, how sure they are, and instances."""
    upsample = int(recipe.paint.settings.upsample)
    grid = recipe.cut.settings.features if recipe.cut else recipe.regions.settings.features
    cells = _mean_cells(recipe, grid, images, upsample)
    rounds = recipe.round_count
    yield _measured("masks", name, seeds * (rounds + 1) * CELL["masks"] * cells, images, measured)
    if rounds:
        yield _measured("confidence", name, seeds * rounds * CELL["confidence"] * cells, images, measured)
    objects = sum(recipe.instances(r) for r in range(1, rounds + 1))
    if objects:
        stores = seeds * 2 * objects  # what each round learns from, and what it finds
        yield _measured("instances", name, stores * CELL["instances"] * cells, images, measured)


def _mean_cells(recipe: Recipe, name: str, images: PlannedImages, cells: int) -> float:
    feature_set = recipe.behind(name)
    shape = geometry(feature_set)
    finer = cells * shape.cells
    total = sum(
        group.count * group.images * group.mean(feature_set.size, shape.stride, finer) for group in images.shards
    )
    return total / images.count


def _vectors(images: PlannedImages, rows: Callable[[int], int], depth: int, itemsize: int) -> int:
    return sum(group.count * value_bytes(rows(group.images), depth, itemsize) for group in images.shards)


def _measured(
    name: str, owner: str, per_image: float, images: PlannedImages, measured: Mapping[str, float]
) -> Artefact:
    return Artefact(name, owner, round(images.count * measured.get(f"{name}/{owner}", per_image)), False)
