"""Sampling: an even quota, never too many, and the same rows for any split into shards."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from maskmill.numerics.blocks import by_id, ordered
from maskmill.numerics.sampling import rng, sample_rows, smallest
from maskmill.store.manifest import owner, window_id
from maskmill.store.ragged import Ragged, RaggedWriter


def store(path: Path, images: dict[str, int]) -> Ragged:
    """Row r of an image holds (number of the image, r)."""
    with RaggedWriter(path, "vectors", depth=2, dtype="float32") as out:
        for image_id, rows in images.items():
            x = np.stack([np.full(rows, int(image_id)), np.arange(rows)], axis=1).astype("f4")
            out.append(image_id, x[:, None])
    return Ragged(path)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(8, 40), st.integers(0, 3), st.randoms())
def test_quota_is_even_and_shards_do_not_matter(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], limit: int, seed: int, random: object
) -> None:
    folder = tmp_path_factory.mktemp("s")
    images = {str(i): n for i, n in enumerate(sizes)}
    names = list(images)
    random.shuffle(names)  # type: ignore[attr-defined]
    whole = sample_rows([store(folder / "w.zarr", images)], limit, seed)
    half = len(names) // 2
    split = [
        store(folder / f"{i}.zarr", {k: images[k] for k in part}) for i, part in enumerate((names[:half], names[half:]))
    ]
    np.testing.assert_array_equal(whole, sample_rows(split, limit, seed))
    assert len(whole) <= limit
    taken = np.array([(whole[:, 0] == i).sum() for i in range(len(sizes))])
    assert len(np.unique(whole, axis=0)) == len(whole)
    if sum(sizes) <= limit:
        np.testing.assert_array_equal(taken, sizes)
    else:
        quota = taken.max()
        np.testing.assert_array_equal(taken, np.minimum(sizes, quota))
        assert np.minimum(sizes, quota + 1).sum() > limit  # no larger quota fits
    whole_blocks = np.concatenate([np.zeros((0, 2)), *by_id(split, 5)])
    np.testing.assert_array_equal(whole_blocks, sample_rows(split, 10_000, 0))
    assert all(len(block) == 5 for block in list(by_id(split, 5))[:-1])


def test_more_images_than_points(tmp_path: Path) -> None:
    """Then as many images as points give a row each, wherever their ids are, and shards do not matter."""
    images = {f"{i:03d}": 3 * (i % 4 > 0) for i in range(200)}  # every fourth image has no rows
    names = list(images)
    whole = [store(tmp_path / "w.zarr", images)]
    split = [
        store(tmp_path / "a.zarr", {k: images[k] for k in names[1::2]}),
        store(tmp_path / "b.zarr", {k: images[k] for k in names[::2]}),
    ]
    found = sample_rows(whole, 10, 0)  # few of many: read image by image
    assert found.shape == (10, 2)
    np.testing.assert_array_equal(found, sample_rows(split, 10, 0))
    assert len(np.unique(found[:, 0])) == 10
    assert (np.diff(found[:, 0]) > 0).all()  # in the order of the ids
    assert not (found[:, 0] % 4 == 0).any()
    assert found[:, 0].max() > 100  # not the first ids
    assert not np.array_equal(found, sample_rows(whole, 10, 1))
    many = sample_rows(whole, 150, 0)  # fewer images have rows than may give one
    assert len(many) == 150
    np.testing.assert_array_equal(many, sample_rows(split, 150, 0))


def windows(name: str, sizes: dict[tuple[int, int], int]) -> dict[str, int]:
    return {window_id(name, *place): rows for place, rows in sizes.items()}


def numbered(path: Path, images: dict[str, int], numbers: dict[str, int]) -> Ragged:
    """As `store`, for images that have names."""
    with RaggedWriter(path, "vectors", depth=2, dtype="float32") as out:
        for image_id, rows in images.items():
            x = np.stack([np.full(rows, numbers[image_id]), np.arange(rows)], axis=1).astype("f4")
            out.append(image_id, x[:, None])
    return Ragged(path)


def test_windows_of_an_image_share_its_quota_and_are_drawn_from_by_area(tmp_path: Path) -> None:
    slide = windows("slide", {(y, x): 50 for y in range(0, 1000, 100) for x in range(0, 1000, 100)})  # 5000 rows
    images = slide | {f"photo{i}": 40 for i in range(20)} | windows("other", {(0, 0): 30, (0, 9): 90})
    numbers = {image_id: i for i, image_id in enumerate(sorted(images))}
    whole = [numbered(tmp_path / "w.zarr", images, numbers)]
    split = [numbered(tmp_path / f"{i}.zarr", {k: images[k] for k in sorted(images)[i::3]}, numbers) for i in (2, 0, 1)]
    of_slide = [numbers[image_id] for image_id in slide]

    def taken(limit: int) -> tuple[int, int, int]:
        rows = sample_rows(whole, limit, 3)
        np.testing.assert_array_equal(rows, sample_rows(split, limit, 3))
        assert len(np.unique(rows, axis=0)) == len(rows)
        photos = [numbers[f"photo{i}"] for i in range(20)]
        return len(rows), int(np.isin(rows[:, 0], of_slide).sum()), int(np.isin(rows[:, 0], photos).sum())

    assert taken(10**6) == (800 + 120 + 920, 920, 800)  # the slide gives no more than all others together
    total, slides, photos = taken(700)  # and one image's quota where not all fit
    assert total <= 700
    assert slides <= 700 // 22 + 1
    assert photos == 20 * slides
    even = np.bincount(sample_rows(whole, 10**6, 3)[:, 0].astype(int))[of_slide]
    assert even.min() > 0  # 9.2 of 50 rows a window on average
    assert even.max() < 25


def test_one_large_image_alone_gives_all_it_has(tmp_path: Path) -> None:
    slide = windows("a/slide", {(0, 0): 5, (0, 8): 0, (8, 0): 7, (8, 8): 3})
    found = numbered(tmp_path / "w.zarr", slide, {image_id: i for i, image_id in enumerate(slide)})
    assert len(sample_rows([found], 100, 0)) == 15
    assert len(sample_rows([found], 6, 0)) == 6


def test_names_that_only_look_like_windows_are_images() -> None:
    assert owner(window_id("a/b", 512, 1024)) == "a/b"
    for name in ("a", "a/y12x13", "y0000512x0001024", "a/y0000512x0001024/b", "a/y0000512x0001024.png"):
        assert owner(name) == name


def test_seed_changes_the_draw_and_keys_do_not_run_together() -> None:
    assert rng(0, "a").integers(1 << 60) == rng(0, "a").integers(1 << 60)
    assert rng(0, "a").integers(1 << 60) != rng(1, "a").integers(1 << 60)
    assert rng(0, "a", "b").integers(1 << 60) != rng(0, "ab").integers(1 << 60)


def test_ordered_keeps_order_and_raises() -> None:
    assert list(ordered(lambda i: i * i, range(50), 3)) == [i * i for i in range(50)]

    def fail(i: int) -> int:
        raise ValueError(str(i))

    with pytest.raises(ValueError, match="0"):
        list(ordered(fail, range(5), 2))


def test_the_images_of_a_draw_are_those_with_the_smallest_hashes() -> None:
    """Of few among many, whatever their order and whatever others come."""
    ids = ["", "\u00e9/a.png", *(f"{'x' * (i % 300)}/{i}" for i in range(2000))]

    def order(image_id: str) -> bytes:
        return hashlib.blake2b(b"7\0image\0" + image_id.encode(), digest_size=8).digest()

    expected = sorted(ids, key=order)[:25]
    places = smallest(iter(ids), 25, 7)
    assert places == sorted(places)
    assert {ids[i] for i in places} == set(expected)
    assert {ids[::-1][i] for i in smallest(ids[::-1], 25, 7)} == set(expected)
    assert smallest(ids[:3], 25, 7) == [0, 1, 2]
