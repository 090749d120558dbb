"""clusters: auto: blobs whose number is known, data without clusters, ends of the range, and what may not matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskmill.cluster import _auto, run
from maskmill.errors import ConfigError, NumericsError
from maskmill.numerics.sampling import rng, sample_of_images, sample_rows
from maskmill.recipe import registry
from maskmill.recipe.model import Stage
from maskmill.recipe.resolve import load
from maskmill.store import codebook as books
from maskmill.store.artefact import read_json
from maskmill.store.ragged import Ragged, RaggedWriter

COUNTED = [name for name in registry.available("cluster") if registry.load("cluster", name).TRAITS.counted]


def blobs(k: int, d: int, unequal: bool = False, n: int = 1200) -> np.ndarray:
    """Points [n, d] float32 around k centres at least 10 radii apart; unequal: sizes fall as 1, 1/2, 1/3, ..."""
    draws = rng(0, "blobs", str(k), str(d))
    centres = draws.standard_normal((k, d))
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=2)[~np.eye(k, dtype=bool)].min()
    share = 1 / np.arange(1, k + 1) if unequal else np.ones(k)
    truth = draws.choice(k, n, p=share / share.sum())
    return (centres[truth] / apart + 0.1 * draws.standard_normal((n, d)) / np.sqrt(d)).astype(np.float32)


def choose(x: np.ndarray, bounds: tuple[int, int] = (2, 20), spherical: bool = False) -> _auto.Choice:
    """Of points that are each of an image of its own."""
    return _auto.choose(x, np.arange(len(x)), bounds, _auto.by_kmeans(spherical), spherical)


@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize("d", [2, 64])
@pytest.mark.parametrize("k", [2, 5, 12])
def test_the_number_of_blobs_is_found(k: int, d: int, unequal: bool) -> None:
    found = choose(blobs(k, d, unequal))
    assert (found.chosen, found.supported, found.end) == (k, True, False)
    assert found.stability[found.numbers.index(k)] == 1


@pytest.mark.parametrize("d", [3, 64])
@pytest.mark.parametrize("shape", ["uniform", "normal"])
def test_without_structure_the_smallest_number_is_taken_and_flagged(shape: str, d: int) -> None:
    draws = rng(0, shape, str(d))
    x = draws.random((1500, d)) if shape == "uniform" else draws.standard_normal((1500, d))
    found = choose(x.astype(np.float32), (3, 20))
    assert (found.chosen, found.supported, found.end) == (3, False, False)


def test_the_end_of_the_range_is_flagged() -> None:
    x = blobs(12, 8)
    found = choose(x, (2, 12))
    assert (found.chosen, found.end) == (12, True)
    assert not choose(x, (2, 13)).end
    assert choose(blobs(3, 8), (2, 3)).end


def test_the_trivial_stability_of_two_clusters_is_no_structure() -> None:
    """One long blob is halved alike every time; two blobs on the same axis are halved no more alike, but by a gap."""
    draws = rng(0, "long")
    long = draws.standard_normal((3000, 4)) * [10, 1, 1, 1]
    found = choose(long.astype(np.float32), (2, 6))
    assert found.stability[0] > _auto.STABLE
    assert found.reference[0] > _auto.STABLE
    assert not found.supported
    parted = long + np.sign(long[:, :1]) * [60, 0, 0, 0]
    assert choose(parted.astype(np.float32), (2, 6)).chosen == 2


@pytest.mark.parametrize(
    ("stability", "reference", "expected"),
    [
        ([0.9, 0.85, 0.5], [0.2, 0.2, 0.2], 0),  # gains 0.875 and 0.81 are not equal
        ([0.9, 0.87, 0.5], [0.2, 0.2, 0.2], 1),  # 0.875 and 0.8375 are: the larger number
        ([0.74, 0.7, 0.5], [0.0, 0.0, 0.0], None),  # nothing is stable
        ([0.9, 0.81, 0.5], [0.85, 0.2, 0.2], 1),  # the first is no better than without structure
        ([1.0, 0.2, 0.9], [1.0, 0.1, 0.8], 2),  # nothing can be better than a reference that always agrees
    ],
)
def test_the_rule(stability: Sequence[float], reference: Sequence[float], expected: int | None) -> None:
    assert _auto.largest(np.array(stability), np.array(reference)) == expected


def test_how_alike_two_labellings_are() -> None:
    """{0, 1, 2} {3, 4, 5} against {0, 1} {2, 3, 4, 5}: best indices 2/3 and 3/4; every cluster counts the same."""
    a, b = np.array([0, 0, 0, 1, 1, 1]), np.array([1, 1, 0, 0, 0, 0])
    assert _auto.alike(a, b, 2, 2) == pytest.approx((2 / 3 + 3 / 4) / 2)
    assert _auto.alike(a, 1 - a, 2, 2) == 1
    assert _auto.alike(a, a, 2, 3) == pytest.approx((1 + 2 / 3) / 2)  # the third is empty


def test_the_reference_has_the_mean_and_the_covariance() -> None:
    draws = rng(0, "like")
    x = (draws.standard_normal((20_000, 3)) @ draws.standard_normal((3, 3)) + 5).astype(np.float32)
    y = _auto.like(x)(0)
    np.testing.assert_allclose(y.mean(0), x.mean(0), atol=0.05)
    np.testing.assert_allclose(np.cov(y.T), np.cov(x.T), rtol=0.05, atol=0.05)


def test_halves_keep_images_together() -> None:
    images = np.repeat(np.arange(9), 7)
    one = _auto.half(images, 0).reshape(9, 7)
    assert (one == one[:, :1]).all()
    assert one[:, 0].sum() == 5
    few = _auto.half(np.repeat(np.arange(3), 8), 0)  # three images cannot be halved: their vectors are
    assert few.sum() == 12
    assert any((_auto.half(images, split) != one.ravel()).any() for split in (1, 2))


def test_numbers_that_are_tried() -> None:
    assert _auto.grid(2, 64) == [2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 17, 20, 24, 29, 35, 42, 50, 60, 64]
    assert _auto.grid(5, 6) == [5, 6]
    assert _auto.grid(20, 22) == [20, 22]
    assert _auto.grid(3, 3) == [3]


def test_few_vectors_limit_the_range_and_too_few_are_an_error() -> None:
    found = choose(blobs(3, 4, n=60), (2, 40))
    assert found.numbers[-1] == 30 // _auto.MEMBERS
    assert found.chosen == 3
    with pytest.raises(NumericsError, match=r"cluster\.clusters: auto: halves of 6 vectors .* set cluster\.clusters"):
        choose(blobs(2, 4, n=6))
    with pytest.raises(NumericsError, match="NaN"):
        choose(np.full((50, 3), np.nan, np.float32))
    with pytest.raises(NumericsError, match="auto"):
        choose(np.zeros((50, 3), np.float32), spherical=True)


SMALL: Mapping[str, Mapping[str, Any]] = {
    "agglomerative": {"fine": 60}, "spectral": {"fine": 300}, "consensus": {"fine": 300, "runs": 10},
    "online": {"steps": 200, "batch_size": 256}, "kmeans": {}, "ncut": {"fine": 300},
}  # fmt: skip


def stored(folder: Path, x: np.ndarray, shards: int) -> list[Path]:
    """Vectors as images of 30 tokens, dealt to shards in turn."""
    paths = [folder / f"{shards}-{s}.zarr" for s in range(shards)]
    for s, path in enumerate(paths):
        with RaggedWriter(path, "vectors", depth=x.shape[1], dtype="float32") as writer:
            for i in range(s, len(x) // 30, shards):
                writer.append(f"{i:03d}", x[30 * i : 30 * i + 30].reshape(5, 6, -1))
    return paths


@pytest.mark.parametrize("method", COUNTED)
def test_every_method_that_is_told_its_number_can_choose_it(method: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).permutation(np.linalg.qr(np.eye(8))[0][:4].repeat(300, axis=0))
    x = (x + 0.05 * np.random.default_rng(1).standard_normal(x.shape)).astype(np.float32)
    out, told = tmp_path / "b.safetensors", tmp_path / "selection.json"
    section = {"method": method, "clusters": "auto", "range": [2, 12], **SMALL[method]}
    run.fit(stored(tmp_path, x, 2), section, 0, out, 1, "cpu", run.OptionalFiles(selection=told))
    body = read_json(told)
    assert (len(books.read(out)), body["clusters"], body["auto"]["chosen"]) == (4, 4, 4)
    assert body["auto"]["supported"]
    assert [point["clusters"] for point in body["auto"]["curve"]] == [2, 3, 4, 5, 6, 7, 8, 10, 12]
    assert body["auto"]["range"] == [2, 12]


def test_shards_threads_and_seeds_do_not_matter(tmp_path: Path) -> None:
    x = blobs(5, 6, n=1500)
    section = {"method": "kmeans", "clusters": "auto", "range": [2, 12], "spherical": False}
    found, made = [], []
    for shards, seed, threads in ((1, 0, 1), (3, 0, 2), (1, 0, 1), (2, 7, 1)):
        out, told = tmp_path / "b.safetensors", tmp_path / "selection.json"
        optional = run.OptionalFiles(selection=told)
        run.fit(stored(tmp_path, x, shards), section, seed, out, threads, "cpu", optional)
        found.append(read_json(told)["auto"])
        made.append(books.read(out).centroids)
    assert found[0] == found[1] == found[2] == found[3]
    np.testing.assert_array_equal(made[0], made[1])
    assert found[0]["chosen"] == len(made[3]) == 5


def test_the_sample_is_that_of_sample_rows(tmp_path: Path) -> None:
    stores = [Ragged(path) for path in stored(tmp_path, blobs(3, 4, n=300), 2)]
    for limit in (1000, 45, 7):
        rows, images = sample_of_images(stores, limit, 0)
        np.testing.assert_array_equal(rows, sample_rows(stores, limit, 0))
        assert len(images) == len(rows)
        assert (np.diff(images) >= 0).all()


def test_a_number_asks_for_no_range_and_writes_none() -> None:
    stage = Stage.of("cluster", {"method": "kmeans", "clusters": 5})
    assert "range" not in stage.as_dict()
    assert Stage.of("cluster", {"method": "kmeans", "clusters": "auto"}).as_dict()["range"] == [2, 64]
    short = Stage.of("cluster", {"method": "agglomerative", "clusters": "auto", "fine": 30}).as_dict()
    assert short["range"] == [2, 30]
    assert Stage.of("cluster", short).as_dict() == short


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"clusters": 5, "range": [2, 9]}, r"cluster: range is for clusters: auto"),
        ({"clusters": "auto", "range": [9, 2]}, r"cluster: range must be \[smallest, largest\]"),
        ({"clusters": "auto", "range": [1, 9]}, r"cluster\.range\.0: .* greater than or equal to 2, found 1"),
        ({"clusters": "auto", "range": [2]}, r"cluster\.range\.1: "),
        ({"clusters": "many"}, r"cluster\.clusters: Input should be a whole number, or auto, found 'many'"),
        ({"clusters": 0}, r"cluster\.clusters: Input should be from 1 to 65534, or auto, found 0"),
        ({"method": "agglomerative", "clusters": "auto", "range": [2, 64], "fine": 50}, r"at least the end of range"),
        ({"method": "leiden", "clusters": "auto"}, r"cluster\.clusters: auto .* null lets this one find its number"),
        ({"method": "hdbscan", "clusters": "auto"}, r"cluster\.clusters: auto .* null"),
        ({"method": "communities", "clusters": "auto"}, r"cluster\.clusters: auto .* null"),
        ({"method": "prototypes", "clusters": "auto"}, r"cluster\.clusters: auto .* give a number"),
    ],
)
def test_a_wrong_use_names_the_key(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Stage.of("cluster", section)


def test_what_needs_the_number_beforehand_knows_that_it_is_not_there() -> None:
    root = Path(__file__).parents[2] / "recipes"
    config = {"recipes": ["kmeans"], "preset": [], "cluster": {"clusters": "auto", "range": [2, 30]}}
    recipe = load(config, root).recipes["kmeans"]
    assert recipe.candidates["online"]["range"] == [2, 30]
    for body in recipe.candidates.values():
        Stage.of("cluster", body)
    small = {"clusters": "auto", "range": [2, 30], "max_fit_points": 20}
    with pytest.raises(ConfigError, match=r"max_fit_points: 20, but 30 clusters may be .* lower cluster\.range"):
        load(config | {"cluster": small}, root)
    many = config | {"cluster": {"clusters": "auto", "range": [900, 1000]}, "inputs": {"max_images": 1}}
    many |= {"features": {"semantic": {"stride": 32}}}
    with pytest.raises(ConfigError, match=r"kmeans: cluster\.range: 900 clusters, but 1 image has at most 196 tokens"):
        load(many, root)
