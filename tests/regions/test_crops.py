"""Crop pooling: boxes in closed form, vectors against the backbone by hand, batches, odd segments, the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from maskmill.backbones import weights_file
from maskmill.backbones.network import Backbone, import_timm, load
from maskmill.cli.app import app
from maskmill.errors import ConfigError, DeviceError, InputError, NumericsError, StoreError
from maskmill.images.decode import decode, resize
from maskmill.recipe.base import validate
from maskmill.recipe.feature_set import FeatureSet, Size
from maskmill.regions import crop_mean
from maskmill.regions._crops import batched
from maskmill.regions.crop_cls import Crop, Params, cut_crops, open_mask, plan_crop
from maskmill.regions.run import Network, run
from maskmill.store.artefact import read_table, write_table
from maskmill.store.manifest import Row
from maskmill.store.ragged import Ragged, RaggedWriter

VIT = "vit_tiny_patch16_224"
PHOTOS = {"a": (80, 112), "b": (75, 112), "c": (64, 64), "d": (9, 200), "e": (80, 112)}  # (height, width)
GRID = (5, 7)
GREY = np.array([128, 128, 128], np.uint8)


def cells(*boxes: tuple[int, int, int, int], grid: tuple[int, int] = (10, 10)) -> np.ndarray:
    """A mask that is true in boxes y0, y1, x0, x1."""
    mask = np.zeros(grid, bool)
    for y0, y1, x0, x1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


@pytest.mark.parametrize(
    ("box", "photo", "params", "expected"),
    [
        # One cell is 16 pixels: whole patches of the grid need no rounding and no resize (the case of DSM).
        ((2, 5, 3, 4), (160, 160), {}, Crop(32, 80, 48, 64, (48, 16))),
        # Grown around the centre to whole patches: 20 -> 32 pixels, 6 before and 6 after.
        ((2, 3, 4, 5), (200, 200), {}, Crop(34, 66, 74, 106, (32, 32))),
        # At the edges it moves inwards instead.
        ((0, 1, 9, 10), (200, 200), {}, Crop(0, 32, 168, 200, (32, 32))),
        # A crop smaller than a patch becomes one patch.
        ((5, 6, 5, 6), (40, 40), {}, Crop(14, 30, 14, 30, (16, 16))),
        # No room for another patch: 50 pixels lose 2, one before and one after.
        ((0, 10, 0, 10), (50, 50), {}, Crop(1, 49, 1, 49, (48, 48))),
        # A photo of less than a patch is enlarged on that side.
        ((0, 10, 2, 4), (10, 100), {}, Crop(0, 10, 14, 46, (16, 32))),
        # Every pixel that the box touches: 1.7..3.4 of 17 pixels in 10 cells.
        ((1, 2, 1, 2), (17, 17), {"size": 16}, Crop(1, 4, 1, 4, (16, 16))),
        # The margin is a share of the box's own side, at each end, cut at the photo's edge.
        ((4, 8, 0, 2), (100, 100), {"size": {"square": 32}, "margin": 0.25}, Crop(30, 90, 0, 25, (32, 32))),
        # The whole photo.
        ((0, 10, 0, 10), (50, 70), {"size": {"short_side": 32}}, Crop(0, 50, 0, 70, (32, 48))),
        # Longer than `longest`: reduced with its aspect ratio; the other side is not beyond it.
        ((0, 10, 0, 5), (200, 200), {"longest": 64}, Crop(0, 200, 0, 100, (64, 32))),
        ((0, 4, 0, 2), (160, 160), {"longest": 64}, Crop(0, 64, 0, 32, (64, 32))),
    ],
)
def test_crops_in_closed_form(
    box: tuple[int, int, int, int], photo: tuple[int, int], params: dict[str, Any], expected: Crop
) -> None:
    assert plan_crop(cells(box), photo, 16, Params(**params)) == expected


@settings(max_examples=200, deadline=None)
@given(st.data(), *[st.integers(1, 90)] * 2, *[st.integers(1, 9)] * 2, st.sampled_from([1, 14, 32]), st.floats(0, 2))
def test_native_crops_are_whole_patches_of_the_photo(
    data: st.DataObject, height: int, width: int, h: int, w: int, patch: int, margin: float
) -> None:
    y, x = data.draw(st.integers(0, h - 1)), data.draw(st.integers(0, w - 1))
    mask = cells((y, data.draw(st.integers(y + 1, h)), x, data.draw(st.integers(x + 1, w))), grid=(h, w))
    crop = plan_crop(mask, (height, width), patch, Params(margin=margin))
    for low, high, side, size, found, count in (
        (crop.y0, crop.y1, height, crop.size[0], np.flatnonzero(mask.any(1)), h),
        (crop.x0, crop.x1, width, crop.size[1], np.flatnonzero(mask.any(0)), w),
    ):
        assert 0 <= low < high <= side
        assert size % patch == 0
        assert high - low == (size if side >= patch else side)  # not resampled where the photo has a patch
        inside = low <= found[0] * side / count + 1e-6 and (found[-1] + 1) * side / count <= high + 1e-6
        assert inside or high - low > side - patch  # only the photo's own rest of a patch is lost


def test_erosion_and_dilation_by_a_cross() -> None:
    mask = cells((2, 7, 3, 8))
    assert np.array_equal(open_mask(mask, 2, 0), cells((4, 5, 5, 6)))
    assert (
        open_mask(cells((4, 5, 5, 6)), 0, 5).sum() == 1 + sum(4 * i for i in range(1, 6)) - 2
    )  # diamond less its tips
    assert plan_crop(open_mask(mask, 2, 5), (160, 160), 16, Params()) == Crop(0, 160, 0, 160, (160, 160))
    assert open_mask(mask, 0, 0) is mask


def test_an_erosion_that_would_empty_the_mask_is_left_out() -> None:
    assert np.array_equal(open_mask(cells((2, 7, 3, 8)), 9, 0), cells((4, 5, 5, 6)))  # two steps fit, seven do not
    line = cells((3, 4, 0, 9))
    assert np.array_equal(open_mask(line, 2, 0), line)
    assert np.array_equal(open_mask(line, 2, 1), cells((2, 5, 0, 9), (3, 4, 0, 10)))


def test_the_images_border_does_not_erode() -> None:
    everything = np.ones((4, 6), bool)
    assert open_mask(everything, 3, 5).all()
    assert np.array_equal(open_mask(cells((0, 4, 0, 4)), 1, 0), cells((0, 3, 0, 3)))


def test_pixels_outside_the_segment_become_the_fill() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    segments = np.zeros((4, 4), np.uint8)
    segments[1, 1] = segments[2, 2] = 3
    kept, filled = (
        cut_crops(photo, segments, np.array([3]), 10, Params(mask=mask), GREY)[0] for mask in ("none", "mean")
    )
    assert np.array_equal(kept, photo[10:30, 10:30])
    expected = photo[10:30, 10:30].copy()
    expected[:10, 10:] = expected[10:, :10] = 128
    assert np.array_equal(filled, expected)


def test_a_photo_coarser_than_its_segments_is_not_filled_up() -> None:
    """No pixel centre lies in the segment: the crop stays a picture."""
    photo = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    segments = np.zeros((8, 8), np.uint8)
    segments[0, 0] = 1
    crop = cut_crops(photo, segments, np.array([1]), 1, Params(mask="mean"), GREY)[0]
    assert np.array_equal(crop, photo[:1, :1])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=30), st.integers(1, 4), st.integers(0, 40))
def test_batches_lose_nothing_and_bound_what_waits(sizes: list[tuple[int, int]], batch_size: int, room: int) -> None:
    taken = 0  # pixels handed in
    given_out: list[tuple[str, int]] = []

    def crops() -> Any:
        nonlocal taken
        for i, size in enumerate(sizes):
            assert taken <= room  # waits when the next comes
            taken += size[0] * size[1]
            yield ("a", i), np.full((*size, 3), i, np.uint8)

    for keys, images in batched(crops(), batch_size, room):
        assert 1 <= len(keys) == len(images) <= batch_size
        assert images.shape[1:] == (*sizes[keys[0][1]], 3)
        assert [int(image[0, 0, 0]) for image in images] == [i for _, i in keys]
        taken -= images.shape[0] * images.shape[1] * images.shape[2]
        given_out += keys
    assert sorted(given_out) == [("a", i) for i in range(len(sizes))]
    assert taken == 0


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random ViT and a random CNN in files as `maskmill weights` writes them."""
    folder, files = tmp_path_factory.mktemp("w"), {}
    for name in (VIT, "resnet10t"):
        torch.manual_seed(0)
        model = import_timm().create_model(name, pretrained=False, num_classes=0)
        facts = {"architecture": name, "mean": [0.5, 0.4, 0.3], "std": [0.25] * 3}
        files[name] = folder / f"{name}.safetensors"
        weights_file.write(files[name], model.state_dict(), facts)
    return files


