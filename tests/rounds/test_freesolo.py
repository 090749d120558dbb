"""The student freesolo: losses by their definitions, targets, peaks, the network in any batch, training to the byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interrupted import ends_the_same
from nothing_read import NothingRead
from square_photos import IDS, picture, write_world

from maskmill.errors import ConfigError
from maskmill.images.instances import VOID, Instances, InstanceStore, InstanceWriter, mask_iou
from maskmill.recipe import registry
from maskmill.recipe.base import validate
from maskmill.recipe.resolve import load
from maskmill.rounds._instance_photos import NEITHER
from maskmill.rounds.freesolo import Params
from maskmill.rounds.freesolo.crops import RANGES, Crop, assign
from maskmill.rounds.freesolo.losses import (
    DILATION,
    STEPS,
    alike_neighbours,
    extent_loss,
    focal_of,
    lab_of,
    mean_loss,
    pair_loss,
)
from maskmill.rounds.freesolo.network import build, masks_of
from maskmill.rounds.freesolo.predictor import peaks
from maskmill.rounds.freesolo.training import MOST, SentCrop, loss_of
from maskmill.rounds.run import Detected, MaskFiles, Round, Sources, StudentFiles, detect, predict, train
from maskmill.store.artefact import read_tensors
from maskmill.store.manifest import read_manifest
from maskmill.store.ragged import Ragged
from maskmill.training.resources import Resources

ROOT = Path(__file__).parents[2]
GRIDS = [10, 9, 6, 4, 3]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def boxes(*places: tuple[int, int, int, int], side: int) -> np.ndarray:
    """Masks bool [n, side, side] of boxes y0, x0, y1, x1."""
    masks = np.zeros((len(places), side, side), bool)
    for mask, (y0, x0, y1, x1) in zip(masks, places, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def test_lab_of_known_colours() -> None:
    """CIE's figures for white, black, and the primaries of sRGB (D65)."""
    rgb = np.array([[[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    expected: list[list[float]] = [
        [100, 0, 0],
        [0, 0, 0],
        [53.24, 80.09, 67.20],
        [87.73, -86.18, 83.18],
        [32.30, 79.19, -107.86],
    ]
    np.testing.assert_allclose(lab_of(rgb)[0], expected, atol=0.02)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9999), st.integers(1, 7), st.integers(1, 7))
def test_alike_neighbours_by_their_definition(seed: int, h: int, w: int) -> None:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(100, 110, (h, w, 3)).astype(np.uint8)
    known = rng.random((h, w)) < 0.8
    found, lab = alike_neighbours(rgb, known, 0.3), lab_of(rgb)
    for i, (dy, dx) in enumerate(STEPS):
        for y in range(h):
            for x in range(w):
                b, a = y + DILATION * dy, x + DILATION * dx
                inside = 0 <= b < h and 0 <= a < w and known[y, x] and known[b, a]
                assert found[i, y, x] == (inside and np.exp(-np.linalg.norm(lab[y, x] - lab[b, a]) / 2) >= 0.3)


def test_losses_by_their_definitions() -> None:
    logits = (2 * torch.randn(2, 6, 7, generator=generator(0))).double()
    masks = torch.zeros(2, 6, 7).double()
    masks[0, 1:5, 2:6], masks[1, 0:3, 0:2], masks[0, 1, 2] = 1, 1, 0
    alike = torch.rand(8, 6, 7, generator=generator(1)) < 0.6
    for i, (dy, dx) in enumerate(STEPS):  # none beyond the border
        y, x = torch.meshgrid(torch.arange(6) + DILATION * dy, torch.arange(7) + DILATION * dx, indexing="ij")
        alike[i] &= (y >= 0) & (y < 6) & (x >= 0) & (x < 7)
    p = torch.sigmoid(logits)
    extents, means, pairs = extent_loss(p, masks), mean_loss(p, masks), pair_loss(logits, masks, alike)
    for m in range(2):
        for found, reduce in ((extents, torch.amax), (means, torch.mean)):
            total = 0.0
            for axis in (0, 1):
                a, b = reduce(p[m], axis), reduce(masks[m], axis)
                total += float(1 - 2 * (a * b).sum() / ((a * a).sum() + (b * b).sum() + 1e-5))
            assert float(found[m]) == pytest.approx(total)
        inside = torch.outer(masks[m].amax(1), masks[m].amax(0)) > 0
        terms = [
            -float(torch.log(p[m, y, x] * p[m, b, a] + (1 - p[m, y, x]) * (1 - p[m, b, a])))
            for i, (dy, dx) in enumerate(STEPS)
            for y, x in torch.nonzero(inside & alike[i]).tolist()
            for b, a in [(y + DILATION * dy, x + DILATION * dx)]
        ]
        assert float(pairs[m]) == pytest.approx(np.mean(terms))
    assert float(pair_loss(logits, masks, torch.zeros_like(alike)).sum()) == 0


def test_focal_loss_by_its_formula() -> None:
    logits = torch.randn(5, 2, generator=generator(0)).double()
    target = torch.tensor([0, 1, 2, NEITHER, 0])
    p = torch.sigmoid(logits)
    found = focal_of(logits, target, 0.3, 1.5)
    for i, t in enumerate(target.tolist()):
        total = 0.0
        for c in (1, 2):
            hit = float(p[i, c - 1])
            total -= 0.3 * (1 - hit) ** 1.5 * np.log(hit) if t == c else 0.7 * hit**1.5 * np.log(1 - hit)
        assert float(found[i]) == pytest.approx(0 if t == NEITHER else total)


def test_cells_around_the_centre_of_mass_stand_for_an_object_on_grids_of_its_size() -> None:
    masks = boxes((24, 24, 56, 56), (0, 0, 4, 4), side=64)  # a half of the side, and a sixteenth
    target, owner = assign(masks, np.array([2, 1]), np.zeros((64, 64), bool), GRIDS)
    parts = np.split(owner, np.cumsum([side * side for side in GRIDS])[:-1])
    assert [bool((part == 0).any()) for part in parts] == [low <= 0.5 <= high for low, high in RANGES]
    assert [bool((part == 1).any()) for part in parts] == [low <= 1 / 16 <= high for low, high in RANGES]
    # the large one's centre is cell 40 of 64, and 3.2 cells reach 36.8 and 43.2: 3.45 to 4.05 of 6, 1.7 to 2.0 of 3
    assert np.argwhere(parts[2].reshape(6, 6) == 0).tolist() == [[3, 3], [3, 4], [4, 3], [4, 4]]
    assert np.argwhere(parts[0].reshape(10, 10) == 1).tolist() == [[0, 0]]
    assert (target[owner == 0] == 2).all()
    assert (target[owner < 0] == 0).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 9999), st.integers(1, 5))
