"""Which images make codecs and codes anew: those of the sample that a codec is fitted on, read from a real manifest."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from maskmill.dag.asked import Asked
from maskmill.dag.files import Graph
from maskmill.dag.jobs import jobs, run_again
from maskmill.errors import StoreError
from maskmill.images.coded import contents_at, images_of
from maskmill.inputs._shards import shard_names
from maskmill.recipe.feature_set import ProductCode
from maskmill.recipe.resolve import load
from maskmill.store.artefact import write_table
from maskmill.store.manifest import contents, read_manifest, read_shards

ROOT = Path(__file__).parents[2]
CODE = ProductCode(images=8)
CONFIG = {
    "recipes": ["kmeans"],
    "features": {"semantic": {"dtype": "pq", "pq": {"images": CODE.images}}},
}
IMAGES = {f"im{i:03d}": 0 for i in range(60)}  # id -> a version of its content


def write(file: Path, images: dict[str, int], **changes: int) -> Path:
    """A manifest of images in shards of about ten, with a group of rows for every seven."""
    images = dict(sorted((images | changes).items()))
    digests = [
        hashlib.blake2b(f"{name} {version}".encode(), digest_size=8).hexdigest() for name, version in images.items()
    ]
    table = pa.table(
        {
            "id": list(images),
            "path": [f"/photos/{name}.png" for name in images],
            "width": [64] * len(images),
            "height": [64] * len(images),
            "shard": shard_names(list(images), digests, 10),
            "label": pa.nulls(len(images), pa.string()),
            "bytes": [1000] * len(images),
            "crc32c": [int(digest[:8], 16) for digest in digests],
        }
    )
    write_table(file, table, None, 7)
    return file


def graph(file: Path) -> Graph:
    def sample(code: ProductCode) -> str:
        return contents_at(str(file), file.stat().st_mtime_ns, code.images, code.seed)

    return Graph(load(CONFIG, ROOT / "recipes"), lambda: read_shards(file), sample=sample)


def again(before: Path, after: Path) -> tuple[int, set[str]]:
    """How many codecs are fitted again, and the shards that are coded again."""
    found = run_again(jobs(graph(before)), jobs(graph(after))).values()
    coded = {job.wildcards["shard"] for job in found if job.rule == "features"}
    return sum(job.rule == "features_pq" for job in found), coded


def drawn(file: Path) -> list[str]:
    return [row.id for row in images_of(file, CODE)]


def newcomer(file: Path, folder: Path, enters: bool) -> str:
    """An image that is in the sample of the others and itself, or is not."""
    for i in range(1000):
        name = f"new{i}"
        if (name in drawn(write(folder / "tried.parquet", IMAGES | {name: 0}))) == enters:
            return name
    raise AssertionError("none of a thousand")


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return write(tmp_path / "before.parquet", IMAGES)


def test_an_image_outside_the_sample_codes_its_shard_alone(before: Path, tmp_path: Path) -> None:
    name = newcomer(before, tmp_path, enters=False)
    after = write(tmp_path / "after.parquet", IMAGES | {name: 0})
    assert drawn(after) == drawn(before)
    new = set(read_shards(after)) - set(read_shards(before))
    assert 1 <= len(new) <= 2 < len(read_shards(before))
    assert again(before, after) == (0, new)
    assert name in {row.id for shard in new for row in read_manifest(after, shard).rows}
    assert asked(before) == asked(after)  # what was coded before is what is asked for now


def asked(file: Path) -> list[str]:
    shard = read_shards(file)[0]
    features = next(iter(graph(file).run.feature_sets))
    told = Asked(graph(file))
    return [
        told.of("features_pq", {"features": features}), told.of("features", {"features": features, "shard": shard})
    ]  # fmt: skip


def test_an_image_of_the_sample_codes_all_again(before: Path, tmp_path: Path) -> None:
    after = write(tmp_path / "after.parquet", IMAGES | {newcomer(before, tmp_path, enters=True): 0})
    assert len(set(drawn(after)) & set(drawn(before))) == CODE.images - 1
    assert again(before, after) == (1, set(read_shards(after)))
    assert not set(asked(before)) & set(asked(after))


def test_other_content_counts_where_it_is_sampled(before: Path, tmp_path: Path) -> None:
    inside, outside = drawn(before)[3], next(name for name in IMAGES if name not in drawn(before))
    after = write(tmp_path / "after.parquet", IMAGES, **{inside: 1})
    assert drawn(after) == drawn(before)
    assert again(before, after) == (1, set(read_shards(after)))
    other = write(tmp_path / "other.parquet", IMAGES, **{outside: 1})
    assert again(before, other) == (0, set(read_shards(other)) - set(read_shards(before)))


def test_an_image_that_leaves_the_sample_codes_all_again(before: Path, tmp_path: Path) -> None:
    left = {name: 0 for name in IMAGES if name != drawn(before)[0]}
    after = write(tmp_path / "after.parquet", left)
    assert again(before, after) == (1, set(read_shards(after)))


def test_other_places_and_sizes_of_shards_count_nothing(before: Path, tmp_path: Path) -> None:
    moved = read_manifest(before).rows
    table = pa.table(
        {
            "id": [row.id for row in moved],
            "path": [f"/elsewhere{row.path}" for row in moved],
            **{name: [getattr(row, name) for row in moved] for name in ("width", "height", "bytes", "crc32c")},
            "shard": ["s0000000000"] * len(moved),
            "label": ["/labels/a.png"] * len(moved),
        }
    )
    write_table(tmp_path / "after.parquet", table)
    assert again(before, tmp_path / "after.parquet") == (0, {"s0000000000"})


def test_the_sample_is_read_again_only_from_another_manifest(before: Path) -> None:
    first = graph(before).sample(CODE)
    mtime = before.stat().st_mtime_ns
    before.unlink()
    assert contents_at(str(before), mtime, CODE.images, CODE.seed) == first
    with pytest.raises(StoreError, match=r"before\.parquet: no such table"):
        contents_at(str(before), mtime + 1, CODE.images, CODE.seed)


def test_what_counts_of_an_image_is_its_id_its_content_and_how_it_is_read(before: Path) -> None:
    rows = images_of(before, CODE)
    known = contents(rows)
    assert contents([replace(row, path="/x", shard="s1", label="/l", label_digest="1") for row in rows]) == known
    for change in ({"id": "x"}, {"bytes": 1}, {"crc32c": 1}, {"view": '{"high":[4095.0]}'}):
        assert contents([replace(rows[0], **change), *rows[1:]]) != known
