"""Which depth map belongs to which image, and whether it can be read."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from maskmill.errors import InputError
from maskmill.images.depth import DEPTH_SUFFIXES, depth_facts
from maskmill.images.stems import match_stems
from maskmill.inputs._check import in_processes
from maskmill.progress import track

COLUMNS = ("depth", "depth_digest")  # of a manifest with depth maps


def with_depth(good: pa.Table, folder: str, threads: int) -> pa.Table:
    """A table of images with the columns `depth`, the file of each, and `depth_digest`, a digest of its bytes.

    Files belong to images as labels do: by the relative path but for the suffix, or by a bare stem of which there is
    one only.

    Raises:
        InputError: an image of several pictures; no such folder; an image without a map; an unusable map,
            or one of another shape than the photo as displayed (`maskmill.images.depth.check_shape`).
    """
    if pc.any(pc.not_equal(good["name"], "")).as_py():
        raise InputError(
            "inputs.depth: depth maps are those of whole images, and inputs.pages: all makes several pictures of one; "
            "drop inputs.pages, or inputs.depth"
        )
    sources = [os.fsdecode(each) for each in good["source"].to_pylist()]
    stems = dict(zip(sources, (os.fsdecode(each) for each in good["stem"].to_pylist()), strict=True))
    found = match_stems(stems, Path(folder), "inputs.depth", "depth map", DEPTH_SUFFIXES)
    if len(missing := [source for source in sources if source not in found]):
        raise InputError(
            f"inputs.depth: {len(missing)} of {len(sources)} images have no depth map in {folder!r}, the first is "
            f"{missing[0]!r}; add a file of its name ({', '.join(DEPTH_SUFFIXES)}), or drop inputs.depth"
        )
    files = [found[source] for source in sources]
    shapes = zip(good["height"].to_pylist(), good["width"].to_pylist(), strict=True)
    wanted, digests = list(zip(files, shapes, strict=True)), []
    for digest, reason in track(in_processes(depth_facts, wanted, threads), len(files), "inputs: depth"):
        if reason:
            raise InputError(f"{reason}, or drop inputs.depth")
        digests.append(digest)
    for name, column in zip(COLUMNS, (files, digests), strict=True):
        good = good.append_column(name, pa.array(column, pa.large_string()))
    return good
