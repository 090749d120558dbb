"""EAGLE: the graph and its eigenvectors, medoids and contrast against plain loops, and the colours of the photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from interrupted import ends_the_same
from PIL import Image
from token_scenes import DEPTH, FAST, scenes, write

from maskmill.adapt import eagle, run
from maskmill.adapt._beside import TokensAndMore
from maskmill.adapt._data import TokenImages
from maskmill.adapt._training import HeadTraining
from maskmill.adapt.eagle import contrast, eigen
from maskmill.store.artefact import write_table
from maskmill.store.manifest import Row
from maskmill.training.resources import Resources

JOB = HeadTraining(seed=0, device=torch.device("cpu"), clusters=3)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(x, dim=-1)


def test_the_graph_is_products_and_colours_each_up_to_one() -> None:
    codes, colours = drawn(1, 3, 2, 2), torch.tensor([0, 10, 200, 255.0]).expand(1, 3, 4).reshape(1, 3, 2, 2)
    near = eigen.colour_affinity(colours, 0.5)
    rows = ((colours[0].reshape(3, 4).T / 255) - torch.tensor(eigen.MEAN)) / torch.tensor(eigen.DEVIATION)
    assert float(near[0, 0, 1]) == pytest.approx(float(torch.exp(-((rows[0] - rows[1]) ** 2).sum() / 0.5)), rel=1e-5)
    assert float(near[0, 0, 3]) < 1e-6
    flat = codes[0].reshape(3, 4).T
    product = (flat @ flat.T).clamp_min(0)
    torch.testing.assert_close(eigen.graph(codes, None)[0], product / product.max())
    torch.testing.assert_close(eigen.graph(codes, near, 0.5)[0], product / product.max() + 0.5 * near[0])


def test_eigenvectors_are_those_of_the_normalised_laplacian() -> None:
    weights = drawn(2, 7, 7).abs()
    weights = weights + weights.mT
    found = eigen.eigenvectors(weights, 3)
    for a, v in zip(weights.numpy(), found.numpy(), strict=True):
        scale = np.diag(1 / np.sqrt(a.sum(1)))
        values, vectors = np.linalg.eigh(np.eye(7) - scale @ a @ scale)
        assert values[0] == pytest.approx(0, abs=1e-12)
        np.testing.assert_allclose(np.abs((vectors[:, 1:4] * v).sum(0)), 1, atol=1e-9)
        assert ((v > 0).sum(0) <= 4).all()
    torch.testing.assert_close(eigen.eigenvectors(weights.flip(0), 3).flip(0), found)


def test_two_groups_are_told_apart_and_odd_graphs_are_finite() -> None:
    block = torch.kron(torch.eye(2, dtype=torch.float64), torch.ones(4, 4, dtype=torch.float64)) + 0.01
    sides = eigen.eigenvectors(block[None], 1)[0, :, 0] > 0
    assert sides[:4].all() != sides[4:].all()
    assert len(set(sides[:4].tolist())) == len(set(sides[4:].tolist())) == 1
    for weights in (torch.zeros(1, 5, 5), torch.ones(1, 5, 5), torch.ones(1, 1, 1), torch.eye(3)[None]):
        found = eigen.eigenvectors(weights, 3)
        assert found.shape == (1, weights.shape[1], 3)
        assert torch.isfinite(found).all()


def test_medoids_are_the_tokens_nearest_to_all_of_their_segment() -> None:
    z, segments = unit(drawn(20, 3)), torch.arange(20) % 4 * 2  # segments 0, 2, 4, 6
    found, own = contrast.medoids(z, segments)
    assert torch.equal(own, torch.arange(20) % 4)
    for row, label in enumerate((0, 2, 4, 6)):
        members = z[segments == label]
        sums = [(members - candidate).norm(dim=1).sum() for candidate in members]
        torch.testing.assert_close(found[row], members[int(np.argmin(sums))])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_contrast_is_a_weighted_cross_entropy(smoothing: float) -> None:
    own, other, segments = unit(drawn(8, 3)), unit(drawn(8, 3, seed=1)), torch.tensor([0, 0, 1, 1, 1, 3, 3, 3])
    weights = drawn(8, seed=2).abs()
    settings = contrast.ContrastSettings(0.07, 0.7, smoothing)
    centres, labels = contrast.medoids(own, segments)
    parts = []
    for z in (own, other):
        logs = torch.log_softmax(z @ centres.T / 0.07, 1)
        target = torch.full((8, 3), smoothing / 2, dtype=torch.float64)
        target[torch.arange(8), labels] = 1 - smoothing
        each = -(target * logs).sum(1)
        parts.append((each * weights).mean() if not smoothing else each.mean() * weights.mean())
    expected = (0.3 * parts[0] + 0.7 * parts[1]) / 2
    torch.testing.assert_close(contrast.contrast(own, other, segments, weights, settings), expected)
    assert float(contrast.contrast(own, other, torch.zeros(8, dtype=torch.int64), weights, settings)) == 0


def test_shifts_follow_the_batch() -> None:
    f, s = drawn(2, 2, 2, 2, 2), drawn(2, 2, 2, 2, 2, seed=1).requires_grad_()
    clamped = s.clamp(0, 0.8)
    views = -(clamped * (f - (f.mean() - s.mean() - 0.1).abs())).mean()
    torch.testing.assert_close(contrast.correspondence(f, s, 0.1, None), views)
    random = -(clamped * (f - 3.5 * (f.mean() + s.mean() - 0.1))).mean()
    torch.testing.assert_close(contrast.correspondence(f, s, 0.1, 3.5), random)


def test_the_contrast_begins_after_the_warmup(tmp_path: Path) -> None:
    body = FAST["eagle"] | {"steps": 6, "warmup": 2}
    _, found = eagle.fit(TokenImages(write(tmp_path, scenes()), 100), eagle.Params(**body), JOB)
    assert np.isnan(found["monitors"]["contrast"]).tolist() == [True] * 3 + [False] * 3  # after `warmup`, as published
    assert np.isfinite(found["monitors"]["views"]).all()


def world(folder: Path) -> run.TokenSource:
    """Tokens and photos of eight images; the right half of each photo is white, the left one has a grey of its own."""
    images, rows = scenes(8), []
    for i, name in enumerate(images):
        photo = np.full((32, 40, 3), 20 * i, np.uint8)
        photo[:, 20:] = 255
        Image.fromarray(photo).save(folder / f"{name}.png")
        rows.append(Row(name, str(folder / f"{name}.png"), 40, 32, "s0", None))
    table = pa.table({key: [getattr(row, key) for row in rows] for key in Row.__annotations__})
    write_table(folder / "m.parquet", table)
    return run.TokenSource(write(folder, images), folder / "m.parquet")


def test_a_stopped_training_goes_on_as_if_it_had_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = world(tmp_path)
    body = {"method": "eagle"} | FAST["eagle"] | {"colour": 1.0, "colour_deviation": 0.44, "steps": 20, "warmup": 5}

    def fit(out: Path) -> None:
        out.mkdir(exist_ok=True)
        files = run.HeadFiles(out / "head.safetensors", out / "monitor.json")
        run.fit(source, body, files, seed=0, clusters=3, resources=Resources(1, "cpu"))

    ends_the_same(monkeypatch, fit, tmp_path, ("head.safetensors", "monitor.json"), 11)


def test_photos_take_their_half_of_the_cache_when_the_first_is_read(tmp_path: Path) -> None:
    source = world(tmp_path)
    seen = TokensAndMore(source.stores, source.manifest, ("photo",), 1, "eagle")
    body = FAST["eagle"] | {"steps": 2, "batch_size": 8}
    eagle.batch(seen, eagle.Params(**body), JOB, 0)
    assert seen._room + sum(array.nbytes for array in seen._cache.values()) == 1 << 20
    seen._whole_room = 2 * 3 * 240  # a photo on a grid of 8 x 10, three of which are half of it
    eagle.batch(seen, eagle.Params(**body | {"colour": 1.0, "crops": "none"}), JOB, 0)
    assert len(seen._held["photo"]) == 3
    assert seen._room + sum(array.nbytes for array in seen._cache.values()) == (1 << 20) - 3 * 240


def test_colours_are_those_of_the_photo_on_the_grid(tmp_path: Path) -> None:
    source = world(tmp_path)
    seen = TokensAndMore(source.stores, source.manifest, ("photo",), 100, "eagle")
    assert seen.colours(5 * 3, "five").shape == (4, 5, 3)
    whole = seen.colours(3, "none")
    assert whole.shape == (8, 10, 3)
    assert (whole[:, :3] == 60).all()
    assert (whole[:, 7:] == 255).all()
    params = eagle.Params(**FAST["eagle"] | {"colour": 1.0, "colour_deviation": 0.44, "steps": 2})
    x, colours = eagle.batch(seen, params, JOB, 0)
    assert x.shape == (8, DEPTH, 4, 5)
    assert colours.shape == (8, 3, 4, 5)
    tensors, _ = eagle.fit(seen, params, JOB)
    other, _ = eagle.fit(seen, params.model_copy(update={"colour_deviation": 25.5}), JOB)
    assert any(not np.array_equal(tensors[name], other[name]) for name in tensors)
