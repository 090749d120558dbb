"""The features stage: batches, the store, changed files, determinism, and what a user is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from maskmill.backbones import weights_file
from maskmill.backbones.network import import_timm, load
from maskmill.device import Compute
from maskmill.errors import DeviceError, InputError, NumericsError, StoreError, WeightsError
from maskmill.features.run import plan_batches, run, warn_saturated
from maskmill.images.decode import decode, resize, target_size
from maskmill.recipe.feature_set import FeatureSet, Size
from maskmill.store.artefact import write_table
from maskmill.store.manifest import Row
from maskmill.store.ragged import Ragged

NAME = "vit_tiny_patch16_224"
CHOSEN = FeatureSet(backbone=NAME, facet="key", layer=1, size=Size(short_side=48))
SIZES = [(60, 90), (60, 60), (90, 60), (48, 48), (61, 90), (60, 90), (50, 50)]  # (height, width)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random ViT in a file as `maskmill weights` writes it."""
    torch.manual_seed(0)
    model = import_timm().create_model(NAME, pretrained=False, num_classes=0)
    file = tmp_path_factory.mktemp("w") / "w.safetensors"
    facts = {"architecture": NAME, "mean": [0.5] * 3, "std": [0.5] * 3}
    weights_file.write(file, model.state_dict(), facts)
    return file


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """Pictures of mixed sizes, in an order that is not that of their ids."""
    rng = np.random.default_rng(0)
    rows = []
    for i, (height, width) in enumerate(SIZES):
        name = f"im{(i * 3) % len(SIZES)}"
        coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(tmp_path / f"{name}.png")
        rows.append(Row(name, str(tmp_path / f"{name}.png"), width, height, "s0", None))
    return rows


def extract(rows: list[Row], weights: Path, out: Path, chosen: FeatureSet = CHOSEN, **options: Any) -> Ragged:
    """Run the stage on these rows in this order and open its store."""
    table = pa.table({key: [getattr(row, key) for row in rows] for key in Row.__annotations__})
    manifest = out.with_suffix(".parquet")
    write_table(manifest, table)
    settings = {"batch_size": 2, "threads": 1, "device": "cpu"} | options
    run(manifest, "s0", chosen.model_dump(mode="json"), weights, out, Compute(**settings))
    return Ragged(out, "features")


def test_every_image_gets_its_own_features(rows: list[Row], weights: Path, tmp_path: Path) -> None:
    store = extract(rows, weights, tmp_path / "f.zarr")
    backbone = load(weights, CHOSEN, torch.device("cpu"))
    assert sorted(store.ids) == sorted(row.id for row in rows)
    assert store.depth == backbone.depth == 192
    assert store.attrs["backbone"] == NAME
    assert (store.attrs["facet"], store.attrs["stride"]) == ("key", 16)
    assert 0 <= store.attrs["mean_cosine"] <= 1
    assert store.values.dtype == np.float16
    for row in rows:
        size = target_size(row.height, row.width, CHOSEN.size, 16)
        image = resize(decode(row.path), size)
        tokens, cls = backbone.forward(torch.from_numpy(np.array(image))[None])
        i = store.index(row.id)
        assert tuple(store.grid[i]) == (size[0] // 16, size[1] // 16)
        assert store.per_image("size")[i].tolist() == list(size)
        assert store.per_image("original")[i].tolist() == [row.height, row.width]
        np.testing.assert_allclose(store[row.id], tokens[0], atol=2e-3, rtol=2e-3)
        np.testing.assert_allclose(store.per_image("cls")[i], cls[0], atol=2e-3, rtol=2e-3)
        query = backbone.outputs(torch.from_numpy(np.array(image))[None])[2]
        assert query is not None
        np.testing.assert_allclose(store.per_image("cls_query")[i], query[0], atol=2e-3, rtol=2e-3)
    assert store.attrs["heads"] == 3
    assert store.per_image("cls_query").dtype == np.float16


def test_only_keys_have_the_query_of_the_cls_token(rows: list[Row], weights: Path, tmp_path: Path) -> None:
    store = extract(rows[:2], weights, tmp_path / "f.zarr", CHOSEN.model_copy(update={"facet": "token"}))
    assert store.per_image_names == ["cls", "original", "size"]
    assert "heads" not in store.attrs


def test_batches_have_one_size_and_depend_on_the_shard_only(rows: list[Row]) -> None:
    batches = plan_batches(rows, CHOSEN, 16, 2)
    assert batches == plan_batches(rows[::-1], CHOSEN, 16, 2)
    assert sorted(row.id for batch in batches for row in batch.rows) == sorted(row.id for row in rows)
    for batch in batches:
        assert 1 <= len(batch.rows) <= 2
        assert {target_size(row.height, row.width, CHOSEN.size, 16) for row in batch.rows} == {batch.size}
        assert [row.id for row in batch.rows] == sorted(row.id for row in batch.rows)


def same(one: Ragged, other: Ragged, tolerance: float) -> None:
    assert sorted(one.ids) == sorted(other.ids)
    for image in one.ids:
        np.testing.assert_allclose(
            one[image].astype(np.float32), other[image].astype(np.float32), atol=tolerance, rtol=tolerance
        )


def test_manifest_order_does_not_matter(rows: list[Row], weights: Path, tmp_path: Path) -> None:
    one = extract(rows, weights, tmp_path / "a.zarr")
    other = extract(rows[::-1], weights, tmp_path / "b.zarr")
    assert one.ids == other.ids
    same(one, other, 0)
    assert one.hash == other.hash


def test_readers_change_no_bit_and_batches_no_digit(rows: list[Row], weights: Path, tmp_path: Path) -> None:
    """Worker processes decode the same pixels; other batches or threads may round differently in the last bit."""
    one = extract(rows, weights, tmp_path / "a.zarr")
    again = extract(rows, weights, tmp_path / "b.zarr")
    assert one.ids == again.ids
    same(one, again, 0)
    same(one, extract(rows, weights, tmp_path / "c.zarr", threads=2), 2e-3)
    same(one, extract(rows, weights, tmp_path / "d.zarr", batch_size=7), 2e-3)


def test_int8_keeps_the_directions(rows: list[Row], weights: Path, tmp_path: Path) -> None:
    full = extract(rows, weights, tmp_path / "a.zarr")
    small = extract(rows, weights, tmp_path / "b.zarr", CHOSEN.model_copy(update={"dtype": "int8"}))
    assert small.values.dtype == np.int8
    for image in full.ids:
        a, b = (store[image].reshape(-1, 192).astype(np.float64) for store in (full, small))
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosine.min() > 1 - 2e-4


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.unlink(), r"im0.png: .*changed since the inputs were checked"),
        (lambda file: file.write_bytes(file.read_bytes()[:200]), r"im0.png: .*changed since"),
        (lambda file: Image.new("RGB", (7, 5)).save(file), r"im0.png: 7x5 px, was 90x60; it changed since"),
    ],
    ids=["removed", "truncated", "another size"],
)
def test_a_changed_image(
    change: Any, message: str, threads: int, rows: list[Row], weights: Path, tmp_path: Path
) -> None:
    change(Path(rows[0].path))
    with pytest.raises(InputError, match=message):
        extract(rows, weights, tmp_path / "f.zarr", threads=threads)
    assert not (tmp_path / "f.zarr").exists()


