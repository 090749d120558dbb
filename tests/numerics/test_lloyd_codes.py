"""K-means on codes is k-means on the vectors that they decode to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from maskmill.numerics import kmeans, lloyd_codes, points
from maskmill.numerics.kmeans_stream import Stream
from maskmill.numerics.lloyd_cpu import CpuEngine
from maskmill.numerics.points import CodedPoints, points_of, prepare
from maskmill.numerics.product import Encoder, fit
from maskmill.store.ragged import Ragged, RaggedWriter


def stores(folder: Path, parts: int = 2) -> list[Ragged]:
    """Blobs far from the origin as codes, in some stores."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((6, 12)) * 3 + 20
    x = (centres[rng.integers(0, 6, 4000)] + rng.standard_normal((4000, 12))).astype(np.float32)
    codec, _ = fit(x, 4, True, 0)
    images = Encoder(codec).codes(torch.from_numpy(x)).numpy().reshape(40, 10, 10, 4)
    for part in range(parts):
        with RaggedWriter(folder / f"{parts}-{part}.zarr", "features", depth=12, dtype=codec) as out:
            for i in range(part, 40, parts):
                out.append(f"im{i:02}", images[i])
    return [Ragged(folder / f"{parts}-{part}.zarr") for part in range(parts)]


@pytest.mark.parametrize("spherical", [True, False])
def test_a_step_is_that_on_the_vectors(spherical: bool, tmp_path: Path) -> None:
    opened = stores(tmp_path)
    source = CodedPoints(opened, opened[0].codec)  # type: ignore[arg-type]
    ready = prepare(source, spherical, 1)
    start = ready.take(np.arange(0, 4000, 500))
    plain = Stream(ready, 8, lambda x: CpuEngine(x, 8, 1))
    sums, counts = lloyd_codes.CodedStream(source, ready, 8, plain.make, 1).step(start)
    expected, numbers = plain.step(start)
    assert np.abs(counts - numbers).sum() <= 4  # points between two centroids, by rounding
    np.testing.assert_allclose(sums, expected, atol=2e-3 * np.abs(expected).max())
    exact = np.abs(counts - numbers) == 0
    np.testing.assert_allclose(sums[exact], expected[exact], atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("spherical", [True, False])
def test_a_fit_is_that_on_the_vectors_whatever_threads_and_shards(
    spherical: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = kmeans.Settings(clusters=6, spherical=spherical, restarts=2, tolerance=0)
    opened = stores(tmp_path)
    in_memory = points_of(opened, 10_000, 0)
    assert isinstance(in_memory, np.ndarray)
    expected, _ = kmeans.fit(in_memory, settings, 0, "cpu")
    monkeypatch.setattr(points, "MEMORY_BYTES", 0)
    monkeypatch.setattr(points, "STREAM_ROWS", 700)
    # of one level the sample has all points: a larger set than the first level has is streamed
    monkeypatch.setattr("maskmill.numerics.kmeans_levels.SMALLEST_LEVEL", 1000)
    taken: list[int] = []
    step = lloyd_codes.CodedStream.step
    monkeypatch.setattr(lloyd_codes.CodedStream, "step", lambda self, c: (taken.append(1), step(self, c))[1])
    found = []
    before = torch.get_num_threads()
    try:
        for threads, parts in ((1, 2), (3, 5)):
            torch.set_num_threads(threads)
            source = points_of(stores(tmp_path, parts), 10_000, 0)
            assert isinstance(source, CodedPoints)
            found.append(kmeans.fit(source, settings, 0, "cpu")[0])
    finally:
        torch.set_num_threads(before)
    assert taken
    assert found[0].centroids.tobytes() == found[1].centroids.tobytes()
    np.testing.assert_allclose(found[0].centroids, expected.centroids, atol=1e-2)
    assert found[0].inertia == pytest.approx(expected.inertia, rel=1e-4)


def test_what_is_no_whole_coded_store_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(points, "MEMORY_BYTES", 0)

    class Part(Ragged):
        """Rows of a store that are left out, as `ForegroundTokens` has them."""

    opened = stores(tmp_path)
    assert CodedPoints.common(opened) is opened[0].codec
    assert CodedPoints.common([opened[0], Part(opened[1].path)]) is None
    assert CodedPoints.common([]) is None
    with RaggedWriter(tmp_path / "plain.zarr", "features", depth=12) as out:
        out.append("x", np.zeros((2, 2, 12), np.float32))
    assert CodedPoints.common([opened[0], Ragged(tmp_path / "plain.zarr")]) is None
    assert not lloyd_codes.fits(opened[0].codec, 65_534)  # type: ignore[arg-type]
