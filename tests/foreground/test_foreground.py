"""Foreground by attention: masks, exact counts, the threshold, and what cluster and paint make of it."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.cluster import communities
from maskmill.cluster import run as cluster
from maskmill.cluster._foreground import ForegroundTokens
from maskmill.errors import NumericsError, StoreError
from maskmill.foreground import attention, run
from maskmill.foreground._votes import UNIT, Votes, lay, otsu
from maskmill.paint.run import run_tokens
from maskmill.store import codebook as books
from maskmill.store.artefact import read_tensors
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged, RaggedWriter

Params = attention.Params


# the mask of an image


def gaussian(x: np.ndarray, sigma: float) -> np.ndarray:
    """7x7 taps with mirrored borders, written out."""
    taps = np.exp(-0.5 * (np.arange(-3, 4) / sigma) ** 2)
    kernel = np.outer(taps, taps) / taps.sum() ** 2
    padded = np.pad(x, 3, mode="reflect")
    return np.array([
        [(padded[i : i + 7, j : j + 7] * kernel).sum() for j in range(x.shape[1])] for i in range(x.shape[0])
    ])  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(
    st.integers(4, 9), st.integers(4, 9), st.floats(0.05, 0.95), st.sampled_from([0.0, 0.6, 1.5]), st.integers(0, 99)
)
def test_the_mask_holds_the_mass_with_as_few_tokens_as_possible(
    h: int, w: int, mass: float, sigma: float, seed: int
) -> None:
    x = np.random.default_rng(seed).random((h, w)) ** 4
    found = attention.most(x, Params(mass=mass, sigma=sigma, least=1))
    assert found is not None
    blurred = gaussian(x, sigma) if sigma else x
    held, total = blurred[found].sum(), blurred.sum()
    assert held >= mass * total * (1 - 1e-9)
    assert held - blurred[found].min() < mass * total
    assert blurred[found].min() >= blurred[~found].max(initial=0)


def test_small_parts_are_dropped_and_corners_touch() -> None:
    x = np.full((6, 8), 1e-6)
    for place in ((0, 0), (0, 1), (2, 3), (3, 4), (4, 5), (5, 0)):  # a pair, a diagonal of three, a single one
        x[place] = 1
    found = attention.most(x, Params(sigma=0, mass=0.99))
    assert found is not None
    assert np.argwhere(found).tolist() == [[2, 3], [3, 4], [4, 5]]
    assert attention.most(x, Params(sigma=0, mass=0.99, least=1)).sum() == 6  # type: ignore[union-attr]
    assert not attention.most(x, Params(sigma=0, mass=0.99, least=4)).any()  # type: ignore[union-attr]


def test_an_even_attention_says_nothing() -> None:
    assert attention.most(np.full((4, 4), 1 / 16), Params()) is None
    assert attention.most(np.ones((1, 1)), Params()) is None
    assert attention.mask(np.zeros((3, 3, 4), np.float32), np.ones((2, 2), np.float32), Params()) is None


def test_heads_weigh_the_same_whatever_their_scale() -> None:
    keys = np.zeros((5, 5, 4), np.float32)
    keys[0, :3, 0] = 3  # head one looks here
    keys[4, 2:, 2] = 90  # head two there, much harder
    found = attention.mask(keys, np.ones((2, 2), np.float32) * 2, Params(sigma=0, mass=0.9))
    assert found is not None
    expected = np.zeros((5, 5), bool)
    expected[0, :3] = expected[4, 2:] = True
    np.testing.assert_array_equal(found, expected)


def test_keys_that_are_not_finite_are_named() -> None:
    with pytest.raises(NumericsError, match="its keys are NaN"):
        attention.mask(np.full((3, 3, 4), np.nan, np.float32), np.ones((2, 2), np.float32), Params())


# counts


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**31))
def test_precision_is_the_mean_over_images_in_any_order_and_split(n: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = [(rng.integers(0, k, (3, 4)), rng.random((3, 4)) < 0.5) for _ in range(n)]
    whole = Votes(k)
    for labels, mask in images:
        whole.add(labels, mask.astype(float))
    for c in range(k):
        shares = [
            Fraction(int((mask & (labels == c)).sum()), int((labels == c).sum()))
            for labels, mask in images
            if (labels == c).any()
        ]
        assert whole.images[c] == len(shares)
        if shares:
            assert whole.means()[c] == pytest.approx(float(sum(shares) / len(shares)), abs=1e-11)
        else:
            assert np.isnan(whole.means()[c])
    assert whole.tokens.sum() == 12 * n
    parts = [Votes(k) for _ in range(3)]
    for i in rng.permutation(n):
        parts[rng.integers(3)].add(images[i][0], images[i][1].astype(float))
    for name in run.OWN:
        np.testing.assert_array_equal(sum(getattr(part, name) for part in parts), getattr(whole, name))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_otsu_is_the_best_of_all_splits(values: list[float]) -> None:
    x = np.array(values)
    line = otsu(x)
    if len(set(values)) == 1:
        assert line is None
        return
    assert line is not None

    def within(low: np.ndarray, high: np.ndarray) -> float:
        return float(((low - low.mean()) ** 2).sum() + ((high - high.mean()) ** 2).sum())

    best = min(within(x[x < v], x[x >= v]) for v in set(values) if (x < v).any())
    if np.ptp(x) > 1e-6:  # below, squares of differences round away
        assert (x < line).any()
        assert (x >= line).any()
        assert within(x[x < line], x[x >= line]) <= best * (1 + 1e-6) + 1e-12


def test_otsu_parts_two_heaps() -> None:
    assert otsu(np.array([0.1, 0.12, 0.14, 0.8, 0.9])) == pytest.approx(0.47)


@pytest.mark.parametrize(("source", "target"), [((4, 6), (4, 6)), ((4, 6), (2, 3)), ((3, 5), (7, 4)), ((1, 2), (5, 5))])
def test_a_mask_is_laid_on_another_grid_by_area(source: tuple[int, int], target: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(source) < 0.5
    fine = mask.repeat(target[0], 0).repeat(target[1], 1)  # both grids are whole multiples of its cells
    expected = fine.reshape(target[0], source[0], target[1], source[1]).mean((1, 3))
    np.testing.assert_allclose(lay(mask, target), expected, atol=1e-12)


# files

SIZES = {f"im/{i}": ((5, 6), (8, 9)) if i % 2 else ((6, 6), (6, 6)) for i in range(9)}  # tokens, keys
DEPTH, HEADS = 4, 2


def scene(image_id: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, keys, query: an upper left thing of one of two kinds that is looked at, on one of two grounds."""
    number = int(image_id[-1])
    rng = np.random.default_rng(number)
    (h, w), (big_h, big_w) = SIZES[image_id]
    kind, ground = np.eye(DEPTH)[number % 2], np.eye(DEPTH)[2 + number // 2 % 2]
    tokens = np.where(inside(h, w)[..., None], kind, ground) + 0.05 * rng.standard_normal((h, w, DEPTH))
    keys = np.where(inside(big_h, big_w)[..., None], 1.0, -1.0) + 0.05 * rng.standard_normal((big_h, big_w, 8))
    return tokens.astype("f4"), keys.astype("f4"), np.full(8, 2.0, "f4")


def inside(h: int, w: int) -> np.ndarray:
    y, x = (np.indices((h, w)) + 0.5) / np.array([h, w])[:, None, None]
    return (y < 0.5) & (x < 0.5)


def write(folder: Path, shards: Sequence[Sequence[str]], query: bool = True) -> list[str]:
    """Stores of tokens and keys, a shard each."""
    for number, ids in enumerate(shards):
        made = Provenance.of("features", {"shard": number})
        attrs = {"backbone": "vit", "facet": "key", "heads": HEADS}
        with RaggedWriter(folder / f"tokens/s{number}.zarr", "features", depth=DEPTH, provenance=made) as out:
            for image_id in ids:
                out.append(image_id, scene(image_id)[0])
        with RaggedWriter(folder / f"keys/s{number}.zarr", "features", depth=8, attrs=attrs, provenance=made) as out:
            for image_id in reversed(ids):
                _, keys, asked = scene(image_id)
                out.append(image_id, keys, **({"cls_query": asked} if query else {}))
    return [f"s{number}" for number in range(len(shards))]


SECTION: dict[str, Any] = {
    "method": "attention", "features": "keys", "clusters": 4, "threshold": None, "max_fit_points": 10_000,
    "sigma": 0.6, "mass": 0.6, "least": 3,
}  # fmt: skip


def chosen(folder: Path, shards: Sequence[Sequence[str]], **changed: Any) -> books.Codebook:
    """The codebook that the three jobs of the stage end in."""
    params = SECTION | changed
    names = write(folder, shards)
    tokens = [folder / f"tokens/{name}.zarr" for name in names]
    run.fit(tokens, params, 0, folder / "fine.safetensors", 1)
    for name in names:
        files = folder / f"tokens/{name}.zarr", folder / f"keys/{name}.zarr"
        run.count(*files, folder / "fine.safetensors", params, folder / f"counts/{name}.safetensors")
    counts = [folder / f"counts/{name}.safetensors" for name in names]
    run.choose(counts, folder / "fine.safetensors", params, folder / "ground.safetensors")
    return books.read(folder / "ground.safetensors")


IDS = list(SIZES)
SPLITS = [[IDS], [IDS[:2], IDS[2:3], IDS[3:]], [IDS[5:], IDS[:5]]]


def test_clusters_that_are_looked_at_are_foreground_in_any_shards(tmp_path: Path) -> None:
    found = [chosen(tmp_path / str(i), split) for i, split in enumerate(SPLITS)]
    assert len(found[0]) == 2
    assert found[0].group.tolist() == [0, 0, 1, 1]  # type: ignore[union-attr]
    assert found[0].counts.sum() == sum(h * w for (h, w), _ in SIZES.values())
    for image_id in IDS:
        tokens = scene(image_id)[0]
        label = books.assign(tokens.reshape(-1, DEPTH), found[0])[0].reshape(tokens.shape[:2])
        np.testing.assert_array_equal(label, inside(*tokens.shape[:2]))
    for other in found[1:]:
        for name in ("centroids", "group", "counts"):
            np.testing.assert_array_equal(getattr(other, name), getattr(found[0], name))
        np.testing.assert_array_equal(other.diagnostics["precision"], found[0].diagnostics["precision"])
    precision = found[0].diagnostics["precision"]
    assert precision[:2].max() < found[0].diagnostics["threshold"][0] < precision[2:].min()
    sums = [read_tensors(file)[0] for file in sorted((tmp_path / "1/counts").glob("*"))]
    assert sum(int(s["images"].sum()) for s in sums) == 2 * len(IDS)
    assert all(int(s["precision"].max()) <= UNIT * len(IDS) for s in sums)


def test_only_foreground_is_clustered_in_any_shards(tmp_path: Path) -> None:
    kept = {image_id: scene(image_id)[0].astype("f2").astype("f4")[inside(*SIZES[image_id][0])] for image_id in IDS}
    results = []
    for i, split in enumerate(SPLITS):
        ground = chosen(tmp_path / str(i), split)
        stores = [tmp_path / f"{i}/tokens/s{s}.zarr" for s in range(len(split))]
        for path in stores:
            view = ForegroundTokens(path, ground)
            for image_id, values in view.images():
                np.testing.assert_array_equal(values[:, 0], kept[image_id])
                np.testing.assert_array_equal(view[image_id], values)
        params = {"method": "kmeans", "clusters": 2, "max_fit_points": 10_000}
        out = tmp_path / f"{i}/book.safetensors"
        cluster.fit(
            stores, params, 0, out, 2, optional=cluster.OptionalFiles(foreground=tmp_path / f"{i}/ground.safetensors")
        )
        results.append(books.read(out))
    assert results[0].counts.sum() == sum(map(len, kept.values()))
    directions = np.abs(results[0].centroids).argmax(1)
    assert sorted(directions) == [0, 1]  # the two kinds of things, no ground
    for other in results[1:]:
        np.testing.assert_array_equal(other.centroids, results[0].centroids)


def test_an_image_without_foreground_is_an_image_of_no_rows(tmp_path: Path) -> None:
    with RaggedWriter(tmp_path / "v.zarr", "features", depth=2, dtype="float32") as out:
        for image_id, wanted in (("a", [0, 0]), ("b", [1, 0, 1]), ("c", [0]), ("d", [1])):
            out.append(image_id, np.eye(2, dtype="f4")[wanted][None])
    ground = books.Codebook(np.eye(2, dtype="f4"), np.ones(2, np.int64), 0.0, True)
    view = ForegroundTokens(tmp_path / "v.zarr", ground)
    assert [len(values) for _, values in view.images()] == [0, 2, 0, 1]
    assert view.grid.tolist() == [[0, 1], [2, 1], [0, 1], [1, 1]]
    assert view.rows(0, 3).tolist() == [[0, 1]] * 3
    nothing = books.Codebook(np.array([[1, 1], [-1, -1]], "f4"), ground.counts, 0.0, True)
    books.write(tmp_path / "none.safetensors", nothing)
    params = {"method": "kmeans", "clusters": 1, "max_fit_points": 100}
    with pytest.raises(NumericsError, match=r"no token is foreground; lower foreground\.threshold"):
        cluster.fit(
            [tmp_path / "v.zarr"],
            params,
            0,
            tmp_path / "o",
            1,
            optional=cluster.OptionalFiles(foreground=tmp_path / "none.safetensors"),
        )


def test_the_background_is_one_more_neighbour() -> None:
    book = books.Codebook(np.eye(3, dtype="f4")[:2], np.ones(2, np.int64), 0.0, True)
    ground = books.Codebook(np.eye(3, dtype="f4")[[2, 0, 1]], book.counts, 0.0, True, group=np.array([0, 1, 1]))
    row = np.eye(3, dtype="f4")[[0, 1, 0, 2]][None]  # part 0, part 1, part 0, background
    share = communities.cooccurrence(iter([(row, True)]), book, [1], None, ground)
    np.testing.assert_allclose(share, [[0, 2 / 3, 1 / 3], [1, 0, 0], [1, 0, 0]])
    without = communities.cooccurrence(iter([(row[:, :3], True)]), book, [1], None)
    np.testing.assert_allclose(without, [[0, 1], [1, 0]])


def test_paint_gives_background_tokens_zero(tmp_path: Path) -> None:
    chosen(tmp_path, SPLITS[1])
    stores = [tmp_path / f"tokens/s{s}.zarr" for s in range(3)]
    params = {"method": "kmeans", "clusters": 2, "max_fit_points": 10_000}
    files = tmp_path / "book.safetensors", tmp_path / "ground.safetensors"
    cluster.fit(stores, params, 0, files[0], 1, optional=cluster.OptionalFiles(foreground=files[1]))
    book = books.read(files[0])
    for upsample in (1, 4):
        settings = {"keep_closest": 1.0, "dropped": "ignore", "upsample": upsample}
        run_tokens(stores[2], files[0], settings, tmp_path / f"m{upsample}.zarr", foreground=files[1])
        masks = Ragged(tmp_path / f"m{upsample}.zarr", "masks")
        assert masks.attrs["clusters"] == 2
        for image_id, mask in masks.images():
            tokens = Ragged(stores[2])[image_id].astype("f4")
            h, w, d = tokens.shape
            label = books.assign(tokens.reshape(h * w, d), book)[0].reshape(h, w) + 1
            expected = np.where(inside(h, w), label, 0)
            centre = (upsample - 1) // 2
            np.testing.assert_array_equal(mask[centre::upsample, centre::upsample], expected)


# what cannot work


def test_bad_input_is_named(tmp_path: Path) -> None:
    chosen(tmp_path, [IDS])
    tokens, fine = tmp_path / "tokens/s0.zarr", tmp_path / "fine.safetensors"
    counts = [tmp_path / "counts/s0.safetensors"]
    with pytest.raises(NumericsError, match=r"foreground\.threshold: 1\.0, but .*everything is background; lower it"):
        run.choose(counts, fine, {"threshold": 1.0}, tmp_path / "no")
    with pytest.raises(NumericsError, match=r"foreground\.threshold: 0\.0, but .*everything is foreground; raise it"):
        run.choose(counts, fine, {"threshold": 0.0}, tmp_path / "no")
    with pytest.raises(StoreError, match=r"fine\.safetensors: not the counts of 4 fine clusters"):
        run.choose([fine], fine, {"threshold": None}, tmp_path / "no")
    write(tmp_path / "bare", [IDS], query=False)
    with pytest.raises(StoreError, match=r"no query of a cls token .*foreground\.method attention needs facet: key"):
        run.count(tokens, tmp_path / "bare/keys/s0.zarr", fine, SECTION, tmp_path / "no")
    write(tmp_path / "less", [IDS[:3]])
    with pytest.raises(StoreError, match="holds no image 'im/3'"):
        run.count(tokens, tmp_path / "less/keys/s0.zarr", fine, SECTION, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_precisions_that_do_not_part_are_named() -> None:
    with pytest.raises(NumericsError, match="nothing parts them"):
        run.draw_line(np.array([0.5, 0.5, np.nan]), None)
    with pytest.raises(NumericsError, match="in no image does the cls token look anywhere"):
        run.draw_line(np.full(3, np.nan), 0.5)
    assert run.draw_line(np.array([0.2, np.nan, 0.8]), 0.3) == 0.3
