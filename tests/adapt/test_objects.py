"""found and peekaboo: the background by loops, the solver on drawn photos, trainings that find discs, refusals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from backbone_photos import VIT, write_photos, write_weights
from interrupted import ends_the_same
from PIL import Image

from maskmill.adapt import _collapse, _object_params, _objects, found, peekaboo, run
from maskmill.adapt._photos import FrozenPhotos
from maskmill.adapt._training import HeadTraining
from maskmill.adapt.infer import Head
from maskmill.adapt.peekaboo import hiding
from maskmill.cut import argmax
from maskmill.errors import ConfigError, NumericsError, StoreError
from maskmill.recipe.architectures import check_backbones
from maskmill.recipe.feature_set import FeatureSet, Size
from maskmill.recipe.resolve import load
from maskmill.store.artefact import read_json, read_tensors, write_table
from maskmill.store.manifest import Row
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import RaggedWriter
from maskmill.training.checkpoint import Keeper
from maskmill.training.resources import Resources

RECIPES = Path(__file__).parents[2] / "recipes"
CPU = torch.device("cpu")
HEADS, WIDTH, CELLS = 2, 4, 8  # of a key, and a drawn image's cells a side
FAST = {"method": "found", "steps": 30, "background_steps": 8, "batch_size": 4, "decay_every": 10}
QUERY = np.array([[4.0, 0, 0, 0], [4, 0, 0, 0]], np.float32)  # both heads look for the first direction
HEAD_FILES = ("head.safetensors", "monitor.json")
KEYS = FeatureSet(backbone=VIT, layer=1, facet="key", size=Size(square=64))


def discs(count: int = 8) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Keys [8, 8, 8], photos of 64 pixels, and masks of cells: a disc on a ground of another colour, with noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:64, :64]
    keys, photos, masks = {}, {}, {}
    for i in range(count):
        disc = np.hypot(y - rng.uniform(24, 40), x - rng.uniform(24, 40)) < rng.uniform(12, 20)
        cells = disc.reshape(CELLS, 8, CELLS, 8).mean((1, 3)) > 0.5
        one = np.where(cells[..., None], [1, 0, 0.2, 0], [-0.5, 0.4, 0, 0.1])
        keys[f"d{i}"] = (np.tile(one, HEADS) + 0.1 * rng.standard_normal((CELLS, CELLS, 8))).astype(np.float32)
        photo = np.where(disc[..., None], rng.uniform(160, 255, 3), rng.uniform(0, 90, 3))
        photos[f"d{i}"] = (photo + rng.normal(0, 4, photo.shape)).clip(0, 255).astype(np.uint8)
        masks[f"d{i}"] = cells
    return keys, photos, masks


def written(folder: Path, shards: int = 1, query: bool = True) -> run.TokenSource:
    """Stores of the discs, and their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    keys, photos, _ = discs()
    made = Provenance.of("features", {"backbone": "toy"})
    stores, rows = [], []
    for shard in range(shards):
        stores.append(folder / f"s{shard}.zarr")
        attrs = {"heads": HEADS, "backbone": "toy", "facet": "key"}
        with RaggedWriter(stores[-1], "features", depth=8, attrs=attrs, provenance=made) as out:
            for name in list(keys)[shard::shards]:
                more = {"cls_query": QUERY.ravel()} if query else {}
                out.append(name, keys[name], cls=np.zeros(8, np.float32), **more)
    for name, photo in photos.items():
        Image.fromarray(photo).save(folder / f"{name}.png")
        rows.append(Row(name, str(folder / f"{name}.png"), 64, 64, "s0", None))
    write_table(folder / "m.parquet", pa.table({key: [getattr(r, key) for r in rows] for key in Row.__annotations__}))
    return run.TokenSource(stores, folder / "m.parquet")


def fitted(source: Any, out: Path, threads: int = 1, **more: Any) -> tuple[Head, dict[str, Any]]:
    files = run.HeadFiles(out / "head.safetensors", out / "monitor.json")
    out.mkdir(parents=True, exist_ok=True)
    run.fit(source, {**FAST, **more}, files, seed=0, clusters=1, resources=Resources(threads, "cpu"))
    return Head.load(files.head, "cpu"), read_json(out / "monitor.json")


