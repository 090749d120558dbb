"""Tracks of drawn frames against what was drawn: moving, crossing, vanishing things; slices; shards."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ordered_frames import follow, laid, scene, tracks_of, write

from maskmill.errors import InputError
from maskmill.images.instances import VOID, Instances
from maskmill.store.artefact import read_metadata
from maskmill.tracks._join import linked
from maskmill.tracks._match import assigned

GRID = (14, 26)
PASSING = [[(1, 2 + 3 * t, 1, 2), (7, 20 - 3 * t, 1, 5)] for t in range(7)]  # one class; they pass each other
HIDDEN = [[(4, 18 - 3 * t, 2, 5), (4, 3 * t, 1, 2)] for t in range(7)]  # class 1 goes over class 2


def drawn(frames: list[list[tuple[int, int, int, int]]]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    scenes = [scene(GRID, squares) for squares in frames]
    return [mask for mask, _ in scenes], [tokens for _, tokens in scenes]


def test_two_squares_that_pass_each_other_keep_their_numbers(tmp_path: Path) -> None:
    """They move by their own width, so that nothing overlaps where it was."""
    write(tmp_path, *drawn(PASSING))
    rows = follow(tmp_path, match="overlap")
    assert tracks_of(rows) == {1: [(t, 1) for t in range(7)], 2: [(t, 1) for t in range(7)]}
    tops = {track: {row["top"] for row in rows if row["track"] == track} for track in (1, 2)}
    assert tops == {1: {10.0}, 2: {70.0}}
    # Nine cells arrive; the nine that they leave bare are not sure and may follow them.
    assert min(row["score"] for row in rows if row["position"]) >= 9 / 18
    assert [row["score"] for row in rows if not row["position"]] == [None, None]
    for t, tracks in enumerate(laid(tmp_path).values()):
        assert (tracks[1:4, 2 + 3 * t : 5 + 3 * t] == 1).all()
        assert (tracks[7:10, 20 - 3 * t : 23 - 3 * t] == 2).all()
        assert (tracks > 0).sum() == 18


def test_without_flow_what_moves_is_lost(tmp_path: Path) -> None:
    write(tmp_path, *drawn(PASSING))
    assert len(tracks_of(follow(tmp_path, match="overlap", flow="none"))) == 14


@pytest.mark.parametrize("gap", [0, 1])
def test_a_thing_that_is_hidden_for_a_frame(tmp_path: Path, gap: int) -> None:
    """At position 3 the first square covers the second; the gap says whether that ends its track."""
    write(tmp_path, *drawn(HIDDEN))
    tracks = tracks_of(follow(tmp_path, gap=gap))
    seen = [(t, 2) for t in (0, 1, 2, 4, 5, 6)]
    assert tracks[1] == [(t, 1) for t in range(7)]
    assert list(tracks.values())[1:] == ([seen] if gap else [seen[:3], seen[3:]])


def test_instances_of_one_class_that_overlap(tmp_path: Path) -> None:
    """Their masks touch and cover one another; the tokens say which is which."""
    masks, tokens = drawn([[(4, 18 - 3 * t, 1, 5), (5, 3 * t, 1, 2)] for t in range(7)])
    found = []
    for t in range(7):
        layers = np.zeros((3, *GRID), bool)
        layers[0, 4:7, 18 - 3 * t : 21 - 3 * t] = layers[2, 5:8, 3 * t : 3 * t + 3] = layers[1, :2] = True
        found.append(Instances(layers, np.array([1, VOID, 1]), np.array([0.9, 1, 0.4], np.float32)))
    write(tmp_path, masks, tokens, found)
    rows = follow(tmp_path)
    assert {row["track"]: row["region"] for row in rows} == {1: 1, 2: 3}
    assert [(row["track"], row["region"]) for row in rows] == [(1, 1), (2, 3)] * 7
    middle = laid(tmp_path)["film/03"]
    assert (middle[4:7, 9:12] == 1).all()  # the surer one lies above
    assert (middle[7, 9:12] == 2).all()


def discs(count: int) -> list[np.ndarray]:
    y, x = np.mgrid[:40, :40] - 19.5
    return [(np.hypot(y, x) < 4 + t).astype(np.uint8) for t in range(count)]


def test_a_growing_disc_in_slices_is_one_thing(tmp_path: Path) -> None:
    masks = discs(8)
    write(tmp_path, masks)
    rows = follow(tmp_path, flow="none", match="overlap")
    assert [row["track"] for row in rows] == [1] * 8
    areas = [int(mask.sum()) for mask in masks]
    assert [row["area"] for row in rows] == [100 * area for area in areas]  # in pixels
    assert [row["score"] for row in rows[1:]] == [a / b for a, b in itertools.pairwise(areas)]


def test_where_shards_begin_changes_nothing(tmp_path: Path) -> None:
    scenes = drawn([[*a, (10, c, 3, 3)] for a, (_, c, *_) in zip(HIDDEN, [s[1] for s in PASSING], strict=True)])
    results = {}
    for cuts in [(), (3,), (1, 4), (1, 2, 3, 4, 5, 6)]:
        folder = tmp_path / f"{len(cuts)}"
        write(folder, *scenes, cuts=cuts)
        results[cuts] = follow(folder), {i: t.tolist() for i, t in laid(folder).items()}
    assert len(tracks_of(results[()][0])) == 3
    assert all(found == results[()] for found in results.values())


def test_the_same_again_is_the_same_bytes(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        write(tmp_path / "a", *drawn(HIDDEN), cuts=(2,))
        follow(tmp_path / "a")
        written = [path for path in sorted((tmp_path / "a/tracks").rglob("*")) if path.is_file()]
        found.append([(path.name, path.read_bytes()) for path in written])
        shutil.rmtree(tmp_path / "a")
    assert found[0] == found[1]


def test_a_track_changes_its_class_only_where_it_may(tmp_path: Path) -> None:
    masks, tokens = drawn([[(4, 2 * t, 1 + t % 2, 5)] for t in range(6)])
    write(tmp_path, masks, tokens)
    assert len(tracks_of(follow(tmp_path, gap=0))) == 6
    assert tracks_of(follow(tmp_path, gap=0, within="any")) == {1: [(t, 1 + t % 2) for t in range(6)]}


def test_sequences_are_apart_and_small_parts_have_no_track(tmp_path: Path) -> None:
    masks = discs(3)
    masks[0][0, 0] = 1
    ids = ["a/1", "a/2", "b/1", "b/2", "c"]
    write(tmp_path, [*masks[:2], *masks[1:3], masks[0]], ids=ids, cuts=(1,))
    rows = follow(tmp_path, flow="none", match="overlap", min_area=2 / 1600)
    assert [(row["sequence"], row["position"], row["track"]) for row in rows] == [
        ("a", 0, 1), ("a", 1, 1), ("b", 0, 2), ("b", 1, 2),
    ]  # fmt: skip
    found = laid(tmp_path)
    assert not found["c"].any()  # alone in its folder
    assert found["a/1"][0, 0] == 0


def test_nothing_follows_anything(tmp_path: Path) -> None:
    write(tmp_path, discs(2))
    with pytest.raises(InputError, match=r"tracks: no image follows another.*tracks\.order: folder"):
        follow(tmp_path, order="files", flow="none", match="overlap")


def test_frames_without_any_region(tmp_path: Path) -> None:
    masks = discs(4)
    masks[1][:] = 0
    masks[2][:] = 255
    write(tmp_path, masks)
    rows = follow(tmp_path, flow="none", match="overlap", gap=1)
    assert [(row["position"], row["track"]) for row in rows] == [(0, 1), (3, 2)]
    assert len(follow(tmp_path, flow="none", match="overlap", gap=2)) == 2
    assert b"maskmill" in read_metadata(tmp_path / "tracks/tracks.parquet")


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10_000))
def test_the_assignment_is_the_best_of_all(n: int, m: int, seed: int) -> None:
    scores = np.random.default_rng(seed).random((n, m)).round(2)
    scores[scores < 0.4] = 0
    pairs = assigned(scores)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert all(scores[i, j] > 0 for i, j in pairs)
    wide = scores if n <= m else scores.T
    orders = itertools.permutations(range(max(n, m)), min(n, m))
    best = max(sum(wide[i, j] for i, j in enumerate(order)) for order in orders)
    assert sum(scores[i, j] for i, j in pairs) == pytest.approx(best)


def test_what_was_lost_later_is_matched_first() -> None:
    """A region is offered to the frame before, and only then to what was lost earlier, whatever the scores say."""
    table: dict[tuple[int, int], Any] = {(0, 1): [[0.0]], (0, 2): [[0.9]], (1, 2): [[0.4]]}
    found = linked([1, 1, 1], lambda a, b: np.array(table[a, b]), gap=1)
    assert [list(each) for each in found.tracks] == [[0], [1], [1]]
    assert found.count == 2
