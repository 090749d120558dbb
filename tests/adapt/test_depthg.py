"""depthg: farthest points by loops, the loss by hand, depth that tells like tokens apart; depth maps as inputs."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from input_files import read
from interrupted import ends_the_same
from PIL import Image
from token_scenes import DEPTH, write

from maskmill.adapt import _collapse, _correspondence, depthg, run, stego
from maskmill.adapt._beside import TokensAndMore
from maskmill.adapt.infer import Head
from maskmill.dag.files import Graph
from maskmill.errors import ConfigError, InputError, StoreError
from maskmill.images.depth import depth_on_grid, read_depth
from maskmill.images.presence import check_presence
from maskmill.recipe.inputs import Inputs
from maskmill.recipe.resolve import load
from maskmill.store.artefact import read_json, read_tensors
from maskmill.training.resources import Resources

RECIPES = Path(__file__).parents[2] / "recipes"
GRID = (8, 10)
FAST = {"method": "depthg", "steps": 80, "batch_size": 6, "dimensions": 8, "places": 4, "neighbours": 3, "dropout": 0.0,
        "crops": "none", "decay": 1.0, "weight_depth": 2.0, "shift_depth": 0.5, "learning_rate": 5e-3}  # fmt: skip


# --- places and loss --------------------------------------------------------------------------------------------------


def test_places_are_the_farthest_points_of_the_cloud() -> None:
    """One point after the other, by loops over a grid of which some cells are at one point."""
    depth = np.random.default_rng(0).random((2, 4, 5)).astype(np.float32)
    depth[1, :2] = 0
    for one, found in zip(depth, depthg.farthest(depth, 3), strict=True):
        cloud = depthg.cloud(one[None])[0].astype(float)
        cells = list(itertools.product(range(4), range(5)))
        taken = [cells[0]]
        while len(taken) < 9:
            left = [cell for cell in cells if cell not in taken]
            gaps = [min(float(np.square(cloud[cell] - cloud[old]).sum()) for old in taken) for cell in left]
            taken.append(left[gaps.index(max(gaps))])
        expected = [(2 * x / 4 - 1, 2 * y / 3 - 1) for y, x in sorted(taken)]
        np.testing.assert_allclose(found.reshape(9, 2), expected, rtol=1e-6)


def test_a_point_lies_where_a_camera_sees_it() -> None:
    depth = np.full((1, 2, 4), 0.5, np.float32)
    depth[0, 1, 0] = 0
    cloud = depthg.cloud(depth)[0]
    np.testing.assert_allclose(cloud[0, 3], [depthg.WIDTH * 0.5 / 4, -depthg.WIDTH * 0.5 / 2, -2.5], rtol=1e-6)
    np.testing.assert_array_equal(cloud[1, 0], 0)


def test_places_of_few_or_equal_cells() -> None:
    assert depthg.farthest(np.ones((1, 1, 1), np.float32), 4).tolist() == [[[[-1.0, -1.0]]]]
    assert depthg.farthest(np.ones((2, 3, 3), np.float32), 5).shape == (2, 3, 3, 2)
    at = depthg.farthest(np.zeros((1, 3, 3), np.float32), 2).reshape(4, 2)
    assert len({tuple(place) for place in at.tolist()}) == 4


def test_places_name_the_cells_that_they_are_sampled_at() -> None:
    depth = np.random.default_rng(0).random((1, 5, 7)).astype(np.float32)
    places = torch.from_numpy(depthg.farthest(depth, 3))
    values = _correspondence.sample(torch.from_numpy(depth)[:, None], places).flatten().numpy()
    assert {round(float(value), 5) for value in values} <= {round(float(value), 5) for value in depth.ravel()}


@pytest.mark.parametrize("compat", ["paper", "code"])
def test_products_of_depths(compat: str) -> None:
    depth = torch.tensor([[[[0.0, 0.5], [0.2, 1.0]]]])
    found = depthg.of_depth(depth, compat)
    assert found.shape == (1, 2, 2, 2, 2)
    flat = [0.0, 0.5, 0.2, 1.0] if compat == "paper" else [0.0, 1.0, 1.0, 1.0]
    torch.testing.assert_close(found.reshape(4, 4), torch.tensor(flat)[:, None] * torch.tensor(flat))


@pytest.mark.parametrize("compat", ["paper", "code"])
def test_the_loss_of_depth_by_hand(compat: str) -> None:
    """One pair of places after the other, at a step at which weight and shift have decayed twice."""
    draws = torch.Generator().manual_seed(0)
    depth = torch.rand(2, 1, 2, 2, generator=draws)
    depth[0, 0, 0, 0] = 0
    s = (2 * torch.rand(2, 2, 2, 2, 2, generator=draws) - 1).requires_grad_()
    params = depthg.Params(weight_depth=0.7, shift_depth=0.2, decay=0.5, decay_every=10, compat=compat)  # type: ignore[arg-type]
    found = depthg.depth_loss(depth, s, 21, params)
    found.backward()
    total = 0.0
    for n, a, b, c, d in itertools.product(range(2), repeat=5):
        pair = float(depth[n, 0, a, b]), float(depth[n, 0, c, d])
        product = pair[0] * pair[1] if compat == "paper" else float(pair[0] > 0 and pair[1] > 0)
        value = float(s.detach()[n, a, b, c, d])
        total -= max(value, 0.0) * (product - 0.05) / 32
        slope = -0.175 * (product - 0.05) / 32 if value > 0 else 0.0
        assert float(s.grad[n, a, b, c, d]) == pytest.approx(slope, abs=1e-8)  # type: ignore[index]
    assert float(found) == pytest.approx(0.175 * total, rel=1e-5)


def test_the_published_schedules() -> None:
    params = depthg.Params()
    assert [depthg.side_at(step, params) for step in (0, 1, 1000, 1001)] == [11, 9, 9, 8]
    assert [depthg.decayed(step, params) for step in (0, 250, 251, 501)] == pytest.approx([1, 1, 0.6, 0.36])
    assert (params.weight_depth, params.shift_depth, params.weight_random) == (0.19, 0.03, 0.7)


# --- the training -----------------------------------------------------------------------------------------------------


def world(folder: Path, far: str, shards: int = 1) -> run.TokenSource:
    """Images whose tokens are alike but for a little that says on which half they are; one half is far.

    Args:
        far: in the depth maps: the `right` half, the one `below`, or none (`even`).
    """
    rng = np.random.default_rng(0)
    common, sides = 3 * rng.standard_normal(DEPTH), 0.6 * rng.standard_normal((2, DEPTH))
    right = np.zeros(GRID, int)
    right[:, GRID[1] // 2 :] = 1
    images = {}
    for i in range(8):
        name = f"im{i}"
        images[name] = (common + sides[right] + 0.1 * rng.standard_normal((*GRID, DEPTH))).astype("f4")
        for kind in ("images", "depth"):
            (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(folder / "images" / f"{name}.png")
        kinds = {"right": np.kron(right, np.ones((4, 4))), "below": np.eye(2)[[0, 0]].T, "even": np.ones((7, 9))}
        np.save(folder / "depth" / f"{name}.npy", 2.0 + 3 * kinds[far])
    read(folder / "m", folder / "images", depth=str(folder / "depth"))
    return run.TokenSource(write(folder, images, shards), folder / "m" / "manifest.parquet")


def fitted(source: run.TokenSource, out: Path, threads: int = 1, **more: Any) -> tuple[Head, dict[str, Any]]:
    out.mkdir(parents=True, exist_ok=True)
    run.find_neighbours(list(source.stores), "none", 3, out / "near.parquet")
    files = run.HeadFiles(out / "head.safetensors", out / "monitor.json")
    resources = Resources(threads, "cpu")
    run.fit(source, {**FAST, **more}, files, seed=0, clusters=2, neighbours=out / "near.parquet", resources=resources)
    return Head.load(files.head, "cpu"), read_json(out / "monitor.json")


def cosine_of_halves(head: Head, source: run.TokenSource) -> float:
    """Cosine of the mean codes of both halves, mean over the images."""
    found = []
    for i in range(8):
        codes = head.codes(run.TokenImages(source.stores, 1)[i])
        left, right = (half.reshape(-1, 8).mean(0) for half in np.split(codes, 2, axis=1))
        found.append(left @ right / np.linalg.norm(left) / np.linalg.norm(right))
    return float(np.mean(found))


def test_depth_tells_like_tokens_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """STEGO takes both halves for one thing. They are two where one of them is far, but not where the lower part is."""
    monkeypatch.setattr(_collapse, "LARGEST", 1.0)  # one thing is what is expected
    own = {"shift": "fixed", "weight_self": 0.1, "weight_knn": 0.0, "weight_random": 0.0, "shift_depth": 0.2}
    found = {}
    for far, weight in (("right", 0.0), ("right", 2.0), ("below", 2.0)):
        source = world(tmp_path / far, far)
        head, monitor = fitted(source, tmp_path / far, **own | {"weight_depth": weight})
        found[far, weight] = cosine_of_halves(head, source)
        assert np.isfinite(monitor["monitors"]["depth"]).all()
    assert found["right", 0.0] > 0.99
    assert found["right", 2.0] < 0
    assert found["below", 2.0] > 0.9


@pytest.mark.parametrize("sampling", ["farthest", "uniform"])
def test_shards_and_threads_do_not_matter(sampling: str, tmp_path: Path) -> None:
    own = {"steps": 6, "sampling": sampling}
    fitted(world(tmp_path / "one", "right"), tmp_path / "a", **own)
    fitted(world(tmp_path / "two", "right", shards=2), tmp_path / "b", threads=2, **own)
    first, second = (read_tensors(tmp_path / which / "head.safetensors")[0] for which in "ab")
    assert all(np.array_equal(value, second[name]) for name, value in first.items())


def test_a_stopped_training_goes_on_as_if_it_had_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = world(tmp_path, "right")
    few = {"steps": 24, "places_every": 10, "decay": 0.9, "decay_every": 5}  # it stops within both schedules
    names = ("head.safetensors", "monitor.json")
    ends_the_same(monkeypatch, lambda out: fitted(source, out, **few), tmp_path, names, 13)


def test_without_depth_it_is_stego(tmp_path: Path) -> None:
    source = world(tmp_path, "right")
    own = {"steps": 6, "sampling": "uniform", "weight_depth": 0.0}
    depth, _ = fitted(source, tmp_path / "a", **own)
    section = {key: value for key, value in FAST.items() if key in stego.Params.model_fields}
    weights = {
        name: depthg.Params.model_fields[name].default for name in ("weight_self", "weight_knn", "weight_random")
    }
    section |= {"method": "stego", "steps": 6} | weights
    out = run.HeadFiles(tmp_path / "stego.safetensors")
    resources = Resources(1, "cpu")
    near = tmp_path / "a" / "near.parquet"
    run.fit(source.stores, section, out, seed=0, clusters=2, neighbours=near, resources=resources)
    same = read_tensors(tmp_path / "stego.safetensors")[0]
    for name, value in read_tensors(tmp_path / "a" / "head.safetensors")[0].items():
        np.testing.assert_array_equal(value, same[name])
    assert depth.method == "depthg"


def test_a_depth_map_that_changed_is_named(tmp_path: Path) -> None:
    source = world(tmp_path, "right")
    np.save(tmp_path / "depth" / "im3.npy", np.eye(4))
    with pytest.raises(InputError, match=r"im3.npy: another content than in the manifest; it changed since the inputs"):
        fitted(source, tmp_path / "a")


def test_other_depth_maps_make_another_head(tmp_path: Path) -> None:
    """What a head was made of names them, so that a checkpoint of other depth maps is not gone on with."""
    sources = [world(tmp_path / far, far) for far in ("right", "even")]
    hashes = [TokensAndMore(each.stores, each.manifest, ("depth",), 1, "x").hashes for each in sources]
    assert hashes[0][:-1] == hashes[1][:-1]
    assert hashes[0][-1] != hashes[1][-1]


def test_a_manifest_without_depth_maps_is_refused(tmp_path: Path) -> None:
    source = world(tmp_path, "right")
    read(tmp_path / "m", tmp_path / "images")
    with pytest.raises(StoreError, match=r"holds no depth map of 'im0.*'; set inputs.depth and run snakemake again"):
        fitted(source, tmp_path / "a")


def test_a_recipe_with_depth_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    config = {"recipes": ["depthg"], "images": str(tmp_path / "images")}
    with pytest.raises(
        InputError, match=r"recipe depthg: adapt.method depthg learns from depth maps; set inputs.depth"
    ):
        check_presence(load(config, RECIPES), "config.yaml")
    missing = str(tmp_path / "none")
    with pytest.raises(InputError, match=r"inputs.depth: '.*none' does not exist"):
        check_presence(load(config | {"inputs": {"depth": missing}}, RECIPES), "config.yaml")
    check_presence(load(config | {"inputs": {"depth": str(tmp_path)}}, RECIPES), "config.yaml")


def test_a_head_that_learns_from_depth_watches_the_manifest(tmp_path: Path) -> None:
    """There the digests of the depth maps are; other heads see by their stores what has changed."""
    config = {"recipes": ["depthg", "stego"], "inputs": {"depth": str(tmp_path)}}
    graph = Graph(load(config, RECIPES), shards=lambda: ["s0"])
    timeless = {
        name: graph.inputs("adapt_fit", {"recipe": name, "seed": "0"})["manifest"].timeless
        for name in ("depthg", "stego")
    }
    assert timeless == {"depthg": False, "stego": True}


# --- depth maps -------------------------------------------------------------------------------------------------------


def test_files_of_every_kind_hold_the_same_depth(tmp_path: Path) -> None:
    values = np.arange(12).reshape(3, 4)
    Image.fromarray(values.astype(np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "b.png")
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "c.tiff")
    np.save(tmp_path / "d.npy", values.astype(np.float64))
    np.save(tmp_path / "e.npy", values[None].astype(np.int32))
    for name in ("a.png", "b.png", "c.tiff", "d.npy", "e.npy"):
        np.testing.assert_array_equal(read_depth(tmp_path / name)[0], values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 3, 3)), r"an array of shape \(2, 3, 3\); give one number a pixel"),
        (np.array([[1.0, np.nan]]), "1 of 2 pixels are NaN or infinite; fill them"),
        (np.array([["a"]]), "give one number a pixel"),
        (np.zeros((0, 4)), "give one number a pixel"),
    ],
)
def test_arrays_that_are_no_depth_map(values: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(InputError, match=rf"a\.npy: depth map: .*{message}"):
        read_depth(tmp_path / "a.npy")


def test_files_that_are_no_depth_map(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    (tmp_path / "c.npy").write_bytes(b"no array")
    for name, message in {"a.png": "a picture of mode RGB", "b.png": "unreadable", "c.npy": "no readable .npy"}.items():
        with pytest.raises(InputError, match=rf"{name}: depth map: {message}"):
            read_depth(tmp_path / name)


def header(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    """The start of a .npy that says what it holds, and holds nothing."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue()