# --- the background -------------------------------------------------------------------------------------------------


def background_by_loops(keys: np.ndarray, query: np.ndarray, cls: np.ndarray, threshold: float) -> np.ndarray:
    """Section 3.1 of the paper, one head and one patch after the other."""
    h, w, d = keys.shape
    patches = [cls.reshape(HEADS, -1).astype(float), *keys.reshape(h * w, HEADS, -1).astype(float)]
    seen = []
    for head in range(HEADS):
        values = [math.exp(float(query[head] @ patch[head]) / math.sqrt(d // HEADS)) for patch in patches]
        seen.append([value / sum(values) for value in values[1:]])
    mean = sum(map(sum, seen)) / (HEADS * h * w)
    shares = [sum(value > mean for value in row) / (h * w) + 1e-10 for row in seen]
    beta = [math.log(sum(shares) / share) for share in shares]
    weighted = [np.concatenate([beta[n] * patch[n] for n in range(HEADS)]) for patch in patches[1:]]
    looked = [sum(beta[n] * seen[n][i] for n in range(HEADS)) for i in range(h * w)]
    seed = weighted[looked.index(min(looked))]
    cosine = [float(one @ seed) / np.linalg.norm(one) / np.linalg.norm(seed) for one in weighted]
    return np.array(cosine).reshape(h, w) > threshold


@pytest.mark.parametrize("seed", range(8))
def test_the_background_is_what_looks_like_the_patch_that_is_seen_least(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = rng.normal(size=(3, HEADS * WIDTH))
    keys = kinds[rng.integers(0, 3, (5, 6))] + rng.normal(size=(5, 6, HEADS * WIDTH))
    query, cls = 2 * rng.normal(size=(HEADS, WIDTH)), rng.normal(size=HEADS * WIDTH)
    expected = background_by_loops(keys, query, cls, 0.3)
    np.testing.assert_array_equal(_objects.background(keys, query, cls, 0.3), expected)


def test_the_disc_is_no_background() -> None:
    keys, _, masks = discs()
    for name, tokens in keys.items():
        np.testing.assert_array_equal(_objects.background(tokens, QUERY, np.zeros(8), 0.3), ~masks[name])


@pytest.mark.parametrize("size", [(1, 1), (3, 4)])
def test_equal_tokens_are_all_background(size: tuple[int, int]) -> None:
    assert _objects.background(np.ones((*size, 8)), QUERY, np.zeros(8), 0.3).all()


def test_tokens_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(NumericsError, match="keys that are NaN or infinite; delete its feature store"):
        _objects.background(np.full((2, 2, 8), np.nan), QUERY, np.zeros(8), 0.3)


# --- the solver -----------------------------------------------------------------------------------------------------


def test_a_mask_is_fitted_to_its_photo() -> None:
    """A mask one cell too wide on one side gets the square of the photo; what is solved to nothing like it is kept."""
    photo = np.full((128, 128, 3), 20, np.uint8)
    photo[32:96, 32:96] = 220
    wide = np.zeros((16, 16), bool)
    wide[4:12, 3:12] = True
    right = np.zeros((16, 16), bool)
    right[4:12, 4:12] = True
    made, taken = _objects.solved(wide, photo)
    assert taken
    np.testing.assert_array_equal(made, right)
    dot = np.zeros((16, 16), bool)
    dot[1, 1] = True
    for mask in (dot, np.zeros((16, 16), bool)):
        kept, taken = _objects.solved(mask, photo)
        assert not taken
        np.testing.assert_array_equal(kept, mask)


def test_the_schedule_of_the_rate() -> None:
    params = found.Params()
    rates = [_object_params.rate(step, params) for step in (0, 49, 50, 499)]
    assert rates == pytest.approx([1, 1, 0.95, 0.95**9])
    assert (params.steps, params.batch_size, params.learning_rate, params.threshold) == (500, 50, 0.05, 0.3)
    assert (params.weight_solved, params.weight_own, params.background_steps) == (1.5, 4, 100)


@pytest.mark.parametrize("with_first", [False, True])
def test_the_loss_is_the_sum_of_two_cross_entropies(with_first: bool) -> None:
    logits = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth, first = torch.rand(2, 2, 1, 4, 4, generator=torch.Generator().manual_seed(1)) > 0.5

    def solver(masks: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, float]:
        torch.testing.assert_close(masks, logits > 0)
        return smooth, 0.5

    def entropy(mask: torch.Tensor) -> float:
        p = 1 / (1 + np.exp(-logits.double().numpy()))
        return float(-np.where(mask.numpy(), np.log(p), np.log(1 - p)).mean())

    given: Any = first if with_first else None
    total, parts = _objects.losses(logits, torch.arange(2), given, solver, found.Params())  # type: ignore[arg-type]
    more = entropy(first) if with_first else 4 * entropy(logits > 0)
    assert float(total) == pytest.approx(1.5 * entropy(smooth) + more, rel=1e-5)
    assert ("background" in parts, "own" in parts) == (with_first, not with_first)


def test_the_loss_of_masked_photos_is_by_its_formula_and_moves_their_logits_alone() -> None:
    """The entropy of masked photos with their solved masks, FOUND's loss, and the mean square of the difference."""
    drawn = torch.randn(2, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    logits, hidden = drawn[0].clone(), drawn[1].clone().requires_grad_()
    first = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(1)) > 0.5

    def solver(masks: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, float]:
        return ~masks, 1.0  # tells apart whose masks were given

    params = peekaboo.Params(weight_masked=0.7, consistency=2.0)
    total, parts = peekaboo.losses(logits, hidden, torch.arange(2), first, solver, params)
    p = 1 / (1 + np.exp(-drawn[1].double().numpy()))
    masked = -np.where(drawn[1].numpy() > 0, np.log(1 - p), np.log(p)).mean()
    apart = ((1 / (1 + np.exp(-drawn[0].double().numpy())) - p) ** 2).mean()
    own, _ = _objects.losses(logits, torch.arange(2), first, solver, params)  # type: ignore[arg-type]
    assert parts["masked"].item() == pytest.approx(masked, rel=1e-5)
    assert parts["apart"].item() == pytest.approx(apart, rel=1e-5)
    assert total.item() == pytest.approx(own.item() + 0.7 * masked + 2 * apart, rel=1e-5)
    total.backward()  # type: ignore[no-untyped-call]
    target = (drawn[1] <= 0).double().numpy()
    both = 1 / (1 + np.exp(-drawn[0].double().numpy()))
    expected = (0.7 * (p - target) + 2 * 2 * (p - both) * p * (1 - p)) / p.size
    np.testing.assert_allclose(hidden.grad, expected, atol=1e-6)


# --- the training ---------------------------------------------------------------------------------------------------


def test_found_finds_the_discs_whatever_shards_and_threads(tmp_path: Path) -> None:
    head, monitor = fitted(written(tmp_path / "one"), tmp_path / "a")
    keys, _, masks = discs()
    for name, tokens in keys.items():
        codes = head.codes(tokens)
        assert codes.shape == (CELLS, CELLS, 1)
        assert set(np.unique(codes > 0.5)) == set(np.unique(codes > 0))  # nothing between 0 and a half
        union = np.count_nonzero((codes[..., 0] > 0) | masks[name])
        assert np.count_nonzero((codes[..., 0] > 0) & masks[name]) >= 0.8 * union
    assert 0.1 < monitor["mask"] < 0.5
    rows = monitor["monitors"]
    assert np.isfinite(rows["background"][:8]).all()
    assert all(value is None or math.isnan(value) for value in rows["background"][8:])
    fitted(written(tmp_path / "two", shards=2), tmp_path / "b", threads=2)
    first, second = (read_tensors(tmp_path / which / "head.safetensors")[0] for which in "ab")
    assert all(np.array_equal(value, second[name]) for name, value in first.items())


@pytest.mark.parametrize("step", [5, 12])
def test_found_goes_on_as_if_it_had_not_stopped(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among the steps that learn from the first background, and after them."""
    source = written(tmp_path)
    ends_the_same(monkeypatch, lambda out: fitted(source, out, steps=16), tmp_path, HEAD_FILES, step)


def test_an_object_that_is_everything_or_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NumericsError, match="found has collapsed: nothing is part of an object, or nearly everything"):
        fitted(written(tmp_path), tmp_path / "a", threshold=-1.0, background_steps=30, weight_solved=0.0)


def test_keys_without_a_query_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no query of a cls token .*; adapt\.method found needs facet: key of a ViT"):
        fitted(written(tmp_path, query=False), tmp_path / "a")


# --- codes of one channel ---------------------------------------------------------------------------------------------


def test_one_channel_is_cut_into_one_object_and_nothing() -> None:
    segments, diagnostics = argmax.cut(np.array([[[0.0], [0.6]], [[0.8], [0.0]]], np.float32), argmax.Params(), 0, "a")
    assert segments.tolist() == [[0, 1], [1, 0]]
    assert diagnostics["scores"] == pytest.approx([0.7])
    assert diagnostics["confidence"] == pytest.approx(0.35)
    empty, diagnostics = argmax.cut(np.zeros((2, 2, 1), np.float32), argmax.Params(), 0, "a")
    assert not empty.any()
    assert (diagnostics["groups"], diagnostics["scores"].tolist()) == (0, [0])


# --- peekaboo -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> run.PhotoSource:
    folder = tmp_path_factory.mktemp("photos")
    return run.PhotoSource(write_photos(folder), write_weights(folder)[VIT], KEYS)


def frozen(source: run.PhotoSource, facet: str = "key") -> FrozenPhotos:
    chosen = KEYS.model_copy(update={"facet": facet})
    return FrozenPhotos(source.manifest, source.weights, chosen, 64, CPU, 1, ("key",))


def test_strokes_hide_the_share_that_is_asked_for() -> None:
    drawn = [hiding.strokes((64, 96), 0.4, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()
    assert all(0.4 <= one.mean() < 0.55 for one in drawn)
    photo = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    hidden = hiding.hide(photo, drawn[0], np.array([1, 2, 3], np.uint8))
    assert (hidden[drawn[0]] == [1, 2, 3]).all()
    np.testing.assert_array_equal(hidden[~drawn[0]], photo[~drawn[0]])


def test_the_network_makes_the_keys_that_are_stored_in_any_number_of_threads(source: run.PhotoSource) -> None:
    images = frozen(source)
    photos = images.several(range(5))
    one, three = (list(hiding.Network(images, threads).several(photos)) for threads in (1, 3))
    for (keys, query, cls), again, photo in zip(one, three, photos, strict=True):
        tokens, stored, asked = images.backbone.outputs(torch.from_numpy(photo)[None])
        np.testing.assert_array_equal(keys, tokens[0].permute(2, 0, 1).numpy().astype(np.float16))
        np.testing.assert_array_equal(query.ravel(), asked[0])  # type: ignore[index]
        np.testing.assert_array_equal(cls, stored[0])
        assert all(np.array_equal(a, b) for a, b in zip((keys, query, cls), again, strict=True))


def test_peekaboo_learns_from_masked_photos(source: run.PhotoSource) -> None:
    """The masked photos matter, and the threads do not; without the first background nothing is learnt from it."""
    changes: dict[str, dict[str, Any]] = {
        "own": {}, "threads": {"threads": 2}, "whole": {"weight_masked": 0.0}, "near": {"consistency": 5.0},
        "published": {"background_steps": 0},
    }  # fmt: skip
    heads, seen = {}, {}
    for name, more in changes.items():
        training = HeadTraining(0, CPU, 1, more.pop("threads", 1), Keeper())
        params = peekaboo.Params(**{"steps": 6, "background_steps": 2, "batch_size": 4} | more)
        tensors, diagnostics = peekaboo.fit(frozen(source), params, training)
        heads[name], seen[name] = tensors["head.decoder.weight"], diagnostics["monitors"]
        assert np.isfinite(diagnostics["loss"]).all()
        assert np.isfinite(seen[name]["masked"]).all()
    np.testing.assert_array_equal(heads["own"], heads["threads"])
    assert all((heads["own"] != heads[name]).any() for name in ("whole", "near", "published"))
    assert np.isfinite(seen["own"]["background"]).tolist() == [True] * 2 + [False] * 4
    assert not np.isfinite(seen["published"]["background"]).any()


@pytest.mark.parametrize("step", [2, 4])
def test_peekaboo_goes_on_as_if_it_had_not_stopped(
    step: int, source: run.PhotoSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_collapse, "LARGEST", 1.1)  # a random network finds nothing
    few = {"method": "peekaboo", "steps": 6, "background_steps": 3}
    ends_the_same(monkeypatch, lambda out: fitted(source, out, **few), tmp_path, HEAD_FILES, step)


def test_peekaboo_needs_keys_and_a_plain_cls_token(source: run.PhotoSource, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"facet token: a head can see photos through facet: key only"):
        frozen(source, "token")
    images = frozen(source)
    images.backbone.heads = None
    monkeypatch.setattr(hiding.copy, "deepcopy", lambda _: pytest.fail("copied before it was looked at"))
    with pytest.raises(ConfigError, match="has no cls token with plain attention; name a feature set"):
        peekaboo.fit(images, peekaboo.Params(batch_size=2), HeadTraining(0, CPU, 1, 1, Keeper()))


# --- recipes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [[], ["small"]])
@pytest.mark.parametrize("method", ["found", "peekaboo"])
def test_the_recipes_resolve(method: str, preset: list[str]) -> None:
    recipe = load({"recipes": [method], "preset": preset}, RECIPES).recipes[method]
    assert (recipe.adapt.method, recipe.cut.method, recipe.code_length) == (method, "argmax", 1)  # type: ignore[union-attr]
    assert recipe.learns_from_photos == (method == "peekaboo")
    assert recipe.regions_an_image == 1
    assert recipe.background


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("found", {"facet": "token"}, "facet: 'token', but adapt.method found needs facet: key of a ViT"),
        ("found", {"flip": "average"}, "adapt.method found needs the query of the cls token"),
        (
            "found",
            {"backbone": "efficientnet_lite0", "layer": 3},
            "'efficientnet_lite0' has no cls token, but adapt.me",
        ),
        (
            "peekaboo",
            {"backbone": "efficientnet_lite0", "layer": 3},
            "'efficientnet_lite0' has no cls token, but adapt",
        ),
        ("peekaboo", {"facet": "token"}, "adapt.method: peekaboo sees photos through facet: key, found token"),
        ("peekaboo", {"flip": "average"}, "adapt.method: peekaboo learns from photos as they are; drop flip"),
    ],
)
def test_keys_are_asked_for_before_any_job(method: str, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    body = yaml.safe_load((RECIPES / f"{method}.yaml").read_text())
    body["features"]["grouping"] |= change
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(body))
    with pytest.raises(ConfigError, match=message):
        load({"recipes": [str(tmp_path / "own.yaml")]}, RECIPES)


@pytest.mark.parametrize("method", ["found", "peekaboo"])
@pytest.mark.parametrize("backbone", ["resnet50", "vit_base_patch16_gap_224", "vit_small_patch16_224"])
def test_timm_says_before_any_job_which_networks_have_no_cls_token(method: str, backbone: str, tmp_path: Path) -> None:
    body = yaml.safe_load((RECIPES / f"{method}.yaml").read_text())
    body["features"]["grouping"] |= {"backbone": backbone, "layer": 3}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(body))
    run_ = load({"recipes": [str(tmp_path / "own.yaml")]}, RECIPES)
    if backbone == "vit_small_patch16_224":
        check_backbones(run_)
        return
    with pytest.raises(
        ConfigError, match=f"grouping.backbone: '{backbone}' has no cls token, but adapt.method {method}"
    ):
        check_backbones(run_)
