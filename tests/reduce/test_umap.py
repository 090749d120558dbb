"""UMAP: the transform against umap-learn's own, places that follow the vector only, determinism, faults."""

from __future__ import annotations

import builtins
import warnings
from typing import Any

import numpy as np
import pytest

from maskmill.errors import ConfigError, NumericsError
from maskmill.numerics.neighbours import NeighbourIndex
from maskmill.reduce.umap import Fitted, Params, depth, fit, place, prepare, transform

SMALL = Params(dimensions=3, neighbours=12, epochs=60)


def clusters(n: int = 500, d: int = 8, k: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Gaussians [n, d] float32 that touch, and their labels."""
    rng = np.random.default_rng(seed)
    centres = 2.2 * np.random.default_rng(9).standard_normal((k, d))
    label = rng.integers(0, k, n)
    return (centres[label] + rng.standard_normal((n, d))).astype(np.float32), label


@pytest.fixture(scope="module")
def model() -> dict[str, np.ndarray]:
    return fit(lambda: iter([clusters()[0]]), SMALL, 0)[0]


def test_transform_does_what_umap_learn_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same arguments reach umap-learn's optimiser as from its own transform of one vector at a time."""
    import umap
    import umap.layouts
    import umap.umap_
    from sklearn.metrics import pairwise_distances

    x, new = clusters()[0], clusters(12, seed=5)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = umap.UMAP(
            n_components=3, n_neighbors=12, n_epochs=60, min_dist=0.0, metric="euclidean", random_state=7
        ).fit(x)
    params = SMALL.model_copy(update={"metric": "euclidean"})
    fitted = Fitted(NeighbourIndex.of(x, "euclidean", "reduce"), theirs.embedding_, (theirs._a, theirs._b), 42)
    all_distances = pairwise_distances(new, x, metric=theirs._input_distance_func)
    found = np.argsort(all_distances, axis=1)[:, :12]
    distances = np.take_along_axis(all_distances, found, 1).astype(np.float32)
    mine, other = place(found, distances, fitted, params), theirs.transform(new)
    scale = theirs.embedding_.std()
    assert np.median(np.linalg.norm(mine - other, axis=1)) < 0.2 * scale  # draws differ with the last bit of a start
    seen: list[tuple[Any, ...]] = []

    def record(*args: Any, **kwargs: Any) -> np.ndarray:
        seen.append((*args, *(kwargs[key] for key in ("gamma", "alpha") if key in kwargs)))
        return np.array(args[0])

    monkeypatch.setattr(umap.layouts, "optimize_layout_euclidean", record)
    monkeypatch.setattr(umap.umap_, "optimize_layout_euclidean", record)
    for row in range(len(new)):
        seen.clear()
        theirs.transform(new[row : row + 1])
        place(found[row : row + 1], distances[row : row + 1], fitted, params)
        reference, own = seen
        for i, (theirs_i, mine_i) in enumerate(zip(reference[:13], own[:13], strict=True)):
            if i in (0, 6):  # start and epochs between steps: float32 sums in another order
                np.testing.assert_allclose(np.asarray(mine_i), np.asarray(theirs_i), rtol=1e-4, err_msg=f"argument {i}")
            else:
                np.testing.assert_array_equal(np.asarray(mine_i), np.asarray(theirs_i), err_msg=f"argument {i}")


def test_places_follow_the_vector_only_and_copies_take_the_fitted_place(model: dict[str, np.ndarray]) -> None:
    fitted = prepare(model, SMALL)
    new = clusters(60, seed=3)[0]
    together = transform(new, fitted, SMALL)
    np.testing.assert_array_equal(together, transform(new, fitted, SMALL))
    np.testing.assert_array_equal(transform(new[::-1], fitted, SMALL)[::-1], together)
    alone = np.concatenate([transform(row[None], fitted, SMALL) for row in new[:10]])
    np.testing.assert_array_equal(alone, together[:10])
    np.testing.assert_array_equal(transform(model["points"], fitted, SMALL), model["embedding"])
    assert transform(new[:0], fitted, SMALL).shape == (0, depth(model))


def test_clusters_stay_together(model: dict[str, np.ndarray]) -> None:
    label = clusters()[1]
    new, new_label = clusters(300, seed=4)
    embedded = NeighbourIndex.of(model["embedding"], "euclidean", "reduce")
    placed = transform(new, prepare(model, SMALL), SMALL)
    voted = label[embedded.nearest(embedded.prepare(placed), 1)[0][:, 0]]
    raw = NeighbourIndex.of(model["points"], "cosine", "reduce")
    nearest = label[raw.nearest(raw.prepare(new), 1)[0][:, 0]]
    assert (voted == new_label).mean() > (nearest == new_label).mean() - 0.05


def test_the_same_bytes_twice_and_another_seed_differs(model: dict[str, np.ndarray]) -> None:
    x = clusters()[0]
    again = fit(lambda: (x[start : start + 70] for start in range(0, len(x), 70)), SMALL, 0)[0]
    for name in model:
        np.testing.assert_array_equal(model[name], again[name])
    other = fit(lambda: iter([x]), SMALL, 1)[0]
    assert not np.array_equal(other["embedding"], model["embedding"])


def test_a_graph_in_parts_starts_from_random_places(capsys: pytest.CaptureFixture[str]) -> None:
    x = clusters(200, k=1)[0]
    x[:100] += 1000
    params = SMALL.model_copy(update={"metric": "euclidean"})
    model, diagnostics = fit(lambda: iter([x]), params, 0)
    assert diagnostics["parts"] == 2
    assert "2 parts; UMAP starts from random places" in capsys.readouterr().err
    assert np.isfinite(model["embedding"]).all()


def test_bad_samples_are_named(model: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    x = clusters(100)[0]
    bad = x.copy()
    bad[1, 1] = np.inf
    for rows, params, message in (
        (bad, SMALL, "NaN"),
        (np.ones((50, 3), np.float32), SMALL, "all 50 vectors are equal"),
        (x[:12], SMALL, "reduce.neighbours: 12"),
        (x[:20], Params(dimensions=20, neighbours=5), "reduce.dimensions: 20"),
        (x, SMALL.model_copy(update={"memory_gb": 0.7}), "reduce.max_fit_points"),
    ):
        with pytest.raises(NumericsError, match=message):
            fit(lambda rows=rows: iter([rows]), params, 0)
    with pytest.raises(NumericsError, match="length 3"):
        transform(x[:, :3], prepare(model, SMALL), SMALL)
    with pytest.raises(NumericsError, match="NaN"):
        transform(bad, prepare(model, SMALL), SMALL)
    with pytest.raises(ValueError, match="min_dist is larger"):
        Params(min_dist=2)
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("cuml"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"reduce.gpu: true needs cuML"):
        fit(lambda: iter([x]), SMALL.model_copy(update={"gpu": True}), 0)
