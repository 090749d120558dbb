"""The option `refine` of the stages cut and paint, on files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from maskmill.cut.run import OptionalFiles
from maskmill.cut.run import run as run_cut
from maskmill.errors import ConfigError, InputError, StoreError
from maskmill.paint.run import run_limits, run_regions, run_tokens
from maskmill.regions.run import run as run_regions_stage
from maskmill.rounds.run import MaskFiles, Round, Sources, StudentFiles, predict, train
from maskmill.store import codebook
from maskmill.store.artefact import write_table
from maskmill.store.ragged import Ragged, RaggedWriter

SIZES = {"a": (96, 112), "b": (112, 96)}  # pixels; tokens are 16 of them
PAINT = {"keep_closest": 1.0, "dropped": "ignore", "upsample": 4, "refine": {"method": "crf"}}


def disc(image_id: str) -> np.ndarray:
    height, width = SIZES[image_id]
    y, x = np.mgrid[:height, :width]
    return (y - 50) ** 2 + (x - 47) ** 2 < 34**2


def tokens_of(image_id: str) -> np.ndarray:
    """The share of the disc in each token [h, w], and what is left."""
    height, width = SIZES[image_id]
    share = disc(image_id).reshape(height // 16, 16, width // 16, 16).mean((1, 3))
    return np.stack([2 * share - 1, np.full_like(share, 0.1)], 2).astype(np.float32)


def segments_of(image_id: str) -> np.ndarray:
    return (tokens_of(image_id)[..., 0] > 0).astype(np.uint8)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    rows: list[dict[str, Any]] = []
    for image_id, (height, width) in SIZES.items():
        noise = np.random.default_rng(0).integers(0, 12, (height, width, 3))
        photo = np.where(disc(image_id)[..., None], [200, 150, 60], [40, 80, 120]) + noise
        Image.fromarray(photo.astype(np.uint8)).save(tmp_path / f"{image_id}.png")
        row = {"id": image_id, "path": str(tmp_path / f"{image_id}.png"), "width": width, "height": height}
        rows.append(row | {"shard": "s0", "label": None})
    names = ["id", "path", "width", "height", "shard", "label"]
    table = pa.table({name: pa.array([row[name] for row in rows]) for name in names})
    write_table(tmp_path / "manifest.parquet", table)
    return tmp_path / "manifest.parquet"


@pytest.fixture
def features(tmp_path: Path) -> Path:
    with RaggedWriter(tmp_path / "f.zarr", "features", depth=2, dtype="float32") as out:
        for image_id in SIZES:
            out.append(image_id, tokens_of(image_id))
    return tmp_path / "f.zarr"


def section(**own: Any) -> dict[str, Any]:
    return {"features": "grouping", "method": "kmeans", "segments": 2, **own}


def iou(found: np.ndarray, wanted: np.ndarray) -> float:
    y, x = (np.arange(side) * found.shape[i] // side for i, side in enumerate(wanted.shape))
    found = found[y[:, None], x]
    return float((found & wanted).sum() / (found | wanted).sum())


def test_cut_refines_on_the_finer_grid(features: Path, manifest: Path, tmp_path: Path) -> None:
    run_cut(features, section(), tmp_path / "plain.zarr", 0, 1)
    for threads in (1, 2):
        params = section(refine={"method": "crf"}, refine_cells=8)
        run_cut(features, params, tmp_path / f"{threads}.zarr", 0, threads, optional=OptionalFiles(manifest=manifest))
    plain, one, two = (Ragged(tmp_path / f"{name}.zarr", "segments") for name in ("plain", 1, 2))
    assert "cells" not in plain.attrs
    assert one.attrs["cells"] == 8
    np.testing.assert_array_equal(one.grid, plain.grid * 8)
    np.testing.assert_array_equal(one.values[...], two.values[...])
    np.testing.assert_array_equal(one.per_image("unrefined"), 0)
    for image_id in SIZES:
        before, after = (
            max(iou(store[image_id] == s, disc(image_id)) for s in np.unique(store[image_id])) for store in (plain, one)
        )
        assert before < 0.9 < 0.93 < after


def test_the_cut_fills_holes_where_the_section_says_so(features: Path, manifest: Path, tmp_path: Path) -> None:
    """The disc has a hole in the colours around it, which the CRF opens."""
    y, x = np.mgrid[:96, :112]
    spot = (y - 50) ** 2 + (x - 47) ** 2 < 9**2
    photo = np.array(Image.open(tmp_path / "a.png"))
    photo[spot] = [40, 80, 120]
    Image.fromarray(photo).save(tmp_path / "a.png")
    found = {}
    for fill in (False, True):
        crf = {"method": "crf", "side": 0, "xy_std": 40, "rgb_std": 20, "compat_smooth": 3}
        params = {"features": "grouping", "method": "ncut", "refine": crf, "fill_holes": fill}
        out = tmp_path / f"{fill}.zarr"
        run_cut(features, params, out, 0, 1, optional=OptionalFiles(manifest=manifest))
        found[fill] = Ragged(out, "segments")["a"]
    inside = spot[1::2, 1::2]  # 8 cells for 16 pixels
    assert (found[False][inside] == 0).mean() > 0.9
    assert (found[True][inside] == 1).all()


def test_regions_of_refined_segments(features: Path, manifest: Path, tmp_path: Path) -> None:
    run_cut(features, section(refine="crf"), tmp_path / "cut.zarr", 0, 1, optional=OptionalFiles(manifest=manifest))
    run_regions_stage(
        tmp_path / "cut.zarr", features, {"pool": "mean"}, tmp_path / "table.parquet", tmp_path / "vectors.zarr"
    )
    vectors = Ragged(tmp_path / "vectors.zarr", "vectors")
    assert vectors.grid.tolist() == [[2, 1], [2, 1]]


def paint(tmp_path: Path, manifest: Path | None, cells: int, clusters: list[tuple[int, float]], **own: Any) -> Ragged:
    """Masks of the discs as segments 1 (the rest: 2), `cells` a token side; the (cluster, distance) of 1 and 2."""
    tmp_path.mkdir(exist_ok=True)
    with RaggedWriter(tmp_path / "s0.zarr", "segments", dtype="uint8", attrs={"cells": cells}) as out:
        for image_id in SIZES:
            segments = segments_of(image_id).repeat(cells, 0).repeat(cells, 1)
            out.append(image_id, np.where(segments, 1, 2 if len(clusters) > 1 else 0).astype(np.uint8))
    rows = [(i, r + 1, c, d) for i in SIZES for r, (c, d) in enumerate(clusters)]
    kinds = {"image": pa.string(), "region": pa.int32(), "cluster": pa.int32(), "distance": pa.float32()}
    columns = zip(*rows, strict=True)
    table = pa.table({n: pa.array(c, t) for (n, t), c in zip(kinds.items(), columns, strict=True)})
    write_table(tmp_path / "c/s0.parquet", table)
    three = codebook.Codebook(np.eye(3, dtype=np.float32), np.ones(3, np.int64), 0.0, True)
    codebook.write(tmp_path / "book.safetensors", three)
    assigned, book, limits = tmp_path / "c/s0.parquet", tmp_path / "book.safetensors", tmp_path / "limits.safetensors"
    run_limits([assigned], book, PAINT | own, limits)
    run_regions(tmp_path / "s0.zarr", assigned, limits, book, PAINT | own, tmp_path / "m.zarr", manifest)
    return Ragged(tmp_path / "m.zarr", "masks")


@pytest.mark.parametrize("cells", [1, 3, 8])
@pytest.mark.parametrize("upsample", [1, 4, 5])
def test_masks_have_the_grid_of_the_tokens_whatever_the_segments_have(
    cells: int, upsample: int, manifest: Path, tmp_path: Path
) -> None:
    masks = paint(tmp_path / "p", manifest, cells, [(1, 0.1)], upsample=upsample)
    for image_id, (height, width) in SIZES.items():
        assert masks[image_id].shape == (height // 16 * upsample, width // 16 * upsample)
        assert set(np.unique(masks[image_id])) == {0, 2}


def test_painted_masks_follow_the_photo(manifest: Path, tmp_path: Path) -> None:
    plain = paint(tmp_path / "plain", None, 1, [(1, 0.1)], refine={"method": "none"}, upsample=8)
    for method in ("crf", "guided", "bilateral"):
        masks = paint(tmp_path / method, manifest, 1, [(1, 0.1)], refine={"method": method}, upsample=8)
        for image_id in SIZES:
            before, after = (iou(store[image_id] == 2, disc(image_id)) for store in (plain, masks))
            assert after > max(before, 0.92)


def test_ignore_cells_stay(manifest: Path, tmp_path: Path) -> None:
    clusters = [(0, 0.1), (1, 0.5)]
    own = {"keep_closest": 0.5, "upsample": 4}
    with_far = [*clusters]
    plain = paint(tmp_path / "plain", None, 1, with_far, refine={"method": "none"}, **own)
    masks = paint(tmp_path / "crf", manifest, 1, with_far, **own)
    for image_id in SIZES:
        np.testing.assert_array_equal(masks[image_id] == 255, plain[image_id] == 255)


@pytest.mark.parametrize("spherical", [True, False])
def test_token_recipes_refine_their_scores(spherical: bool, features: Path, manifest: Path, tmp_path: Path) -> None:
    centres = np.array([[1, 0.1], [-1, 0.1], [0, -1]], np.float32)  # the third wins nowhere
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    book = codebook.Codebook(centres, np.ones(3, np.int64), 0.0, spherical)
    codebook.write(tmp_path / "book.safetensors", book)
    found = {}
    for method in ("none", "crf"):
        params = PAINT | {"refine": {"method": method}}
        run_tokens(features, tmp_path / "book.safetensors", params, tmp_path / f"{method}.zarr", manifest)
        found[method] = Ragged(tmp_path / f"{method}.zarr", "masks")
    for image_id in SIZES:
        before, after = (iou(found[method][image_id] == 1, disc(image_id)) for method in ("none", "crf"))
        assert found["crf"][image_id].shape == found["none"][image_id].shape
        assert after > max(before, 0.93)


def test_the_background_of_a_token_recipe_follows_the_photo(features: Path, manifest: Path, tmp_path: Path) -> None:
    centres = np.array([[1, 0.1], [0.9, 0.4]], np.float32)
    codebook.write(tmp_path / "book.safetensors", codebook.Codebook(centres, np.ones(2, np.int64), 0.0, False))
    sides = np.array([[-1, 0.1], [1, 0.1]], np.float32)  # background, foreground
    codebook.write(tmp_path / "ground.safetensors", codebook.Codebook(sides, np.ones(2, np.int64), 0.0, True))
    files = tmp_path / "book.safetensors", tmp_path / "ground.safetensors"
    found = {}
    for method in ("none", "crf"):
        params = PAINT | {"refine": {"method": method}}
        run_tokens(features, files[0], params, tmp_path / f"{method}.zarr", manifest, files[1])
        found[method] = Ragged(tmp_path / f"{method}.zarr", "masks")
    for image_id in SIZES:
        before, after = (iou(found[method][image_id] > 0, disc(image_id)) for method in ("none", "crf"))
        assert after > max(before, 0.9)


def test_a_students_masks_follow_the_photo(features: Path, manifest: Path, tmp_path: Path) -> None:
    with RaggedWriter(tmp_path / "t.zarr", "masks", dtype="uint8", attrs={"clusters": 1, "ignore": 255}) as out:
        for image_id in SIZES:
            out.append(image_id, segments_of(image_id))
    section = {"student": "token_head", "dimensions": 2, "hidden": 8, "steps": 60, "upsample": 4}
    student = tmp_path / "student.safetensors"
    train(Sources({"x": [features]}), [tmp_path / "t.zarr"], section, StudentFiles(student), round=Round(1, 0, 1))
    for method in ("none", "crf"):
        places = MaskFiles(tmp_path / f"{method}.zarr", tmp_path / f"{method}_sure.zarr")
        predict(student, {"x": features}, places, {"refine": {"method": method}}, manifest=manifest)
    plain, masks = (Ragged(tmp_path / f"{method}.zarr", "masks") for method in ("none", "crf"))
    before_sure, sure = (Ragged(tmp_path / f"{method}_sure.zarr", "confidence") for method in ("none", "crf"))
    for image_id in SIZES:
        before, after = (iou(store[image_id] == 1, disc(image_id)) for store in (plain, masks))
        assert after > before + 0.02
        same = plain[image_id] == masks[image_id]
        assert not same.all()
        assert abs(sure[image_id].astype(int) - before_sure[image_id])[same].max() <= 1  # rounded down
        assert sure[image_id][~same].max() < 128  # of two classes the other one was surer
    with pytest.raises(ConfigError, match=r"rounds\.refine: needs the photos"):
        predict(student, {"x": features}, MaskFiles(tmp_path / "no.zarr"), {"refine": "crf"})


def test_errors_name_the_way_out(features: Path, manifest: Path, tmp_path: Path) -> None:
    params = section(refine="crf")
    with pytest.raises(ConfigError, match=r"cut\.refine: needs the photos; give --manifest, or set cut\.refine: none"):
        run_cut(features, params, tmp_path / "cut.zarr", 0, 1)
    with pytest.raises(ConfigError, match=r"paint\.refine: needs the photos"):
        paint(tmp_path / "p", None, 1, [(1, 0.1)])
    (tmp_path / "b.png").unlink()
    with pytest.raises(InputError, match=r"b\.png: No such file .*restore the file"):
        run_cut(features, params, tmp_path / "cut.zarr", 0, 1, optional=OptionalFiles(manifest=manifest))
    with RaggedWriter(tmp_path / "other.zarr", "features", depth=2, dtype="float32") as out:
        out.append("z", tokens_of("a"))
    with pytest.raises(StoreError, match="holds no image 'z'"):
        run_cut(tmp_path / "other.zarr", params, tmp_path / "cut.zarr", 0, 1, optional=OptionalFiles(manifest=manifest))
    assert not (tmp_path / "cut.zarr").exists()
