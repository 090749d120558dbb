"""Views lie where their boxes say, depend on seed, step and place alone, and show each photo once in a pass."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import photo_rows
import pytest
import torch
from PIL import Image

from maskmill.errors import InputError
from maskmill.pretrain import Traits, _views
from maskmill.pretrain._light import Light, relight
from maskmill.pretrain._segments import crop_segments
from maskmill.pretrain._settings import TrainingParams
from maskmill.pretrain._views import CropSpec, Normalisation, Photos, Sampler, Views, middle
from maskmill.store.manifest import Row
from maskmill.training.team import Team

DARK = Light(jitter_chance=0, grey=0, blur=0)
PLAIN = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def method(*specs: CropSpec, regrouped: bool = False, **more: Any) -> Any:
    return SimpleNamespace(views=lambda params: specs, TRAITS=Traits(dense=False, regrouped=regrouped), **more)


def params(**settings: Any) -> TrainingParams:
    return TrainingParams(**({"steps": 10, "batch_size": 4, "micro_batch": 2} | settings))


def seen(photos: Photos, step: int) -> list[Views]:
    return [photos.shown(drawn, torch.device("cpu")) for drawn in photos.read(photos.micro_batches(step))]


def ramps(tmp_path: Path) -> list[Row]:
    """A photo whose red is the place from left to right, and whose green is that from top to bottom."""
    y, x = np.mgrid[:200, :240]
    photo = np.stack([x, y, 0 * x], 2).astype(np.uint8)
    Image.fromarray(photo).save(tmp_path / "ramp.png")
    return [Row("ramp", str(tmp_path / "ramp.png"), 240, 200, "s0000000000", None)]


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_view_shows_the_box_that_it_names(tmp_path: Path, flip: float) -> None:
    spec = CropSpec(side=32, scale=(0.1, 0.5), flip=flip, light=DARK)
    photos = Photos(ramps(tmp_path), method(spec, spec), params(batch_size=2), PLAIN, seed=3)
    for view in seen(photos, 0) + seen(photos, 1):
        for n in range(len(view)):
            for c, picture in enumerate(view.pictures):
                y0, y1, x0, x1 = view.boxes[n, c].tolist()
                assert bool(view.flips[n, c]) == bool(flip)
                red, green = (picture[n, k].mean(k).numpy() * 255 for k in (0, 1))
                at = (np.arange(32) + 0.5) / 32
                columns = (x0 + (x1 - x0) * at) * 240 - 0.5
                np.testing.assert_allclose(red[::-1] if flip else red, columns, atol=1.5)
                np.testing.assert_allclose(green, (y0 + (y1 - y0) * at) * 200 - 0.5, atol=1.5)


def test_views_depend_on_seed_step_and_place_alone(tmp_path: Path) -> None:
    rows = photo_rows.rows_of(tmp_path, 6)
    spec = CropSpec(side=16)
    photos = Photos(rows, method(spec, spec), params(), PLAIN, seed=1, cache_mib=1)
    first, again = seen(photos, 2), seen(Photos(rows, method(spec, spec), params(), PLAIN, seed=1), 2)
    for a, b in zip(first, again, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a.pictures, b.pictures, strict=True))
        assert torch.equal(a.boxes, b.boxes)
    other = seen(Photos(rows, method(spec, spec), params(), PLAIN, seed=2), 2)
    assert not torch.equal(first[0].boxes, other[0].boxes)
    large = Photos(rows, method(spec, spec), params(micro_batch=4), PLAIN, seed=1)
    assert torch.equal(torch.cat([view.pictures[1] for view in first]), seen(large, 2)[0].pictures[1])


def test_every_photo_comes_once_before_any_comes_again(tmp_path: Path) -> None:
    photos = Photos(photo_rows.rows_of(tmp_path, 6), method(CropSpec(side=16)), params(batch_size=2), PLAIN)
    items = [photos.items(step).tolist() for step in range(6)]
    first, second = (np.concatenate(each).tolist() for each in (items[:3], items[3:]))
    assert sorted(first) == list(range(6)) == sorted(second)
    assert first != second


def test_regrouped_crops_are_in_other_micro_batches(tmp_path: Path) -> None:
    photos = Photos(
        photo_rows.rows_of(tmp_path, 16), method(CropSpec(side=16), CropSpec(side=16), regrouped=True),
        params(batch_size=16, micro_batch=4), PLAIN,
    )  # fmt: skip
    views = seen(photos, 0)
    first, second = (torch.cat([view.places[:, c] for view in views]) for c in (0, 1))
    assert first.tolist() == list(range(16))
    assert sorted(second.tolist()) == list(range(16))
    assert first.tolist() != second.tolist()
    together = sum(set(v.places[:, 0].tolist()) == set(v.places[:, 1].tolist()) for v in views)
    assert together == 0
    items = photos.items(0)
    assert all(int(v.items[n]) == items[int(v.places[n, 0])] for v in views for n in range(len(v)))


def test_processes_share_the_micro_batches_of_a_step(tmp_path: Path) -> None:
    photos = Photos(photo_rows.rows_of(tmp_path, 8), method(CropSpec(side=16)), params(batch_size=8), PLAIN)
    own = [[m.rows.tolist() for m in Sampler(photos, 3, Team(rank, 2))[0]] for rank in (0, 1)]
    whole = [m.rows.tolist() for m in Sampler(photos, 3, Team())[0]]
    assert [own[i % 2][i // 2] for i in range(4)] == whole
    assert len(Sampler(photos, 3, Team())) == 7


def test_a_photo_is_decoded_once_for_all_of_its_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = _views.read_photo_of
    monkeypatch.setattr(_views, "read_photo_of", lambda row, fill: read.append(row.id) or real(row, fill))
    specs = [CropSpec(side=16)] * 5
    rows = photo_rows.rows_of(tmp_path, 8)
    Photos(rows, method(*specs), params(batch_size=8, micro_batch=4), PLAIN).read(
        Photos(rows, method(*specs), params(batch_size=8, micro_batch=4), PLAIN).micro_batches(0)
    )
    assert sorted(read) == [row.id for row in rows]


def test_joint_geometry_and_segments(tmp_path: Path) -> None:
    def draw(params: Any, height: int, width: int, generator: np.random.Generator) -> list[tuple[float, ...]]:
        return [(0.0, 0.5, 0.0, 1.0), (0.5, 1.0, 0.0, 1.0)]

    spec = CropSpec(side=4, flip=1.0, light=DARK)
    grid = np.array([[1, 2], [3, 0]])
    photos = Photos(
        ramps(tmp_path), method(spec, spec, draw=draw), params(batch_size=2), PLAIN, segments=lambda image_id: grid
    )
    view = seen(photos, 0)[0]
    assert view.boxes[0].tolist() == [[0.0, 0.5, 0.0, 1.0], [0.5, 1.0, 0.0, 1.0]]
    assert view.segments is not None
    assert view.segments[0][0, 0].tolist() == [2, 2, 1, 1]
    assert view.segments[1][0, 0].tolist() == [0, 0, 3, 3]
    assert crop_segments(grid, (0, 1, 0, 1), False, 2).tolist() == grid.tolist()


def test_a_changed_photo_is_named(tmp_path: Path) -> None:
    rows = photo_rows.rows_of(tmp_path, 4)
    Path(rows[0].path).write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"p000\.png"):
        seen(Photos(rows, method(CropSpec(side=16)), params(), PLAIN), 0)


def test_light_changes_nothing_without_chance_and_is_seeded() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert np.array_equal(relight(picture, DARK, np.random.default_rng(0)), picture)
    strong = Light(jitter_chance=1.0, grey=0.0, blur=1.0, solarise=1.0)
    a, b = (relight(picture, strong, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, picture)
    grey = relight(picture, Light(jitter_chance=0, grey=1.0, blur=0), np.random.default_rng(0))
    assert np.array_equal(grey[..., 0], grey[..., 1])


def test_solarised_light_inverts_what_is_bright() -> None:
    picture = np.full((4, 4, 3), 200, np.uint8)
    light = Light(jitter_chance=0, grey=0, blur=0, solarise=1.0)
    assert relight(picture, light, np.random.default_rng(0)).tolist() == np.full((4, 4, 3), 55).tolist()
    assert relight(picture // 2, light, np.random.default_rng(0)).tolist() == (picture // 2).tolist()


@pytest.mark.parametrize("channels", [1, 5])
def test_light_of_other_channels_is_brightness_and_contrast(channels: int) -> None:
    picture = np.random.default_rng(0).integers(50, 200, (16, 16, channels), dtype=np.uint8)
    found = relight(picture, Light(jitter_chance=1.0, grey=1.0, blur=0.0), np.random.default_rng(1))
    assert found.shape == picture.shape
    assert found.dtype == np.uint8
    slope = np.polyfit(picture.ravel(), found.ravel(), 1)
    assert np.abs(np.polyval(slope, picture.ravel()) - found.ravel()).max() < 1.5  # one line for all channels


def test_the_middle_of_a_photo_is_a_square() -> None:
    y0, y1, x0, x1 = middle(np.zeros((60, 80, 3)))
    assert (y0, y1) == (0, 1)
    assert (x1 - x0) * 80 == pytest.approx(60)
    assert x0 + x1 == pytest.approx(1)