def broken(weights: Path, folder: Path, change: Any) -> Path:
    """The weights with the value projection of block 1 changed."""
    state, facts = weights_file.read(weights)
    change(state["blocks.1.attn.qkv.weight"])
    weights_file.write(folder / "broken.safetensors", state, facts)
    return folder / "broken.safetensors"


def test_nan_and_overflow(rows: list[Row], weights: Path, tmp_path: Path) -> None:
    def nan(weight: torch.Tensor) -> None:
        weight[200, 3] = float("nan")

    with pytest.raises(NumericsError, match=r"im\d: NaN or infinite values"):
        extract(rows, broken(weights, tmp_path, nan), tmp_path / "f.zarr")
    huge = broken(weights, tmp_path, lambda weight: weight.mul_(1e7))
    with pytest.raises(NumericsError, match="set dtype: int8"):
        extract(rows, huge, tmp_path / "f.zarr")
    assert not (tmp_path / "f.zarr").exists()
    chosen = CHOSEN.model_copy(update={"dtype": "int8"})  # the advice works
    assert np.abs(extract(rows, huge, tmp_path / "f.zarr", chosen)["im0"]).max() > 65504


def test_unknown_shard_weights_and_device(rows: list[Row], weights: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="'s0' is not in the manifest"):
        extract([replace(row, shard="s1") for row in rows], weights, tmp_path / "f.zarr")
    with pytest.raises(WeightsError, match="no such file"):
        extract(rows, tmp_path / "absent.safetensors", tmp_path / "f.zarr")
    with pytest.raises(DeviceError, match="nonsense"):
        extract(rows, weights, tmp_path / "f.zarr", device="nonsense")


def test_saturated_keys_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    keys = rng.standard_normal((6, 7, 16))
    keep = CHOSEN.model_copy(update={"key_bias": "keep"})
    low = warn_saturated(keys, keep)
    assert low is not None
    assert low < 0.2
    assert capsys.readouterr().err == ""
    unit = (keys / np.linalg.norm(keys, axis=2, keepdims=True)).reshape(-1, 16)
    assert low == pytest.approx((unit @ unit.T).mean(), abs=1e-4)
    high = warn_saturated(keys + 20, keep)
    assert high is not None
    assert high > 0.95
    assert "set key_bias: subtract" in capsys.readouterr().err
    warn_saturated(keys + 20, FeatureSet(backbone="x", facet="token"))  # tokens of a class are alike by design
    assert capsys.readouterr().err == ""


def test_a_cnn(rows: list[Row], tmp_path: Path) -> None:
    model = import_timm().create_model("resnet10t", pretrained=False, num_classes=0)
    facts = {"architecture": "resnet10t", "mean": [0.5] * 3, "std": [0.5] * 3}
    weights_file.write(tmp_path / "w.safetensors", model.state_dict(), facts)
    chosen = FeatureSet(backbone="resnet10t", stride=16, size=Size(square=64))
    store = extract(rows, tmp_path / "w.safetensors", tmp_path / "f.zarr", chosen)
    assert store.attrs["stride"] == 16
    assert (store.grid == 4).all()
    means = np.stack([store[i].reshape(-1, 512).mean(0, dtype=np.float32) for i in range(len(store))])
    np.testing.assert_allclose(store.per_image("cls"), means, atol=2e-3, rtol=2e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_agrees_with_cpu(rows: list[Row], weights: Path, tmp_path: Path) -> None:
    one = extract(rows, weights, tmp_path / "a.zarr")
    other = extract(rows, weights, tmp_path / "b.zarr", device="cuda", threads=2)
    assert one.ids == other.ids
    for image in one.ids:
        a, b = (store[image].reshape(-1, 192).astype(np.float64) for store in (one, other))
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosine.min() > 0.99
