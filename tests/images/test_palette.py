"""The palette: stable, distinct, also for colour-blind eyes; overlays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskmill.images import palette as module
from maskmill.images.palette import BACKGROUND, IGNORE, hexadecimal, overlay, palette


def gaps(colours: np.ndarray, view: int) -> np.ndarray:
    """OKLab distances of all pairs as one of the three visions sees them, without the search's weight."""
    matrix, _ = module._VISIONS[view]
    lab = module._oklab(np.clip(module._linear(colours) @ matrix.T, 0, 1))
    pairs = np.triu_indices(len(colours), 1)
    return np.linalg.norm(lab[pairs[0]] - lab[pairs[1]], axis=1)


def test_oklab_of_known_colours() -> None:
    """White is L = 1 without chroma; sRGB red is (0.628, 0.225, 0.126) (Ottosson 2020)."""
    white, red = module._oklab(module._linear(np.array([[255, 255, 255], [255, 0, 0]], np.uint8)))
    assert white == pytest.approx([1, 0, 0], abs=1e-4)
    assert red == pytest.approx([0.6280, 0.2249, 0.1258], abs=2e-4)
    lightness, chroma, hue = red[0], np.hypot(*red[1:]), np.degrees(np.arctan2(red[2], red[1]))
    back = module._srgb(module._from_oklch(np.array([lightness]), np.array([chroma]), np.array([hue])))
    assert back.tolist() == [[255, 0, 0]]


def test_colour_blind_views_keep_greys() -> None:
    for matrix, _ in module._VISIONS:
        assert np.asarray(matrix).sum(axis=1) == pytest.approx(1, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(short=st.integers(0, 400), more=st.integers(0, 400))
def test_a_longer_palette_begins_with_the_shorter(short: int, more: int) -> None:
    long = palette(short + more)
    assert long.shape == (short + more, 3)
    assert long.dtype == np.uint8
    assert (long[:short] == palette(short)).all()


def test_colours_are_distinct() -> None:
    colours = palette(module.SEARCHED + 1)
    assert tuple(colours[0]) == BACKGROUND
    assert len({tuple(c) for c in colours} | {IGNORE}) == module.SEARCHED + 2
    assert gaps(np.concatenate([colours[:13], [IGNORE]]), 0).min() > 0.12
    assert gaps(colours[:28], 0).min() > 0.07
    for view in (1, 2):
        assert gaps(colours[:13], view).min() > 0.07
        assert gaps(colours[:28], view).min() > 0.045


def test_a_16_bit_palette_has_a_colour_for_every_cluster() -> None:
    colours = palette(65536)
    assert colours.shape == (65536, 3)
    assert hexadecimal(colours[0]) == "#202329"


def test_overlay_tints_edges_and_leaves_the_background() -> None:
    image = np.full((60, 80, 3), 100, np.uint8)
    mask = np.zeros((6, 8), np.uint8)
    mask[1:4, 1:5] = 2
    mask[:, 7] = 255
    out = overlay(image, mask)
    colour = palette(3)[2].astype(int)
    assert out.dtype == np.uint8
    assert (out[0, 0] == 100).all()
    assert np.abs(out[25, 25] - (100 + colour) / 2).max() <= 0.5
    assert (out[10, 30] == colour).all()  # the edge lies inside, in full colour
    assert (out[9, 30] == 100).all()
    assert (overlay(image, mask, outline=False)[10, 30] == out[25, 25]).all()
    hatched = out[:, 75:].reshape(-1, 3)
    assert {tuple(c) for c in hatched.tolist()} == {(100, 100, 100), tuple(np.round((100 + np.array(IGNORE)) / 2))}
    assert (overlay(image, mask, background=True)[0, 0] < 100).all()
    assert (overlay(image, np.full((3, 3), 65535, np.uint16))[0, 0] != 100).all()


def test_alpha_zero_without_outline_is_the_photo() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (31, 17, 3), dtype=np.uint8)
    assert (overlay(image, rng.integers(0, 5, (4, 4), dtype=np.uint8), alpha=0, outline=False) == image).all()
