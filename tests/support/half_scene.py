"""GeoTIFFs whose lower half holds no data, the same files without that half, and the stages of a recipe on either.

The longer side of both is the same, so the backbone `colour` gives the same tokens for the same pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import rasterio
from PIL import Image

from maskmill.backbones.weights import prepare
from maskmill.cluster.run import assign
from maskmill.cluster.run import fit as cluster
from maskmill.cut.run import OptionalFiles
from maskmill.cut.run import run as cut
from maskmill.device import Compute
from maskmill.evaluate.run import run as evaluate
from maskmill.evaluate.run_objects import run as evaluate_objects
from maskmill.export.run import ExportFiles
from maskmill.export.run import run as export
from maskmill.export.segmenter import SegmenterParts
from maskmill.features.run import run as extract
from maskmill.images.masks import MaskSet
from maskmill.images.view import View
from maskmill.paint.run import run_limits, run_regions, run_tokens
from maskmill.recipe.feature_set import FeatureSet, Size
from maskmill.regions.run import run as regions
from maskmill.store.artefact import read_json, write_table
from maskmill.store.manifest import Row
from maskmill.store.ragged import Ragged

SIDE, STRIDE = 64, 8
NODATA = -9999
CHOSEN = FeatureSet(backbone="colour", stride=STRIDE, size=Size(long_side=SIDE))
KMEANS = {"method": "kmeans", "clusters": 3, "spherical": False, "max_fit_points": 10_000}
LOW, HIGH = 0.0, 1000.0
METRICS = {"metrics": ["saliency", "corloc", "ap", "mbo", "fg_ari"]}


def values(seed: int) -> np.ndarray:
    """int16 [SIDE, SIDE, 3], three broad stripes of colours that lie apart, and noise."""
    rng = np.random.default_rng(seed)
    colours = np.array([[900, 100, 100], [100, 900, 100], [100, 100, 900]])[rng.permutation(3)]
    stripe = np.minimum(np.arange(SIDE) * 3 // SIDE, 2)
    picture = colours[stripe][None].repeat(SIDE, 0) + rng.integers(-40, 40, (SIDE, SIDE, 3))
    return picture.astype(np.int16)


def write_tiff(path: Path, picture: np.ndarray) -> None:
    """A GeoTIFF that declares NODATA."""
    facts: dict[str, Any] = {
        "driver": "GTiff", "height": picture.shape[0], "width": picture.shape[1], "count": 3, "dtype": "int16",
        "nodata": NODATA, "crs": "EPSG:32633", "photometric": "RGB",
        "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000),
    }  # fmt: skip
    with rasterio.open(path, "w", **facts) as out:
        out.write(np.moveaxis(picture, 2, 0))


@dataclass(frozen=True)
class Scene:
    """Files of a few images in a folder, with labels, as the stage `inputs` describes them."""

    folder: Path
    rows: tuple[Row, ...]

    @property
    def manifest(self) -> Path:
        return self.folder / "manifest.parquet"

    @classmethod
    def write(cls, folder: Path, pictures: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]) -> Scene:
        rows = []
        folder.mkdir()
        for image_id, picture in sorted(pictures.items()):
            write_tiff(folder / f"{image_id}.tif", picture)
            Image.fromarray(labels[image_id]).save(folder / f"{image_id}.png")
            h, w = picture.shape[:2]
            view = View(low=(LOW,), high=(HIGH,)).text()
            path, label = str(folder / f"{image_id}.tif"), str(folder / f"{image_id}.png")
            rows.append(Row(image_id, path, w, h, "s0", label, view=view))
        scene = cls(folder, tuple(rows))
        table = pa.table({key: [getattr(row, key) for row in rows] for key in Row.__annotations__})
        write_table(scene.manifest, table)
        return scene

    def features(self) -> Path:
        """The feature store."""
        weights, out = self.folder / f"{CHOSEN.weights_slug}.safetensors", self.folder / "features/s0.zarr"
        prepare(CHOSEN, weights)
        extract(self.manifest, "s0", CHOSEN.model_dump(mode="json"), weights, out, Compute(2, 1, "cpu"))
        return out

    def tokens_recipe(self, **paint: Any) -> Ragged:
        """Masks of a recipe that clusters tokens."""
        tokens, book, out = self.features(), self.folder / "book.safetensors", self.folder / "masks/s0.zarr"
        cluster([tokens], KMEANS, 0, book, 1, "cpu")
        run_tokens(tokens, book, {"upsample": 4} | paint, out, self.manifest)
        return Ragged(out, "masks")

    def regions_recipe(self, section: Mapping[str, Any], **paint: Any) -> Ragged:
        """Masks of a recipe with a cut."""
        tokens, folder, book = self.features(), self.folder, self.folder / "book.safetensors"
        cut(tokens, {"features": "f", **section}, folder / "cut/s0.zarr", 0, 1, "cpu",
            optional=OptionalFiles(manifest=self.manifest))  # fmt: skip
        table, vectors, found = folder / "regions/s0.parquet", folder / "regions/s0.zarr", folder / "cluster/s0.parquet"
        regions(folder / "cut/s0.zarr", tokens, {"features": "f", "pool": "mean"}, table, vectors)
        cluster([vectors], KMEANS, 0, book, 1, "cpu")
        assign(vectors, table, book, found)
        settings = {"upsample": 4, "keep_closest": 1.0} | paint
        run_limits([found], book, settings, folder / "limits.safetensors")
        out = folder / "masks/s0.zarr"
        run_regions(folder / "cut/s0.zarr", found, folder / "limits.safetensors", book, settings, out, self.manifest)
        return Ragged(out, "masks")

    def scores(self) -> list[dict[str, Any]]:
        """What the masks score, without the protocols themselves and the number of images."""
        out = self.folder / "scores.json"
        section = {"protocols": ["hungarian_counts", "oracle_per_image", "many_to_one"], "objects": METRICS}
        evaluate([self.folder / "masks/s0.zarr"], self.manifest, section, out, MaskSet("r", 0, 0))
        body = read_json(out)
        return _bare([*body["scores"], *body["saliency"]])

    def object_scores(self) -> list[dict[str, Any]]:
        """What the segments score as objects, likewise."""
        out = self.folder / "objects.json"
        evaluate_objects([self.folder / "cut/s0.zarr"], self.manifest, {"objects": METRICS}, out, "r")
        return _bare(read_json(out)["scores"])

    def exported(self) -> Path:
        """The folder of an export."""
        out = self.folder / "export"
        parts = SegmenterParts(
            {"codebook": self.folder / "book.safetensors"}, {"f": CHOSEN.model_dump()}, self.folder, upsample=4
        )
        masks = [self.folder / "masks/s0.zarr"]
        export(ExportFiles(self.manifest, masks), {}, out, MaskSet("r", 0, 0), segmenter=parts)
        return out


def _bare(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in entry.items() if key not in ("protocol", "images")} for entry in entries]


def pair(folder: Path, count: int = 4) -> tuple[Scene, Scene]:
    """The images with their empty lower half, one that shows nothing at all included, and without it.

    The last image has no nodata; its label and those of the valid halves are the stripes, and elsewhere they are wrong.
    """
    whole, cropped, labels = {}, {}, {}
    half = SIDE // 2
    for i in range(count):
        picture = values(i)
        labels[f"im{i}"] = picture.argmax(axis=2).astype(np.uint8)
        cropped[f"im{i}"] = picture if i == count - 1 else picture[:half]
        if i < count - 1:
            picture = picture.copy()
            picture[half:] = NODATA
            labels[f"im{i}"][half:] = (labels[f"im{i}"][half:] + 1) % 3
        whole[f"im{i}"] = picture
    short = {key: label[: cropped[key].shape[0]] for key, label in labels.items()}
    whole["none"], labels["none"] = np.full((SIDE, SIDE, 3), NODATA, np.int16), np.zeros((SIDE, SIDE), np.uint8)
    return Scene.write(folder / "whole", whole, labels), Scene.write(folder / "cropped", cropped, short)
