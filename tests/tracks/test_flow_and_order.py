"""Flow of tokens against shifts that are known and against a plain search; which images follow one another."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.images.flow import Flow, token_flow
from maskmill.images.order import places, sequence_of, sequences
from maskmill.images.view import View
from maskmill.store.manifest import Row


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (-2, 3), (3, -3)])
def test_a_shift_is_found_wherever_it_stays_in_the_frame(shift: tuple[int, int]) -> None:
    a = np.random.default_rng(1).normal(size=(12, 15, 16)).astype(np.float16)
    b = np.roll(a, shift, axis=(0, 1))
    forth, back = token_flow(a, b, 3)
    rows, columns = np.mgrid[:12, :15]
    stays = (rows + shift[0] >= 0) & (rows + shift[0] < 12) & (columns + shift[1] >= 0) & (columns + shift[1] < 15)
    assert (forth.steps[stays] == shift).all()
    assert forth.sure[stays].all()
    arrives = np.roll(stays, shift, axis=(0, 1))
    assert (back.steps[arrives] == np.negative(shift)).all()
    assert back.sure[arrives].all()


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 3), st.integers(0, 1000))
def test_the_best_token_of_all_within_the_radius(h: int, w: int, radius: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, h, w, 5))
    mean = (a.mean((0, 1)) + b.mean((0, 1))) / 2
    one, other = (x - mean for x in (a, b))
    forth, back = token_flow(a, b, radius)

    def cosine(p: tuple[int, int], q: tuple[int, int]) -> float:
        x, y = one[p], other[q]
        return float(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)))

    for p in np.ndindex(h, w):
        near = [q for q in np.ndindex(h, w) if max(abs(q[0] - p[0]), abs(q[1] - p[1])) <= radius]
        found = tuple(int(v) for v in p + forth.steps[p])
        assert cosine(p, found) == pytest.approx(max(cosine(p, q) for q in near), abs=1e-4)
        assert bool(forth.sure[p]) == bool((back.steps[found] == -forth.steps[p]).all())


def test_equal_tokens_stay_where_they_are() -> None:
    forth, back = token_flow(np.ones((4, 5, 3)), np.ones((4, 5, 3)), 2)
    assert not forth.steps.any()
    assert not back.steps.any()
    assert forth.sure.all()


def test_targets_on_grids_of_other_sizes() -> None:
    flow = Flow(np.full((2, 2, 2), (0, 1)), np.ones((2, 2), bool))
    assert flow.target((4, 4), (2, 2)).tolist() == [[1, 1, 1, 1]] * 2 + [[3, 3, 3, 3]] * 2
    still = Flow.still((3, 5))
    assert still.target((6, 7), (6, 7)).ravel().tolist() == list(range(42))


def test_ways_that_are_not_sure_follow_the_nearest_that_is() -> None:
    flow = Flow(np.array([[[0, 1], [5, 5], [9, 9], [0, -1]]]), np.array([[True, False, False, True]]))
    assert flow.filled().steps.tolist() == [[[0, 1], [0, 1], [0, -1], [0, -1]]]
    assert not Flow(np.ones((2, 2, 2), np.int64), np.zeros((2, 2), bool)).filled().steps.any()


FRAME = "/w/results/inputs/frames/tour-01234567/{:06d}.png"


def row(image_id: str, path: str = "/photos/x.png", parent: str | None = None, view: View | None = None) -> Row:
    return Row(image_id, path, 9, 9, "s", None, parent=parent, view=None if view is None else view.text())


def test_frames_pages_and_folders() -> None:
    rows = [
        row("scan/p0000", parent="scan", view=View(page=0)),
        row("scan/p0001", parent="scan", view=View(page=1)),
        row("scan/p0001/red", parent="scan", view=View(page=1, channels=(0,))),
        row("set/a"),
        row("set/b"),
        row("set/p0003"),  # a photo of this name
        row("tour/000000", FRAME.format(0)),
        row("tour/000006", FRAME.format(6)),
        row("tour/000006/y0000000x0000512", FRAME.format(6), parent="tour/000006", view=View(window=(0, 512, 9, 9))),
    ]
    found = {name: [each.id for each in members] for name, members in sequences(rows, "files").items()}
    assert found == {
        "scan": ["scan/p0000", "scan/p0001"],
        "scan/red": ["scan/p0001/red"],
        "tour": ["tour/000000", "tour/000006"],
        "tour/y0000000x0000512": ["tour/000006/y0000000x0000512"],
    }
    assert [sequence_of(each, "folder") for each in rows[3:6]] == ["set"] * 3
    assert sequence_of(row("alone"), "folder") == "."
    assert sequence_of(row("alone"), "files") is None
    numbered = dict(places(sequences(rows, "folder")))
    assert (numbered["set/p0003"].sequence, numbered["set/p0003"].position) == ("set", 2)