def test_every_object_has_a_cell_unless_smaller_ones_took_it(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 31, (n, 2))
    ends = [(y + 1 + rng.integers(0, 32 - y), x + 1 + rng.integers(0, 32 - x)) for y, x in corners]
    masks = boxes(*[(y, x, b, r) for (y, x), (b, r) in zip(corners, ends, strict=True)], side=32)
    labels, void = rng.integers(1, 4, n), np.zeros((32, 32), bool)
    void[-1] = True
    target, owner = assign(masks, labels, void, GRIDS)
    assert len(target) == sum(side * side for side in GRIDS)
    assert ((owner >= 0) == (target > 0)).all()
    assert (target[owner >= 0] == labels[owner[owner >= 0]]).all()
    assert (owner == int(np.argsort(-masks.sum(axis=(1, 2)), kind="stable")[-1])).any()


def test_peaks_are_those_of_windows_of_four() -> None:
    p = torch.rand(9 + 4, 2, generator=generator(0))
    found = peaks(p, (3, 2))
    for start, side in ((0, 3), (9, 2)):
        for c in range(2):
            grid = p[start : start + side * side, c].view(side, side)
            for y in range(side):
                for x in range(side):
                    kept = grid[y, x] >= grid[max(0, y - 1) : y + 1, max(0, x - 1) : x + 1].max()
                    assert found[start + y * side + x, c] == (grid[y, x] if kept else 0)


def crop_of(masks: np.ndarray, target: list[int], owner: list[int], step: int = 0) -> SentCrop:
    side = masks.shape[1]
    void = np.zeros((side, side), bool)
    void[-1] = True
    rgb = np.random.default_rng(0).integers(0, 9, (side, side, 3)).astype(np.uint8)
    alike, pixels = alike_neighbours(rgb, ~void, 0.3), np.zeros((4 * side, 4 * side, 3), np.uint8)
    crop = Crop(pixels, masks, void, alike, step, np.array(target), np.array(owner))
    return SentCrop.of(crop, torch.device("cpu"))