def png(width: int, height: int) -> bytes:
    """The same of a PNG of 8 bits."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + png_data()


def png_data() -> bytes:
    data = b"IDAT" + zlib.compress(b"")
    return struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("zip.npy", b"PK\x03\x04 and nothing of an archive", "no readable .npy"),
        ("huge.npy", header((10**6, 10**6)), "1000000000000 pixels, more than 178956970; make it smaller"),
        ("short.npy", header((100, 100)) + bytes(64), "no readable .npy .it ends within an array of shape"),
        ("pickle.npy", header((4, 4), "|O") + b"cos\nsystem\n", "object in an array of shape"),
        ("magic.npy", b"\x93NUMPY\x01\x00", "no readable .npy"),
        ("bomb.png", png(40_000, 20_000), "more than 178956970 pixels; make it smaller"),
        ("cut.png", png(10, 10), "unreadable"),
    ],
)
def test_damaged_and_oversized_depth_maps(name: str, body: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(body)
    with pytest.raises(InputError, match=rf"{name}: depth map: {message}") as caught:
        read_depth(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_depth_on_a_grid_is_the_mean_of_its_cells_from_0_to_1() -> None:
    values = np.array([[1.0, 3, 5, 5], [1, 3, 5, 5], [9, 9, 2, 4], [9, 9, 2, 4]], np.float32)
    np.testing.assert_allclose(depth_on_grid(values, (2, 2)), [[0, 3 / 7], [1, 1 / 7]], rtol=1e-6)
    np.testing.assert_array_equal(depth_on_grid(np.full((3, 3), 7, np.float32), (2, 2)), 0.5)
    assert depth_on_grid(values, (9, 7)).shape == (9, 7)


def test_the_manifest_names_the_depth_map_of_every_image(tmp_path: Path) -> None:
    source = world(tmp_path, "right")
    with_depth = read(tmp_path / "m", tmp_path / "images", depth=str(tmp_path / "depth"))
    assert [Path(str(row.depth)).name for row in with_depth.rows] == [f"im{i}.npy" for i in range(8)]
    assert len({row.depth_digest for row in with_depth.rows}) == 1  # all the same array
    plain = read(tmp_path / "n", tmp_path / "images")
    assert {row.depth for row in plain.rows} == {None}
    assert plain.shards == with_depth.shards
    assert "depth" not in Inputs().model_dump(mode="json")
    assert source.stores


def test_images_without_a_usable_depth_map_stop_the_inputs(tmp_path: Path) -> None:
    world(tmp_path, "right")
    (tmp_path / "depth" / "im5.npy").unlink()
    given = {"depth": str(tmp_path / "depth")}
    with pytest.raises(InputError, match=r"inputs.depth: 1 of 8 images have no depth map in .*, the first is 'im5"):
        read(tmp_path / "m", tmp_path / "images", **given)
    Image.new("RGB", (4, 4)).save(tmp_path / "depth" / "im5.png")
    with pytest.raises(InputError, match=r"im5.png: depth map: a picture of mode RGB; .*, or drop inputs.depth"):
        read(tmp_path / "m", tmp_path / "images", **given)


@pytest.mark.parametrize("key", ["window", "composites"])
def test_depth_maps_of_parts_of_images_are_refused_before_a_job_runs(key: str) -> None:
    value = {"window": {"size": 16}, "composites": {"natural": [2, 1, 0]}}[key]
    config = {"recipes": ["depthg"], "inputs": {"depth": "maps", key: value}}
    with pytest.raises(ConfigError, match=f"depth: {key} makes several pictures of one image, .*; drop {key} or depth"):
        load(config, RECIPES)


def test_depth_maps_of_pages_are_refused(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (20, 16), (i, i, i)) for i in range(2)]
    for folder in ("images", "depth"):
        (tmp_path / folder).mkdir()
    pages[0].save(tmp_path / "images/a.tif", save_all=True, append_images=pages[1:])
    np.save(tmp_path / "depth/a.npy", np.ones((16, 20)))
    with pytest.raises(InputError, match=r"depth maps are those of whole images, and inputs.pages: all makes several"):
        read(tmp_path / "m", tmp_path / "images", depth=str(tmp_path / "depth"), pages="all")


def test_a_folder_of_depth_maps_inside_the_images_is_no_images(tmp_path: Path) -> None:
    (tmp_path / "images/depth").mkdir(parents=True)
    (tmp_path / "images/labels").mkdir()
    Image.new("RGB", (20, 16)).save(tmp_path / "images/a.png")
    for folder in ("depth", "labels"):
        Image.new("L", (20, 16), 1).save(tmp_path / "images" / folder / "a.png")
    inner = {"depth": str(tmp_path / "images/depth"), "labels": tmp_path / "images/labels"}
    for images in (tmp_path / "images", [tmp_path / "images", tmp_path / "images/a.png"]):
        found = read(tmp_path / "m", images, **inner)
        assert [Path(row.path).parent.name for row in found.rows] == ["images"]
        assert found.rows[0].depth == str(tmp_path / "images/depth/a.png")


def test_a_depth_map_has_the_shape_of_the_photo_as_displayed(tmp_path: Path) -> None:
    """The photo is 12 x 30 in its file and 30 x 12 on the screen; a map in the file's shape lies across it."""
    photo = Image.new("RGB", (30, 12))
    exif = photo.getexif()
    exif[0x0112] = 6
    for folder in ("images", "depth"):
        (tmp_path / folder).mkdir()
    photo.save(tmp_path / "images/a.jpg", exif=exif)
    given = {"depth": str(tmp_path / "depth")}
    np.save(tmp_path / "depth/a.npy", np.ones((12, 30)))
    with pytest.raises(InputError, match=r"a.npy: depth map: 30x12 pixels, .* displayed with 12x30; turn it"):
        read(tmp_path / "m", tmp_path / "images", **given)
    np.save(tmp_path / "depth/a.npy", np.ones((30, 30)))
    with pytest.raises(InputError, match=r"30x30 pixels, .* 12x30; make it of the whole photo"):
        read(tmp_path / "m", tmp_path / "images", **given)
    for shape in ((30, 12), (15, 6), (300, 126), (8, 5)):
        np.save(tmp_path / "depth/a.npy", np.ones(shape))
        assert read(tmp_path / "m", tmp_path / "images", **given).rows[0].depth_digest


def test_depths_are_held_within_their_share_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = world(tmp_path, "right")
    images = TokensAndMore(source.stores, source.manifest, ("depth",), 1, "x")
    images._whole_room = 16 * 3 * 320  # a grid of 8 x 10 float32, three of which are the share
    whole = images._room
    first = [images.far(i) for i in range(8)]
    assert sorted(images._held["depth"]) == [0, 1, 2]
    tokens = sum(array.nbytes for array in images._cache.values())
    assert images._room == whole - tokens - 3 * 320
    for i, one in enumerate(first):
        np.testing.assert_array_equal(images.far(i), one)
