"""dtype pq: the codec of a feature set, what it does not depend on, the stores that are made with it, and bad input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from maskmill.backbones.network import load
from maskmill.backbones.weights import prepare
from maskmill.device import Compute
from maskmill.errors import ConfigError, NumericsError, StoreError
from maskmill.features.fit import fit
from maskmill.features.run import run
from maskmill.images.decode import decode, resize
from maskmill.numerics.product import Encoder
from maskmill.numerics.sampling import smallest
from maskmill.recipe.base import validate
from maskmill.recipe.feature_set import FeatureSet
from maskmill.store import product
from maskmill.store.artefact import write_table
from maskmill.store.manifest import Row, read_images
from maskmill.store.ragged import Ragged

SET = {"backbone": "colour", "stride": 4, "size": {"short_side": 48}, "dtype": "pq", "pq": {"bytes": 5, "points": 2000}}


def chosen(**changes: Any) -> FeatureSet:
    return validate(FeatureSet, SET | changes, "test")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """Nine pictures of two sizes, sorted by id."""
    folder, rng, found = tmp_path_factory.mktemp("p"), np.random.default_rng(0), []
    for i in range(9):
        height, width = (60, 90) if i % 3 else (90, 60)
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
        found.append(Row(f"im{i}", str(folder / f"{i}.png"), width, height, "s0", None))
    return found


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("w") / "colour.safetensors"
    prepare(chosen(), file)
    return file


def manifest(rows: list[Row], path: Path, row_group: int | None = None) -> Path:
    write_table(path, pa.table({key: [getattr(row, key) for row in rows] for key in Row.__annotations__}),
                row_group=row_group)  # fmt: skip
    return path


def fitted(rows: list[Row], weights: Path, out: Path, threads: int = 1, **changes: Any) -> product.Codec:
    table = manifest(rows, out.with_suffix(".parquet"))
    fit(table, chosen(**changes).model_dump(mode="json"), weights, out, Compute(8, threads, "cpu"))
    return product.read(out)[0]


def test_the_codec_depends_on_images_and_settings_alone(rows: list[Row], weights: Path, tmp_path: Path) -> None:
    small = {"pq": SET["pq"] | {"images": 5}}  # type: ignore[operator]
    first = fitted(rows, weights, tmp_path / "a.safetensors", **small)
    shards = [replace(row, shard=f"s{i % 4}") for i, row in enumerate(rows)]
    assert fitted(shards, weights, tmp_path / "b.safetensors", threads=2, **small).digest == first.digest
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    seeds = {"pq": small["pq"] | {"seed": 1}}
    assert fitted(rows, weights, tmp_path / "c.safetensors", **seeds).digest != first.digest


def test_the_sample_is_spread_over_all_images(rows: list[Row], tmp_path: Path) -> None:
    table = manifest(rows, tmp_path / "m.parquet", row_group=2)
    ids = [row.id for row in rows]
    places = smallest(ids, 4, 0)
    assert places == sorted(places)
    assert read_images(table, lambda found: smallest(found, 4, 0)) == [rows[i] for i in places]
    assert read_images(table, lambda found: smallest(found, 99, 0)) == rows
    more = smallest([*ids, *(f"x{i}" for i in range(3))], 4, 0)
    assert {ids[i] for i in places} >= {ids[i] for i in more if i < len(ids)}  # images that come leave most in place


def test_a_store_holds_the_codes_of_the_tokens(rows: list[Row], weights: Path, tmp_path: Path) -> None:
    codec = fitted(rows, weights, tmp_path / "pq.safetensors")
    params, table = chosen().model_dump(mode="json"), manifest(rows, tmp_path / "m.parquet")
    for batch in (1, 4):
        out = tmp_path / f"{batch}.zarr"
        run(table, "s0", params, weights, out, Compute(batch, 1, "cpu"), tmp_path / "pq.safetensors")
    store = Ragged(tmp_path / "1.zarr", "features")
    assert store.codec is codec
    assert (store.depth, store.values.shape[1], store.values.dtype) == (5, 5, np.uint8)
    assert store.per_image("cls").dtype == np.float16
    np.testing.assert_array_equal(Ragged(tmp_path / "4.zarr").rows(0, 999), store.rows(0, 999))
    backbone = load(weights, chosen(), torch.device("cpu"))
    for row in rows:
        image = torch.from_numpy(resize(decode(row.path), (48, 72) if row.width > row.height else (72, 48)))[None]
        tokens = backbone.forward(image)[0][0]
        np.testing.assert_array_equal(store[row.id], Encoder(codec).as_stored(tokens))
        assert np.square(store[row.id] - tokens.numpy()).mean() < 0.01 * tokens.numpy().var()


def test_the_codec_of_another_feature_set_is_refused(rows: list[Row], weights: Path, tmp_path: Path) -> None:
    fitted(rows, weights, tmp_path / "pq.safetensors")
    table, out = manifest(rows, tmp_path / "m.parquet"), tmp_path / "a.zarr"
    other = chosen(stride=8).model_dump(mode="json")
    said = (
        r"pq\.safetensors: not the codec of this feature set: it was fitted with stride: 4 and not 8; delete it and run"
    )
    with pytest.raises(StoreError, match=said):
        run(table, "s0", other, weights, out, Compute(1, 1, "cpu"), tmp_path / "pq.safetensors")
    with pytest.raises(ConfigError, match=r"dtype: pq needs the codec that `maskmill features-pq` writes"):
        run(table, "s0", chosen().model_dump(mode="json"), weights, out, Compute(1, 1, "cpu"))
    body = bytearray((tmp_path / "pq.safetensors").read_bytes())
    body[-9] ^= 1
    (tmp_path / "pq.safetensors").write_bytes(body)
    with pytest.raises(StoreError, match=r"pq\.safetensors: damaged"):
        run(table, "s0", chosen().model_dump(mode="json"), weights, out, Compute(1, 1, "cpu"),
            tmp_path / "pq.safetensors")  # fmt: skip
    assert not out.exists()


def test_bytes_that_do_not_divide_are_said_at_the_start(rows: list[Row], tmp_path: Path) -> None:
    said = r"features\.semantic: pq\.bytes: 4 does not divide the length 5 of a token of colour; take one of 1, 5"
    with pytest.raises(ConfigError, match=said):
        validate(FeatureSet, SET | {"pq": {"bytes": 4}}, "recipe.yaml", "features.semantic")
    with pytest.raises(ConfigError, match=r"length 384 of a token of vit_small_focus; take one of 1, 2"):
        validate(FeatureSet, {"backbone": "vit_small_focus", "dtype": "pq", "pq": {"bytes": 256}}, "recipe.yaml")
    with pytest.raises(
        ConfigError, match=r"pq is for dtype: pq, not int8; leave it out \(pq: null\), or set dtype: pq"
    ):
        validate(FeatureSet, SET | {"dtype": "int8"}, "recipe.yaml")
    of_timm = validate(
        FeatureSet, {"backbone": "efficientnet_lite0", "dtype": "pq", "pq": {"bytes": 48}}, "recipe.yaml"
    )
    with pytest.raises(ValueError, match=r"pq\.bytes: 48 does not divide the length 320"):  # known in the fit
        of_timm.check_depth(320)


def test_other_feature_sets_keep_their_names() -> None:
    plain = FeatureSet(backbone="colour")
    assert "pq" not in plain.model_dump()
    assert plain.slug == "colour-token-sq448-75503a"  # as it was before there were codes
    assert validate(FeatureSet, {"backbone": "colour", "pq": None}, "x").slug == plain.slug
    coded = validate(FeatureSet, {"backbone": "vit_small_focus", "dtype": "pq"}, "x")
    assert coded.pq is not None
    assert coded.pq.bytes == 32
    assert validate(FeatureSet, coded.model_dump(mode="json"), "x").slug == coded.slug


def test_tokens_that_are_no_numbers_name_their_image(
    rows: list[Row], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted(rows, weights, tmp_path / "pq.safetensors")
    from maskmill.backbones.colour import Colour

    forward = Colour.forward

    def broken(self: Colour, images: torch.Tensor) -> Any:
        tokens, cls = forward(self, images)
        if images.shape[1] > images.shape[2]:
            tokens[0, 0, 0, 0] = torch.nan
        return tokens, cls

    monkeypatch.setattr(Colour, "forward", broken)
    params, table = chosen().model_dump(mode="json"), manifest(rows, tmp_path / "m.parquet")
    with pytest.raises(NumericsError, match=r"im[036]: NaN or infinite tokens of colour"):
        run(table, "s0", params, weights, tmp_path / "a.zarr", Compute(2, 1, "cpu"), tmp_path / "pq.safetensors")
    with pytest.raises(NumericsError, match=r"im[036]: NaN or infinite tokens of colour"):
        fit(table, params, weights, tmp_path / "b.safetensors", Compute(1, 1, "cpu"))