def test_the_loss_of_a_crop_adds_what_the_settings_say() -> None:
    masks = boxes((1, 1, 5, 5), (2, 6, 8, 8), side=8)
    features, logits = torch.randn(16, 8, 8, generator=generator(1)), torch.randn(5, 3, generator=generator(2))
    kernels = torch.randn(5, 16, generator=generator(3)) / 4
    target, owner = [0, 1, 2, NEITHER, 0], [-1, 0, 1, -1, -1]
    found, goal = masks_of(features, kernels[1:3]), torch.from_numpy(masks).float()
    known = torch.ones(8, 8)
    known[-1] = 0
    p, goal = torch.sigmoid(found) * known, goal * known
    focal = focal_of(logits[:, 1:], torch.tensor(target), 0.25, 2.0).sum()
    crop = crop_of(masks, target, owner)
    pairs = pair_loss(found, goal, crop.alike).sum()
    for step, part in ((0, 0.001), (499, 0.5), (4000, 1.0)):
        expected = focal + extent_loss(p, goal).sum() + 0.1 * mean_loss(p, goal).sum() + part * pairs
        total, count = loss_of(features, logits, kernels, crop_of(masks, target, owner, step), Params())
        assert count == 2
        assert float(total) == pytest.approx(float(expected), rel=1e-5)
    bare, none = loss_of(features, logits, kernels, crop_of(masks[:0], [0] * 5, [-1] * 5), Params())
    assert none == 0
    assert float(bare) == pytest.approx(float(focal_of(logits[:, 1:], torch.zeros(5).long(), 0.25, 2.0).sum()))
    many = crop_of(masks, [1] * 5, [0] * 5)
    assert len(crop_of(masks, [1] * (MOST + 5), [0] * (MOST + 5)).some) == MOST
    assert many.count == len(many.some) == 5


def flat_masks_after(steps: int, params: Params) -> float:
    """What a mask that is the same everywhere becomes, from 0.5 on, for a square of half of the side of one colour.

    A network that does not know yet where an object is says such masks.
    """
    crop = crop_of(boxes((4, 4, 12, 12), side=16), [1], [0])
    features, logits = torch.ones(1, 16, 16), torch.zeros(1, 2)
    kernel = torch.zeros(1, 1, requires_grad=True)
    optimiser = torch.optim.Adam([kernel], 0.3)
    for step in range(steps):
        total, _ = loss_of(features, logits, kernel, replace(crop, step=step), params)
        (kernel.grad,) = torch.autograd.grad(total, [kernel])
        optimiser.step()
    return float(torch.sigmoid(kernel.detach()))


def test_the_pair_term_at_full_weight_before_the_extent_is_learnt_makes_masks_whole() -> None:
    """Extents alone leave a flat mask near sqrt(1 / 2), where it can learn; pairs drive it to 1, where it cannot."""
    assert flat_masks_after(40, Params(pair_weight=0.0)) == pytest.approx(np.sqrt(0.5), abs=0.05)
    assert flat_masks_after(40, Params()) < 0.8
    assert flat_masks_after(40, Params(pair_steps=1)) > 0.98


@pytest.mark.parametrize("preset", [[], ["small"]])
def test_the_recipe_learns_the_extent_before_the_pair_term_counts(preset: list[str]) -> None:
    """In the warm-up of the rate and in at least 80 steps it weighs at most a tenth: a flat mask stays below 0.8."""
    config = {"recipes": ["freesolo"], "preset": preset}
    params = load(config, ROOT / "recipes").recipes["freesolo"].rounds_at(1).params
    assert params.pair_weight * 80 / params.pair_steps <= 0.1


@pytest.mark.parametrize("owner", [[-1, 0, 1, -1], [-1, -1, -1, -1]])
def test_the_loss_of_a_crop_reads_nothing_back(owner: list[int]) -> None:
    ready = crop_of(boxes((1, 1, 5, 5), (2, 6, 8, 8), side=8), [0, 1, 2, 0] if max(owner) >= 0 else [0] * 4, owner)
    logits, kernels = torch.randn(4, 3, requires_grad=True), torch.randn(4, 16, requires_grad=True)
    with NothingRead():
        total, _ = loss_of(torch.randn(16, 8, 8), logits, kernels, ready, Params())
        torch.autograd.grad(total, [logits, kernels])


