"""A large image that is cut into windows is scored as if it had not been cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from input_files import picture, read
from large_files import write_tiff

from maskmill.errors import InputError
from maskmill.evaluate.readout import split
from maskmill.evaluate.run import run
from maskmill.evaluate.truth import instance_files
from maskmill.images.masks import MaskSet
from maskmill.images.view import View
from maskmill.store.artefact import read_json
from maskmill.store.manifest import Row
from maskmill.store.ragged import RaggedWriter

PICTURES = {"protocol", "images"}  # they name and count pictures
PROTOCOLS = ["hungarian_iou", "hungarian_counts", "many_to_one", "many_to_one_iou"]


def scored(folder: Path, masks: dict[str, np.ndarray], params: dict[str, Any]) -> list[dict[str, Any]]:
    """The scores of masks on the manifest of a folder."""
    with RaggedWriter(folder / "masks.zarr", "masks", dtype="uint8", attrs={"clusters": 5, "ignore": 255}) as out:
        for image_id, mask in masks.items():
            out.append(image_id, mask)
    kind = MaskSet("own", 0, 0)
    run([folder / "masks.zarr"], folder / "manifest.parquet", params, folder / "scores.json", kind)
    body: list[dict[str, Any]] = read_json(folder / "scores.json")["scores"]
    return body


@pytest.mark.parametrize("overlap", [0, 9, 20])
@pytest.mark.parametrize("classes", [None, [1, 2, 3]])
def test_every_pixel_counts_once(tmp_path: Path, overlap: int, classes: list[int] | None) -> None:
    rng = np.random.default_rng(overlap)
    scene = rng.integers(0, 256, (130, 170, 3), dtype=np.uint8)
    label = rng.integers(0, 4, (130, 170), dtype=np.uint8)
    label[rng.random(label.shape) < 0.1] = 255
    mask = np.where(rng.random(label.shape) < 0.5, np.minimum(label, 3) + 1, rng.integers(0, 6, label.shape))
    mask = mask.astype(np.uint8)
    mask[rng.random(label.shape) < 0.1] = 255  # nothing predicted
    write_tiff(tmp_path / "images/big.tif", scene)
    write_tiff(tmp_path / "labels/big.tif", label)
    params = {"protocols": PROTOCOLS, "classes": classes, "ignore": [255], "objects": {"metrics": ["saliency"]}}
    found = []
    for name, inputs in {"whole": {}, "cut": {"window": {"size": 48, "overlap": overlap}}}.items():
        (tmp_path / name).mkdir()
        manifest = read(tmp_path / name, tmp_path / "images", tmp_path / "labels", **inputs)
        masks = {}
        for row in manifest.rows:
            top, left, h, w = (View.of(row.view).window if row.view else None) or (0, 0, 130, 170)
            masks[row.id] = mask[top : top + h, left : left + w]
        assert len(masks) == (1 if name == "whole" else len(manifest.rows) > 10 and len(manifest.rows))
        found.append(scored(tmp_path / name, masks, params))
    for whole, cut in zip(*found, strict=True):
        for key in whole.keys() - PICTURES:
            assert cut[key] == whole[key], key
        assert cut["protocol"]["classes"] == whole["protocol"]["classes"]


def test_windows_of_an_image_are_all_learnt_from_or_all_scored() -> None:
    ids = [f"{name}/y{y:07d}x{x:07d}" for name in "abcdefgh" for y in (0, 50) for x in (0, 50, 100)]
    ids += [f"{name}/{more}" for name in "klmnopqr" for more in ("p0000", "p0001", "natural", "infrared")]
    train, test = split(ids, owners={i: i[0] for i in ids})
    assert {i[0] for i in train}.isdisjoint(i[0] for i in test)
    assert sorted(train + test) == sorted(ids)
    train, test = split(ids[:6])  # photos with such names are images of their own
    assert train
    assert test


def test_instances_are_named_like_the_labels(tmp_path: Path) -> None:
    """One file for all that is cut from an image; photos whose names look like windows have their own."""
    for name in ("a", "city/y0000000x0000000", "city/y0000512x0000000"):
        picture(tmp_path / f"instances/{name}.png")
    cut = [Row(f"a/{part}", "/a.tif", 8, 8, "s", "l", parent="a", view="{}") for part in ("p0000", "p0001", "infrared")]
    tiles = [Row(f"city/y{y}x0000000", "/t.png", 8, 8, "s", "l") for y in ("0000000", "0000512")]
    found = instance_files(str(tmp_path / "instances"), {row.id: row for row in cut + tiles}, cut + tiles)
    assert found is not None
    names = {image_id: Path(file).relative_to(tmp_path / "instances").as_posix() for image_id, file in found.items()}
    assert names == {row.id: "a.png" for row in cut} | {row.id: f"{row.id}.png" for row in tiles}
    odd = Row("b/p0000", "/b.tif", 8, 8, "s", "l", parent="b", view="{}")
    with pytest.raises(InputError, match=r"the first is 'b/p0000'; add b\.png"):
        instance_files(str(tmp_path / "instances"), {odd.id: odd}, [*cut, odd])
