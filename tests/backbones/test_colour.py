"""The backbone `colour`: cells, places, its weights file, and the feature set through the stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from maskmill.backbones.colour import Colour
from maskmill.backbones.network import load
from maskmill.backbones.weights import prepare
from maskmill.device import Compute
from maskmill.errors import ConfigError
from maskmill.features.run import run
from maskmill.images.decode import decode, resize, target_size
from maskmill.recipe.base import validate
from maskmill.recipe.feature_set import FeatureSet, Size
from maskmill.store.artefact import write_table
from maskmill.store.ragged import Ragged

CPU = torch.device("cpu")
CHOSEN = FeatureSet(backbone="colour", stride=14, size=Size(short_side=50))


def test_cells_are_means_and_places_are_centres() -> None:
    images = torch.zeros(1, 4, 6, 3, dtype=torch.uint8)
    images[0, :2, 2:4, 0] = torch.tensor([[255, 0], [255, 255]])
    images[0, 2:, 4:, 2] = 51
    tokens, cls = Colour(FeatureSet(backbone="colour", stride=2), CPU).forward(images)
    assert tokens.shape == (1, 2, 3, 5)
    expected = np.zeros((2, 3, 3))
    expected[0, 1, 0], expected[1, 2, 2] = 0.75, 0.2
    np.testing.assert_allclose(tokens[0, ..., :3], expected, atol=1e-7)
    np.testing.assert_allclose(tokens[0, :, 0, 4], [0.5 / 3, 1.5 / 3])  # y, in shares of the longer side
    np.testing.assert_allclose(tokens[0, 0, :, 3], [0.5 / 3, 1.5 / 3, 2.5 / 3])
    torch.testing.assert_close(cls, tokens.mean((1, 2)))


def test_default_stride() -> None:
    one = Colour(FeatureSet(backbone="colour"), CPU)
    assert (one.stride, one.multiple, one.depth, one.heads) == (16, 16, 5, None)
    assert one.forward(torch.zeros(2, 32, 64, 3, dtype=torch.uint8))[0].shape == (2, 2, 4, 5)


def test_the_stage_needs_no_network(tmp_path: Path) -> None:
    weights = tmp_path / "colour.safetensors"
    prepare(CHOSEN, weights)
    sizes = [(60, 90), (90, 61), (50, 50)]
    rows = []
    for i, (height, width) in enumerate(sizes):
        picture = np.random.default_rng(i).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
        rows.append({"id": f"{i}", "path": str(tmp_path / f"{i}.png"), "width": width, "height": height})
    table = pa.Table.from_pylist([row | {"shard": "s0", "label": None} for row in rows])
    write_table(tmp_path / "m.parquet", table)
    run(
        tmp_path / "m.parquet", "s0", CHOSEN.model_dump(mode="json"), weights, tmp_path / "f.zarr", Compute(2, 1, "cpu")
    )
    store = Ragged(tmp_path / "f.zarr", "features")
    assert store.attrs["backbone"] == "colour"
    assert store.depth == 5
    assert "cls_query" not in store.per_image_names
    for row, (height, width) in zip(rows, sizes, strict=True):
        size = target_size(height, width, CHOSEN.size, 14)
        small = resize(decode(str(row["path"])), size).astype(np.float64) / 255
        cells = small.reshape(size[0] // 14, 14, size[1] // 14, 14, 3).mean((1, 3))
        np.testing.assert_allclose(store[str(row["id"])][..., :3], cells, atol=5e-4)  # float16


def test_its_weights_file_says_what_it_is(tmp_path: Path) -> None:
    prepare(CHOSEN, tmp_path / "w.safetensors")
    one = load(tmp_path / "w.safetensors", CHOSEN, CPU)
    assert isinstance(one, Colour)
    assert len(one.digest) == 64


@pytest.mark.parametrize("keys", [{"facet": "key"}, {"layer": 3}, {"checkpoint": "w.pth"}])
def test_keys_of_a_network_are_errors(keys: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"features\.c.*backbone colour has no facet, layer, checkpoint or flip"):
        validate(FeatureSet, {"backbone": "colour", **keys}, "r.yaml", "features.c")
