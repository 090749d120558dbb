"""Which windows an image becomes, and which level of it is read."""

from __future__ import annotations

import pytest

from maskmill.errors import ConfigError, InputError
from maskmill.images.view import View
from maskmill.inputs._windows import level_of, name_of, windows
from maskmill.recipe.inputs import Inputs, Window
from maskmill.recipe.model import Stage

PYRAMID = [(4000, 6000), (2000, 3000), (1000, 1500)]


def test_a_level_is_asked_by_number_or_by_resolution() -> None:
    unit = 0.25, 0.25
    assert level_of(PYRAMID, None, Window()) == 0
    assert level_of(PYRAMID, None, Window(level=2)) == 2
    assert [level_of(PYRAMID, unit, Window(resolution=r)) for r in (0.1, 0.3, 0.45, 0.8, 2.4)] == [0, 0, 1, 2, 2]


def test_a_level_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"inputs\.window\.level: 3, but the file has levels 0 to 2"):
        level_of(PYRAMID, None, Window(level=3))
    with pytest.raises(InputError, match="no pyramid"):
        level_of(PYRAMID[:1], None, Window(level=1))
    for far in (0.05, 5):
        with pytest.raises(InputError, match=r"resolution: .*a pixel of the file's levels is 0\.25, 0\.5, 1; ask for"):
            level_of(PYRAMID, (0.25, 0.25), Window(resolution=far))
    with pytest.raises(InputError, match="does not say how large a pixel is; set inputs"):
        level_of(PYRAMID, None, Window(resolution=0.5))


def test_a_picture_no_larger_than_a_window_stays_as_it_is() -> None:
    assert windows(View(), [(100, 64)], 0, Window(size=100)) == [View()]
    (whole,) = windows(View(), PYRAMID, 2, Window(size=2000))
    assert (whole.window, whole.level, whole.scale) == (None, 2, (4.0, 4.0))


def test_windows_share_page_and_channels_and_sort_row_by_row() -> None:
    made = windows(View(page=3, channels=(2, 1, 0)), PYRAMID, 1, Window(size=1000, overlap=200))
    assert {(v.page, v.channels, v.level, v.whole) for v in made} == {(3, (2, 1, 0), 1, (2000, 3000))}
    assert [v.window[:2] for v in made if v.window] == [(y, x) for y in (0, 800, 1000) for x in (0, 800, 1600, 2000)]
    names = [name_of(v) for v in made]
    assert names == sorted(names)
    assert names[1] == "/y0000000x0000800"
    assert View.of(made[1].text()) == made[1]


def test_settings_that_cannot_be_are_refused_and_none_change_nothing() -> None:
    for bad, reason in [
        ({"size": 64, "overlap": 64}, "is not below size"),
        ({"level": 1, "resolution": 0.5}, "not both"),
        ({"size": 8}, "greater than or equal to 16"),
        ({"sizes": 8}, "sizes"),
    ]:
        with pytest.raises(ConfigError, match=reason):
            Stage.of("inputs", {"window": bad})
    assert (Window().overlap, Window(size=100).overlap, Window(size=100, overlap=0).overlap) == (128, 12, 0)
    typed = Stage.of("inputs", {"window": {"size": "64"}}).settings.window  # Snakemake hands on text
    assert typed == Window(size=64, overlap=8)
    assert "window" not in Inputs().model_dump()
    assert Stage.of("inputs", {}).as_dict() == Stage.of("inputs", {"window": None}).as_dict()