@pytest.mark.parametrize("architecture", ["test_vit", "test_efficientnet"])
def test_an_image_gives_the_same_in_any_batch(architecture: str) -> None:
    torch.manual_seed(0)
    network = build(architecture, 3, Params(width=32, kernels=16, layers=1, grids=GRIDS)).eval()
    multiple = network.shape.multiple
    x = torch.randn(2, 3, 2 * multiple, 3 * multiple)
    with torch.inference_mode():
        both, alone = network(x), network(x[1:])
    count = sum(side * side for side in GRIDS)
    assert both.logits.shape == (2, count, 3)
    assert both.kernels.shape == (2, count, 16)
    assert both.features.shape == (2, 16, x.shape[2] // 4, x.shape[3] // 4)
    torch.testing.assert_close(both.kernels[1:], alone.kernels, rtol=1e-4, atol=1e-5)
    assert torch.sigmoid(both.logits).mean() == pytest.approx(0.01, rel=0.3)


SMALL: dict[str, Any] = {
    "student": "freesolo", "encoder": "semantic", "steps": 6, "batch_size": 4, "crop": 64, "width": 32, "kernels": 16,
    "layers": 1, "grids": GRIDS, "learning_rate": 5e-3, "size": {"short_side": 96}, "scale": [0.7, 1.0], "features": [],
    "least_score": 0.0, "pair_steps": 10,
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_world(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def instances(world: dict[str, Any]) -> Path:
    """The squares of two photos, and a stripe of void."""
    path = Path(world["root"]) / "instances/0.zarr"
    with InstanceWriter(path, {"clusters": 2}) as out:
        for image_id in IDS[:2]:
            _, label = picture(IDS.index(image_id))
            label = label[::2, ::2]
            masks = np.array([label > 0, (label == 0) & (np.arange(len(label)) < 3)[:, None]])
            out.append(image_id, Instances(masks, np.array([int(label.max()), VOID]), np.ones(2, np.float32)))
    return path


def fit(world: dict[str, Any], instances: Path, out: Path, threads: int = 1, **options: Any) -> Path:
    train(
        Sources({}, world["manifest"], world["weights"], [instances]), world["masks"], SMALL | options,
        StudentFiles(out), round=Round(1, 0, 2), resources=Resources(threads, "cpu"),
    )  # fmt: skip
    return out


def test_it_learns_two_photos_by_heart_and_paints_what_it_finds(
    world: dict[str, Any], instances: Path, tmp_path: Path
) -> None:
    student = fit(world, instances, tmp_path / "student.safetensors", steps=120)
    losses = read_tensors(student)[0]["loss"]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    rows = [read_manifest(world["manifest"]).row(image_id) for image_id in IDS[:2]]
    detect(student, rows, tmp_path / "found.zarr", Resources(1, "cpu"))
    found, taught = InstanceStore(tmp_path / "found.zarr"), InstanceStore(instances)
    overlaps = []
    for image_id in IDS[:2]:
        best = found[image_id].take(np.array([0]))
        overlaps.append(float(mask_iou(best.masks, taught[image_id].at(best.size).masks[:1])[0, 0]))
    assert np.mean(overlaps) > 0.5
    predict(student, Detected(tmp_path / "found.zarr"), MaskFiles(tmp_path / "masks.zarr"))
    assert all(mask.any() for _, mask in Ragged(tmp_path / "masks.zarr", "masks").images())


def test_the_same_bytes_on_any_number_of_threads(world: dict[str, Any], instances: Path, tmp_path: Path) -> None:
    one = fit(world, instances, tmp_path / "1.safetensors")
    two = fit(world, instances, tmp_path / "2.safetensors", threads=2)
    assert one.read_bytes() == two.read_bytes()
    other = fit(world, instances, tmp_path / "3.safetensors", pair_weight=0.0)
    assert other.read_bytes() != one.read_bytes()


def test_an_interrupted_training_ends_in_the_same_bytes(
    world: dict[str, Any], instances: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_in(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        fit(world, instances, folder / "s.safetensors", steps=4)

    ends_the_same(monkeypatch, train_in, tmp_path, ("s.safetensors",), 2)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"grids": [40, 36]}, r"rounds\.grids: .*5 numbers of cells from 1 to 128"),
        ({"grids": [40, 36, 24, 16, 0]}, r"rounds\.grids"),
        ({"scale": [0.5, 0.2]}, r"scale: expected 0 < from <= to <= 1"),
        ({"alike": 0}, r"rounds\.alike"),
        ({"drop_loss": 0.1}, r"rounds\.drop_loss"),
    ],
)
def test_bad_settings_name_the_key(body: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(registry.load("rounds", "freesolo").Params, body, "config.yaml", "rounds")
