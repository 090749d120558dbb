"""Which images the codec of `dtype: pq` is fitted on: asked by the job that fits it, and before that by the plan."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from maskmill.recipe.feature_set import ProductCode
from maskmill.store.manifest import Row, contents, read_images


def images_of(manifest: str | Path, code: ProductCode) -> list[Row]:
    """The images of the manifest, whatever their shards, whose hashes of (seed, id) are the smallest, sorted by id.

    So an image that comes is one of them with the probability `code.images` over the number of images, and leaves all
    but one of the others in place. Raises StoreError where the manifest is missing, damaged or foreign.
    """
    from maskmill.numerics.sampling import smallest

    return read_images(manifest, lambda ids: smallest(ids, code.images, code.seed))


@lru_cache(maxsize=16)
def contents_at(manifest: str, mtime_ns: int, images: int, seed: int) -> str:
    """The hash of their ids and contents; read once for each time that the manifest was written."""
    return contents(images_of(manifest, ProductCode(images=images, seed=seed)))
