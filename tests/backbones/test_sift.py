"""The backbone `sift`: a plain numpy SIFT and OpenCV's beside it, its grid, its grey, and the stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

from maskmill.backbones import mean_colour
from maskmill.backbones.network import load
from maskmill.backbones.sift import Sift, grey
from maskmill.backbones.weights import prepare
from maskmill.device import Compute
from maskmill.errors import ConfigError
from maskmill.features.run import run
from maskmill.images.decode import decode, resize
from maskmill.plan.geometry import Geometry, geometry
from maskmill.recipe import packages
from maskmill.recipe.base import validate
from maskmill.recipe.feature_set import FeatureSet, SiftPatch, Size
from maskmill.recipe.resolve import SHIPPED
from maskmill.recipe.resolve import load as load_run
from maskmill.store.artefact import write_table
from maskmill.store.manifest import read_shard
from maskmill.store.ragged import Ragged

CPU = torch.device("cpu")
BINS = np.arange(4) - 1.5
WIDE = {8: 2, 9: 2, 16: 6, 17: 7, 24: 8}  # side of a patch -> pixels from one end of a bin's triangle to the other


def texture(height: int, width: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    """Smooth noise uint8 [height, width, channels]; the channels differ."""
    drawn = np.random.default_rng(seed).normal(size=(height, width, channels))
    smooth = gaussian_filter(drawn, (2, 2, 0), mode="wrap")
    return np.round(127 + 127 * np.clip(smooth / np.abs(smooth).max(), -1, 1)).astype(np.uint8)


def opened(channels: int = 3, patch: int = 16, root: bool = True, **keys: Any) -> Sift:
    return Sift(FeatureSet(backbone="sift", sift=SiftPatch(patch=patch, root=root), **keys), CPU, channels=channels)


def seen(one: Sift, *pictures: np.ndarray) -> np.ndarray:
    """Tokens [b, h, w, 128]."""
    return one.forward(torch.from_numpy(np.stack(pictures)))[0].numpy()


def reference(patch: np.ndarray, root: bool = True) -> np.ndarray:
    """SIFT of one grey patch float64 [P, P] by loops over its pixels: direction, row, column."""
    side = len(patch)
    wide, step = WIDE[side], side // 4
    around = np.pad(patch, 1, mode="edge")
    dx, dy = around[1:-1, 2:] - around[1:-1, :-2], around[2:, 1:-1] - around[:-2, 1:-1]
    centre = (side - 1) / 2
    histogram = np.zeros((8, 4, 4))
    for y in range(side):
        for x in range(side):
            strength = np.hypot(dx[y, x], dy[y, x])
            strength *= np.exp(-((x - centre) ** 2 + (y - centre) ** 2) / side**2)  # sigma = side / sqrt(2)
            angle = np.arctan2(dy[y, x], dx[y, x]) % (2 * np.pi) / (2 * np.pi) * 8
            rows, columns = (np.maximum(0, 1 - np.abs(at - centre - BINS * step) / (wide / 2)) for at in (y, x))
            vote = strength * np.outer(rows, columns)
            histogram[int(angle) % 8] += (1 - angle % 1) * vote
            histogram[(int(angle) + 1) % 8] += angle % 1 * vote
    found = histogram.ravel() / np.linalg.norm(histogram)
    found = np.minimum(found, 0.2)
    return np.sqrt(found / found.sum()) if root else found / np.linalg.norm(found)


@pytest.mark.parametrize(
    ("patch", "stride", "root"),
    [(16, 8, True), (16, 8, False), (24, 8, True), (17, 8, True), (8, 16, True), (16, 16, True)],
)
def test_tokens_are_those_of_a_plain_sift_of_the_patch(patch: int, stride: int, root: bool) -> None:
    """Whole, odd and even sides, overlapping patches and patches with gaps, in the middle and in the corners."""
    picture = texture(48, 64)
    tokens = seen(opened(patch=patch, root=root, stride=stride), picture)[0]
    h, w = 48 // stride, 64 // stride
    assert tokens.shape == (h, w, 128)
    before = (patch - stride) // 2
    plane = grey(torch.from_numpy(picture)).numpy().astype(np.float64)
    room = max(before + 1, 0)
    around = np.pad(plane, room, mode="edge")
    for row, column in [(0, 0), (0, w - 1), (h - 1, 0), (h - 1, w - 1), (h // 2, w // 2)]:
        y, x = (at * stride - before + room for at in (row, column))
        wanted = reference(around[y : y + patch, x : x + patch], root)
        np.testing.assert_allclose(tokens[row, column], wanted, atol=4e-5)  # empty bins: the library adds 1e-10


def test_tokens_are_near_opencvs() -> None:
    """OpenCV smooths by 1.6 pixels, rounds to whole numbers, and puts its keypoint on a pixel."""
    cv2 = pytest.importorskip("cv2", reason="pip install -e '.[tools]'")
    plane = texture(128, 128, channels=1)[..., 0]
    centres = np.arange(4, 128, 8)
    points = [cv2.KeyPoint(float(x), float(y), 16 / 6, 0.0) for y in centres for x in centres]  # 4 bins of 3 * size / 2
    _, theirs = cv2.SIFT_create().compute(plane, points)
    smooth = cv2.GaussianBlur(plane, (0, 0), (1.6**2 - 0.5**2) ** 0.5)
    ours = seen(opened(root=False), np.repeat(smooth[..., None], 3, 2))[0]
    turned = ours.reshape(-1, 8, 16)[:, -np.arange(8) % 8].transpose(0, 2, 1).reshape(-1, 128)  # clockwise, bins first
    cosines = (turned * theirs).sum(1) / np.linalg.norm(theirs, axis=1)
    assert np.median(cosines) > 0.95
    shifted = (np.roll(turned, 1, axis=0) * theirs).sum(1) / np.linalg.norm(theirs, axis=1)
    assert np.median(shifted) < 0.8  # so much only the same place has


def test_an_upright_edge_points_to_the_right() -> None:
    picture = np.full((16, 16, 3), 60, np.uint8)
    picture[:, 8:] = 200
    token = seen(opened(stride=16, root=False), picture)[0, 0, 0].reshape(8, 4, 4)
    assert (token[1:] < 1e-6).all()
    np.testing.assert_allclose(token[0], token[0, :, ::-1], atol=1e-6)
    np.testing.assert_allclose(token[0], token[0, ::-1], atol=1e-6)
    assert token[0, 1, 1] > 0 == token[0, 1, 0]  # the outer bins end 4 pixels before the edge


def test_flat_patches_are_nothing_and_contrast_does_not_matter() -> None:
    flat = seen(opened(), np.full((32, 32, 3), 77, np.uint8))
    np.testing.assert_allclose(flat, 1e-5, rtol=1e-3)
    assert not seen(opened(root=False), np.full((32, 32, 3), 77, np.uint8)).any()
    weak = texture(32, 32) // 4
    tokens = seen(opened(), weak, 3 * weak + 20)
    np.testing.assert_allclose(tokens[0], tokens[1], atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(tokens, axis=-1), 1, atol=1e-4)


def test_grey_is_that_of_video_for_rgb_and_the_mean_for_other_channels() -> None:
    picture = torch.from_numpy(texture(8, 8, channels=5))
    red, green, blue = picture[..., :3].double().unbind(-1)
    torch.testing.assert_close(
        grey(picture[..., :3]).double(), (0.299 * red + 0.587 * green + 0.114 * blue) / 255, atol=1e-6, rtol=0
    )
    for count in (1, 2, 5):
        wanted = picture[..., :count].double().mean(-1) / 255
        torch.testing.assert_close(grey(picture[..., :count]).double(), wanted, atol=1e-6, rtol=0)
    assert seen(opened(channels=5), texture(16, 16, channels=5)).shape == (1, 2, 2, 128)


def test_tokens_do_not_depend_on_the_batch() -> None:
    one = opened()
    pictures = [texture(96, 128, seed) for seed in range(3)]
    together = seen(one, *pictures)
    for picture, tokens in zip(pictures, together, strict=True):
        assert (seen(one, picture)[0] == tokens).all()


def test_rows_in_parts_are_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    one, picture = opened(), texture(96, 128)
    whole = seen(one, picture)
    monkeypatch.setattr("maskmill.backbones.sift.PIXELS", 3 * 16 * 16 * 16)  # three rows of 16 cells
    np.testing.assert_allclose(seen(one, picture), whole, atol=1e-6)


def test_defaults_and_what_fills_nodata() -> None:
    one = Sift(FeatureSet(backbone="sift"), CPU)
    assert (one.stride, one.multiple, one.patch, one.depth, one.heads) == (8, 8, 16, 128, None)
    assert mean_colour(one).tolist() == [128, 128, 128]
    tokens, cls = one.forward(torch.from_numpy(texture(32, 64)[None]))
    torch.testing.assert_close(cls, tokens.mean((1, 2)))
    assert len(one.outputs(torch.zeros(1, 16, 16, 3, dtype=torch.uint8))) == 3


def test_the_stage_needs_no_network(tmp_path: Path) -> None:
    chosen = FeatureSet(backbone="sift", stride=8, size=Size(square=64))
    weights = tmp_path / "sift.safetensors"
    prepare(chosen, weights)
    assert isinstance(load(weights, chosen, CPU), Sift)
    rows = []
    for i in range(3):
        Image.fromarray(texture(60, 90, i)).save(tmp_path / f"{i}.png")
        rows.append({"id": f"{i}", "path": str(tmp_path / f"{i}.png"), "width": 90, "height": 60})
    table = pa.Table.from_pylist([row | {"shard": "s0", "label": None} for row in rows])
    write_table(tmp_path / "m.parquet", table)
    assert len(read_shard(tmp_path / "m.parquet", "s0")) == 3
    run(
        tmp_path / "m.parquet", "s0", chosen.model_dump(mode="json"), weights, tmp_path / "f.zarr", Compute(2, 1, "cpu")
    )
    store = Ragged(tmp_path / "f.zarr", "features")
    assert (store.attrs["backbone"], store.attrs["stride"], store.depth) == ("sift", 8, 128)
    for row in rows:
        wanted = seen(Sift(chosen, CPU), resize(decode(str(row["path"])), (64, 64)))[0]
        np.testing.assert_allclose(store[str(row["id"])], wanted, atol=3e-4)  # float16


# The configuration


def test_the_section_is_that_of_sift_alone() -> None:
    chosen = FeatureSet(backbone="sift")
    assert chosen.model_dump()["sift"] == {"patch": 16, "root": True}
    assert "sift" not in FeatureSet(backbone="colour").model_dump()  # so other sets keep their names
    assert len({FeatureSet(backbone="sift", sift=SiftPatch(patch=p)).slug for p in (16, 24)}) == 2
    assert FeatureSet.model_validate(chosen.model_dump(mode="json")) == chosen


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"backbone": "sift", "facet": "key"}, "backbone sift has no facet, layer, checkpoint or flip"),
        ({"backbone": "colour", "sift": {"patch": 16}}, "sift is for backbone: sift, not colour; leave it out"),
        ({"backbone": "sift", "sift": {"patch": 4}}, "patch.*greater than or equal to 8"),
        ({"backbone": "sift", "sift": {"side": 16}}, "sift.*side"),
        ({"backbone": "sift", "dtype": "pq", "pq": {"bytes": 24}}, "24 does not divide the length 128"),
        ({"backbone": "sift", "channels": "all", "dtype": "pq", "pq": {"bytes": 24}}, "24 does not divide"),
    ],
)
def test_wrong_keys_are_named(keys: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"features\.c.*{said}"):
        validate(FeatureSet, keys, "r.yaml", "features.c")


def test_the_plan_knows_it_without_building_it() -> None:
    assert geometry(FeatureSet(backbone="sift", stride=4)) == Geometry(4, 128, 1)
    assert geometry(FeatureSet(backbone="sift")) == Geometry(8, 128, 1)


def test_a_missing_library_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_installed", lambda package: package != "kornia")
    packages.check_packages(load_run({"recipes": ["kmeans", "ncut_color"]}, SHIPPED))
    with pytest.raises(
        ConfigError, match=r"recipe sift: features\.texture\.backbone: sift needs the Python package kornia"
    ):
        packages.check_packages(load_run({"recipes": ["kmeans", "sift"]}, SHIPPED))
