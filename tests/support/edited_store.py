"""Stores with values that no writer would accept, under seals that fit them."""

from __future__ import annotations

from pathlib import Path

import zarr

from maskmill.store.seal import seal_array, with_checksum


def set_row(path: Path, row: int, value: float) -> None:
    """Set one row of `values`, and seal the store anew."""
    group = zarr.open_group(str(path), mode="r+")
    group["values"][row] = value  # type: ignore[index]
    about = dict(group.attrs)
    about["arrays"] = {name: seal_array(path / name) for name in about["arrays"]}  # type: ignore[union-attr]
    group.attrs.update(with_checksum(about))