def segments_of(name: str) -> np.ndarray:
    grid = np.zeros(GRID, np.uint8)
    if name == "a":
        grid[1:3, 2:5] = 1
        grid[4, 6] = 9  # one cell
    if name in "de":
        grid[:] = 2  # the whole image
    if name == "c":
        grid[0, :2] = grid[3, 4:] = 4  # two pieces, one box
    return grid  # b: nothing


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Photos, manifest and segments; the segments in an order that is not that of the ids."""
    rng, rows = np.random.default_rng(0), []
    for name, (height, width) in PHOTOS.items():
        coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(tmp_path / f"{name}.png")
        rows.append(Row(name, str(tmp_path / f"{name}.png"), width, height, "s0", None))
    table = pa.table({key: [getattr(row, key) for row in rows] for key in Row.__annotations__})
    write_table(tmp_path / "manifest.parquet", table)
    write_segments(tmp_path, list(PHOTOS)[::-1])
    return tmp_path


def write_segments(folder: Path, names: list[str]) -> None:
    with RaggedWriter(folder / "cut.zarr", "segments", dtype="uint8") as out:
        for i, name in enumerate(names):
            out.append(name, segments_of(name), confidence=np.float32(i / 8))


def section(chosen: FeatureSet, **own: Any) -> dict[str, Any]:
    seen = chosen.model_dump(mode="json", exclude={"size", "dtype"})
    return {"features": "semantic", "pool": "crop_cls", "min_area": 0.0, "feature_set": seen} | own


def pooled(folder: Path, weights: Path, params: dict[str, Any], **options: Any) -> Ragged:
    network = Network(folder / "manifest.parquet", weights, **({"batch_size": 2, "device": "cpu"} | options))
    run(folder / "cut.zarr", None, params, folder / "t.parquet", folder / "v.zarr", network)
    return Ragged(folder / "v.zarr", "vectors")


def by_hand(backbone: Backbone, pixels: np.ndarray) -> np.ndarray:
    tokens, cls = backbone.forward(torch.from_numpy(np.ascontiguousarray(pixels))[None])
    if not backbone.is_vit:
        cls = tokens.mean((1, 2))
    return cls[0].numpy()


@pytest.mark.parametrize(
    "chosen",
    [
        FeatureSet(backbone=VIT, layer=-1),
        FeatureSet(backbone=VIT, layer=2, facet="key"),
        FeatureSet(backbone="resnet10t", stride=16),
    ],
    ids=["cls after the norm", "key of the cls token", "mean of a CNN"],
)
def test_vectors_are_those_of_the_crops_by_hand(chosen: FeatureSet, shard: Path, weights: dict[str, Path]) -> None:
    file = weights[chosen.backbone]
    backbone = load(file, chosen, torch.device("cpu"))
    store = pooled(shard, file, section(chosen))
    photos = {name: decode(shard / f"{name}.png") for name in PHOTOS}
    assert store.ids == ["e", "d", "c", "b", "a"]
    assert store.grid.tolist() == [[1, 1], [1, 1], [1, 1], [0, 1], [2, 1]]
    assert store.values.dtype == np.float32
    assert store.depth == backbone.depth
    expected = {
        ("a", 0): photos["a"][16:48, 32:80],
        ("a", 1): photos["a"][64:80, 96:112],
        ("c", 0): photos["c"][0:64, 0:64],  # 64 / 5 * 4 = 51.2 rows -> 64 whole
        ("d", 0): resize(photos["d"][:, 4:196], (16, 192)),  # 9 px high: enlarged; 200 px wide: 4 lost at each end
        ("e", 0): photos["e"],
    }
    for (name, i), pixels in expected.items():
        np.testing.assert_allclose(store[name][i, 0], by_hand(backbone, pixels), atol=2e-5, rtol=1e-4)


def test_filled_and_resized_by_hand(shard: Path, weights: dict[str, Path]) -> None:
    chosen = FeatureSet(backbone=VIT)
    store = pooled(shard, weights[VIT], section(chosen, size=Size(square=48).model_dump(), mask="mean"))
    pixels = decode(shard / "c.png")[:52]
    inside = np.array(
        [
            [segments_of("c")[int((y + 0.5) * 5 / 64), int((x + 0.5) * 7 / 64)] == 4 for x in range(64)]
            for y in range(52)
        ]
    )
    filled = np.where(inside[..., None], pixels, np.array([128, 102, 76], np.uint8))  # 255 * (0.5, 0.4, 0.3)
    backbone = load(weights[VIT], chosen, torch.device("cpu"))
    np.testing.assert_allclose(store["c"][0, 0], by_hand(backbone, resize(filled, (48, 48))), atol=2e-5, rtol=1e-4)


def test_mean_under_the_segment_by_hand(shard: Path, weights: dict[str, Path]) -> None:
    chosen = FeatureSet(backbone="resnet10t", stride=16)
    size = Size(square=64)  # 4 x 4 tokens
    store = pooled(shard, weights["resnet10t"], section(chosen, pool="crop_mean", size=size.model_dump()))
    pixels = decode(shard / "c.png")[:52]  # of 5 x 7 segments on 64 x 64 pixels
    tokens = load(weights["resnet10t"], chosen, torch.device("cpu")).forward(
        torch.from_numpy(resize(np.ascontiguousarray(pixels), (64, 64)).copy())[None]
    )[0][0]
    share = np.zeros((4, 4))
    for y in range(64):
        for x in range(64):
            row, column = (y + 0.5) * 52 / 64, x + 0.5  # the crop is 52 pixels high
            share[y // 16, x // 16] += segments_of("c")[int(row * 5 / 64), int(column * 7 / 64)] == 4
    expected = (tokens.numpy() * share[..., None]).sum((0, 1)) / share.sum()
    assert 0 < share.sum() < 64 * 64
    np.testing.assert_allclose(store["c"][0, 0], expected, atol=2e-5, rtol=1e-4)


def test_a_crop_without_a_pixel_of_its_segment_counts_whole() -> None:
    tokens = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    np.testing.assert_allclose(crop_mean.pool(tokens, np.zeros((4, 4), np.uint8)), tokens.mean((0, 1)))
    np.testing.assert_allclose(crop_mean.pool(tokens, np.eye(2, dtype=np.uint8)), (tokens[0, 0] + tokens[1, 1]) / 2)


def test_the_table_keeps_the_segments_own_box(shard: Path, weights: dict[str, Path]) -> None:
    pooled(shard, weights[VIT], section(FeatureSet(backbone=VIT), erode=1, dilate=2, margin=0.5, min_area=0.05))
    rows = read_table(shard / "t.parquet").to_pylist()
    assert [(row["image"], row["region"]) for row in rows] == [("e", 2), ("d", 2), ("c", 4), ("a", 1)]
    last = rows[-1]
    box = [last[key] for key in ("area", "y0", "x0", "y1", "x1", "score")]
    np.testing.assert_allclose(box, [6 / 35, 1 / 5, 2 / 7, 3 / 5, 5 / 7, 0.5], rtol=1e-6)


def test_batches_threads_and_shards_change_no_digit(shard: Path, weights: dict[str, Path]) -> None:
    params = section(FeatureSet(backbone=VIT, layer=3), size=32)
    one = {name: values.copy() for name, values in pooled(shard, weights[VIT], params, batch_size=1).images()}
    for options in ({"batch_size": 2}, {"batch_size": 16}, {"batch_size": 3, "threads": 2}):
        other = pooled(shard, weights[VIT], params, **options)
        for name, values in one.items():
            np.testing.assert_allclose(other[name], values, atol=1e-5, rtol=1e-4)
    write_segments(shard, ["a"])  # a shard of its own
    np.testing.assert_allclose(pooled(shard, weights[VIT], params)["a"], one["a"], atol=1e-5, rtol=1e-4)


def test_a_shard_without_any_segment(shard: Path, weights: dict[str, Path]) -> None:
    write_segments(shard, ["b"])
    (shard / "b.png").unlink()  # nothing to look at: the photo is not read
    store = pooled(shard, weights[VIT], section(FeatureSet(backbone=VIT)))
    assert (store.ids, store.depth, store.grid.tolist()) == (["b"], 192, [[0, 1]])
    assert read_table(shard / "t.parquet").num_rows == 0


def test_each_photo_is_decoded_once(shard: Path, weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from maskmill.images import photos

    seen: list[str] = []
    read = photos.image_bytes
    monkeypatch.setattr(photos, "image_bytes", lambda path, most: seen.append(Path(path).stem) or read(path, most))
    pooled(shard, weights[VIT], section(FeatureSet(backbone=VIT, layer=0)))
    assert seen == ["e", "d", "c", "a"]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_changed_photo(threads: int, shard: Path, weights: dict[str, Path]) -> None:
    Image.new("RGB", (7, 5)).save(shard / "c.png")
    with pytest.raises(InputError, match=r"c.png: 7x5 px, was 64x64; it changed since the inputs were checked"):
        pooled(shard, weights[VIT], section(FeatureSet(backbone=VIT)), threads=threads)
    assert not (shard / "v.zarr").exists()


def test_what_a_user_is_told(shard: Path, weights: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    params = section(FeatureSet(backbone=VIT))
    with pytest.raises(ConfigError, match="give --manifest, --weights"):
        run(shard / "cut.zarr", None, params, shard / "t.parquet", shard / "v.zarr")
    with pytest.raises(ConfigError, match="give --features"):
        run(shard / "cut.zarr", None, {"pool": "mean"}, shard / "t.parquet", shard / "v.zarr")

    def forward(self: Backbone, images: torch.Tensor) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "forward", forward)
        with pytest.raises(DeviceError, match="set batch_size=4 and run again"):
            pooled(shard, weights[VIT], params, batch_size=8)
        with pytest.raises(DeviceError, match=r"lower regions.longest or regions.size and run again"):
            pooled(shard, weights[VIT], params, batch_size=1)
    with monkeypatch.context() as patch:
        bad = torch.full((2, 192), float("nan"))
        whole = Backbone.forward
        patch.setattr(Backbone, "forward", lambda self, x: (whole(self, x)[0], bad[: len(x)]))
        with pytest.raises(NumericsError, match="e: NaN or infinite"):
            pooled(shard, weights[VIT], params)
    write_segments(shard, ["a", "zebra"])
    with pytest.raises(StoreError, match="zebra"):
        pooled(shard, weights[VIT], params)


def test_through_the_command_line(shard: Path, weights: dict[str, Path]) -> None:
    params = section(FeatureSet(backbone="resnet10t"), size={"square": 64}) | {"version": 1}
    options = {
        "segments": shard / "cut.zarr", "manifest": shard / "manifest.parquet", "weights": weights["resnet10t"],
        "params": json.dumps(params), "table": shard / "t.parquet", "vectors": shard / "v.zarr",
        "batch-size": 4, "threads": 1, "device": "cpu",
    }  # fmt: skip
    done = CliRunner().invoke(app, ["regions", *(part for k, v in options.items() for part in (f"--{k}", str(v)))])
    assert done.exit_code == 0, done.output
    backbone = load(weights["resnet10t"], FeatureSet(backbone="resnet10t"), torch.device("cpu"))
    pixels = resize(decode(shard / "e.png"), (64, 64))
    np.testing.assert_allclose(Ragged(shard / "v.zarr")["e"][0, 0], by_hand(backbone, pixels), atol=2e-5, rtol=1e-4)


def test_sizes_as_written() -> None:
    assert Params(size="native") == Params() == Params(size=None)
    assert Params(size=224).size == Size(square=224)
    again = Params(**Params(size=224, mask="mean").model_dump(mode="json"))
    assert again == Params(size={"square": 224}, mask="mean")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"size": "natve"}, "regions.size: give native, the side of a square"),
        ({"size": {"sqare": 224}}, r"regions.size.sqare: unknown key \(did you mean 'square'\?\)"),
        ({"size": 8}, "regions.size.square: .* greater than or equal to 16, found 8"),
        ({"mask": "men"}, "regions.mask: .* 'none' or 'mean', found 'men'"),
    ],
)
def test_wrong_values_are_named(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"mine.yaml: {message}"):
        validate(Params, section, "mine.yaml", "regions")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_agrees_with_cpu(shard: Path, weights: dict[str, Path]) -> None:
    params = section(FeatureSet(backbone=VIT))
    one = pooled(shard, weights[VIT], params).rows(0, 5)
    other = pooled(shard, weights[VIT], params, device="cuda", threads=2).rows(0, 5)
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cosine.min() > 0.99
