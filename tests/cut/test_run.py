"""The cut stage on files: round trip, threads, errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from edited_store import set_row

from maskmill.cut import maskcut, ncut
from maskmill.cut.run import run
from maskmill.errors import ConfigError, NumericsError, StoreError
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged, RaggedWriter

DEPTH = 12
SHAPES = [(9, 12), (14, 7), (1, 1), (10, 10), (12, 12)]


def tokens(i: int) -> np.ndarray:
    rng = np.random.default_rng(i)
    h, w = SHAPES[i]
    body = rng.standard_normal((h, w, DEPTH)) + 2
    body[h // 3 : h // 2 + 1, w // 4 : w // 2 + 1, ::2] *= -1
    return body.astype(np.float32) if i != 3 else np.ones((h, w, DEPTH), np.float32)  # 3: nothing to cut


@pytest.fixture
def features(tmp_path: Path) -> Path:
    path = tmp_path / "features.zarr"
    made = Provenance.of("features", {"backbone": "b"})
    with RaggedWriter(path, "features", depth=DEPTH, dtype="float32", provenance=made) as out:
        for i in range(len(SHAPES)):
            out.append(f"im/{i}", tokens(i))
    return path


def section(method: str = "ncut", **own: object) -> dict[str, object]:
    return {"features": "grouping", "method": method, **own}


def test_round_trip(features: Path, tmp_path: Path) -> None:
    out = tmp_path / "cut.zarr"
    run(features, section(tau=0.3), out, 5, 1)
    store = Ragged(out, "segments")
    assert store.ids == [f"im/{i}" for i in range(5)]
    assert store.values.dtype == np.uint8
    assert store.attrs == {"method": "ncut", "outcomes": ncut.TRAITS.outcomes}
    assert store.provenance["params"] == section(tau=0.3) | {"seed": 5}
    assert store.provenance["inputs"] == [Ragged(features).hash]
    for i, image_id in enumerate(store.ids):
        mask, diagnostics = ncut.cut(tokens(i), ncut.Params(tau=0.3), 5, image_id)
        np.testing.assert_array_equal(store[image_id], mask)
        for name, value in diagnostics.items():
            assert store.per_image(name)[i] == pytest.approx(value, abs=1e-5)
    assert list(store.per_image("outcome")[[2, 3]]) == [1, 2]
    assert store.per_image("confidence").dtype == np.float32


@pytest.mark.parametrize("method", ["ncut", "maskcut", "lost", "kmeans", "grid"])
def test_threads_do_not_change_a_byte(method: str, features: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    for threads in (1, 3):
        run(features, section(method), tmp_path / f"{threads}.zarr", 0, threads)
    assert torch.get_num_threads() == before
    one, three = (Ragged(tmp_path / f"{threads}.zarr") for threads in (1, 3))
    np.testing.assert_array_equal(one.values[...], three.values[...])
    np.testing.assert_array_equal(one.per_image("confidence"), three.per_image("confidence"))


def test_scores_of_segments_are_stored_once_an_image(features: Path, tmp_path: Path) -> None:
    run(features, section("maskcut", masks=4), tmp_path / "cut.zarr", 5, 1)
    store = Ragged(tmp_path / "cut.zarr", "segments")
    scores = store.per_image("scores")
    assert (scores.shape, scores.dtype) == ((5, 4), np.float32)
    assert store.attrs["outcomes"] == maskcut.TRAITS.outcomes
    for i in range(5):
        count = int(store[i].max())
        assert count == store.per_image("masks")[i]
        assert not scores[i, count:].any()
        if count:
            assert store.per_image("confidence")[i] == scores[i, 0] > 0


def test_a_result_depends_on_the_image_not_on_its_shard(features: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.zarr"
    with RaggedWriter(alone, "features", depth=DEPTH, dtype="float32") as out:
        out.append("im/4", tokens(4))
    for name, source in (("all", features), ("one", alone)):
        run(source, section("kmeans"), tmp_path / f"{name}.zarr", 0, 1)
    np.testing.assert_array_equal(Ragged(tmp_path / "all.zarr")["im/4"], Ragged(tmp_path / "one.zarr")["im/4"])


def test_an_empty_shard_is_an_empty_store(tmp_path: Path) -> None:
    with RaggedWriter(tmp_path / "f.zarr", "features", depth=DEPTH):
        pass
    run(tmp_path / "f.zarr", section(), tmp_path / "cut.zarr", 0, 2)
    assert len(Ragged(tmp_path / "cut.zarr", "segments")) == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_a_broken_image_is_named_and_nothing_is_written(threads: int, features: Path, tmp_path: Path) -> None:
    set_row(features, 100, np.nan)
    with pytest.raises(NumericsError, match="im/0: 1 of 108 tokens"):
        run(features, section(), tmp_path / "cut.zarr", 0, threads)
    assert [path.name for path in tmp_path.iterdir()] == ["features.zarr"]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (section("ncutt"), r"unknown method 'ncutt' \(did you mean 'ncut'\?\)"),
        (section(tua=0.1), r"cut\.tua: unknown key \(did you mean 'tau'\?\)"),
        (section(tau=2), r"cut\.tau: .*found 2"),
        ({"features": "grouping"}, r"cut\.method: None is not a method name; known: .*grid.*kmeans.*ncut"),
    ],
)
def test_bad_parameters(params: dict[str, object], message: str, features: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        run(features, params, tmp_path / "cut.zarr", 0, 1)


def test_another_kind_of_store(features: Path, tmp_path: Path) -> None:
    run(features, section(), tmp_path / "cut.zarr", 0, 1)
    with pytest.raises(StoreError, match="holds 'segments', expected 'features'"):
        run(tmp_path / "cut.zarr", section(), tmp_path / "again.zarr", 0, 1)
