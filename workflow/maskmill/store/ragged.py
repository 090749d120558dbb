"""The ragged Zarr v3 store: images of different grids in one flat array.

Layout of `<shard>.zarr` (one Zarr group, written by one job, renamed into place when complete):

    values   [sum(h*w)] or [sum(h*w), d]   tokens, segments, masks, or vectors (then grid = [r, 1])
    scale    [sum(h*w)] float32            only with int8: values = round(x / scale), scale = max|x| / 127
    rotation, centroids                    only with product-quantised vectors, whose values are codes [sum(h*w), bytes]
                                           uint8 (maskmill.store.product); readers see the vectors
    offsets  [n + 1] int64                 image i owns rows offsets[i]:offsets[i + 1]
    grid     [n, 2] int32                  (h, w) of image i
    <name>   [n, ...]                      anything stored once an image (cls, lambda_2, ...)
    valid    [sum(h*w)] bool               only where a cell is not: false for cells that show no data of their file

The group's attributes hold `kind`, the image ids in order, their parents where one is cut from a file, free metadata,
the provenance, a seal of each array (maskmill.store.seal), and a checksum of all of these. Whoever opens a store
compares them with the files, so every array is whole and the one that was written, or there is a StoreError. What else
lies in the folder is never read. Read it with `Ragged`, write it with `RaggedWriter`, or open `values` with
`dask.array.from_zarr`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from maskmill.errors import StoreError
from maskmill.store import expected, product
from maskmill.store.atomic import atomic
from maskmill.store.floats import decoded_rows, encoded_rows
from maskmill.store.provenance import Provenance
from maskmill.store.seal import METADATA, check_array, fits_checksum, seal_array, with_checksum

FORMAT = "maskmill-ragged-2"
OLDER = ("maskmill-ragged-1",)  # whose arrays have no seals
CHUNK_BYTES = 4 << 20  # inner chunk, the unit of a random read: about five images of ViT-S tokens (docs/store.md)
SHARD_BYTES = 64 << 20  # outer shard = one file = the writer's buffer


class RaggedWriter:
    """Write one ragged store, image by image, with memory bounded by one zarr shard (64 MiB).

    >>> with RaggedWriter(path, "features", depth=384, provenance=prov) as out:
    ...     out.append("cat/001", tokens, cls=cls)      # tokens [h, w, d], cls [d]

    Args:
        depth: length d of a value's vector, or None for one scalar a cell.
        dtype: stored type; "int8" with a depth stores float vectors as int8 with a scale a row. A product-quantised
            codec stores vectors as its codes, and `append` takes codes [h, w, bytes] uint8.
        compress: zstd for values that compress (labels); float features do not.
        attrs: free JSON metadata of the store, returned as `Ragged.attrs`.
    """

    def __init__(
        self,
        path: str | Path,
        kind: str,
        *,
        depth: int | None = None,
        dtype: str | product.Codec = "float16",
        compress: bool | None = None,
        attrs: Mapping[str, Any] | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        self.codec = dtype if isinstance(dtype, product.Codec) else None
        if isinstance(dtype, product.Codec):
            depth, dtype = dtype.bytes, "uint8"
        self.path, self.kind, self.depth, self.dtype = Path(path), kind, depth, np.dtype(dtype)
        self.quantised = self.dtype == np.int8 and depth is not None
        self.compress = depth is None if compress is None else compress
        self.attrs, self.provenance = dict(attrs or {}), provenance
        self.ids: list[str] = []
        self._parents: list[str | None] = []
        self._grid: list[tuple[int, int]] = []
        self._extra: dict[str, list[np.ndarray]] = {}
        self._valid: dict[int, np.ndarray] = {}  # place of an image -> its cells, where some are not valid
        self._pending: list[np.ndarray] = []
        self._scales: list[np.ndarray] = []
        self._rows_pending = self._rows_written = 0
        row_bytes = self.dtype.itemsize * (depth or 1)
        # A chunk of codes has as many rows as one of float16: that is what its reader has to hold.
        self._chunk = max(1, CHUNK_BYTES // (row_bytes if self.codec is None else 2 * self.codec.depth))
        self._shard = self._chunk * max(1, SHARD_BYTES // (self._chunk * row_bytes))
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> RaggedWriter:
        with self._stack:  # closed again where the disk refuses the first file
            root = self._stack.enter_context(atomic(self.path))
            self._create(root)
            self._stack = self._stack.pop_all()
        return self

    def _create(self, root: Path) -> None:
        """A group with an empty array of values in a new folder."""
        self._root = root
        self._group = zarr.open_group(str(self._root), mode="w", zarr_format=3)
        shape = (0,) if self.depth is None else (0, self.depth)
        tail = () if self.depth is None else (self.depth,)
        self._values = self._group.create_array(
            "values",
            shape=shape,
            chunks=(self._chunk, *tail),
            shards=(self._shard, *tail),
            dtype=self.dtype,
            compressors=[ZstdCodec(level=3), Crc32cCodec()] if self.compress else [Crc32cCodec()],
            fill_value=0,
            config={"write_empty_chunks": True},
        )

    def append(
        self,
        image_id: str,
        values: np.ndarray,
        *,
        valid: np.ndarray | None = None,
        parent: str | None = None,
        **per_image: Any,
    ) -> None:
        """Add one image: values [h, w] or [h, w, d]; keywords are stored once an image, same names for all.

        Args:
            valid: bool [h, w], which cells show data; None where all do.
            parent: id of the image that it is a window, a page or a composite of; None of others.

        Raises:
            NumericsError: a value is NaN or infinite, or overflows float16.
            ValueError: the shape does not fit the store.
        """
        expected = 2 if self.depth is None else 3
        if values.ndim != expected or (self.depth is not None and values.shape[2] != self.depth):
            raise ValueError(f"{image_id}: values of shape {values.shape} in a store of depth {self.depth}")
        if self.ids and set(per_image) != set(self._extra):
            raise ValueError(f"{image_id}: per-image fields {sorted(per_image)} differ from {sorted(self._extra)}")
        h, w = values.shape[:2]
        if valid is not None and not valid.all():
            if valid.shape != (h, w):
                raise ValueError(f"{image_id}: valid of shape {valid.shape}, values of {values.shape}")
            self._valid[len(self.ids)] = valid.astype(bool)
        rows = values.reshape(h * w, *values.shape[2:])  # [h*w] or [h*w, d]
        self._pending.append(self._encode(image_id, rows))
        self._rows_pending += h * w
        self.ids.append(image_id)
        self._parents.append(parent)
        self._grid.append((h, w))
        for name, value in per_image.items():
            self._extra.setdefault(name, []).append(np.asarray(value))
        if self._rows_pending >= self._shard:
            self._flush(final=False)

    def _encode(self, image_id: str, rows: np.ndarray) -> np.ndarray:
        """Rows in the stored type, always a copy of the caller's memory."""
        if not np.issubdtype(rows.dtype, np.floating):
            return rows.astype(self.dtype)
        encoded, scale = encoded_rows(rows, self.dtype, self.quantised, f"{image_id}: ", f" for {self.path.name}")
        if scale is not None:
            self._scales.append(scale)
        return encoded

    def _flush(self, *, final: bool) -> None:
        """Write whole zarr shards (all rows when final), so that no shard file is written twice."""
        rows = np.concatenate(self._pending) if self._pending else np.zeros((0, *self._values.shape[1:]), self.dtype)
        count = len(rows) if final else len(rows) // self._shard * self._shard
        if count:
            start = self._rows_written
            self._values.resize((start + count, *self._values.shape[1:]))
            self._values[start : start + count] = rows[:count]
            self._rows_written += count
        self._pending, self._rows_pending = [rows[count:].copy()], len(rows) - count

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if error is None:
            try:
                self._finish()
            except BaseException as late:
                self._stack.__exit__(type(late), late, late.__traceback__)
                raise
        return self._stack.__exit__(kind, error, trace)

    def _finish(self) -> None:
        self._flush(final=True)
        counts = np.array([h * w for h, w in self._grid], dtype=np.int64)
        arrays: dict[str, np.ndarray] = {
            "offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            "grid": np.array(self._grid, dtype=np.int32).reshape(-1, 2),
            **{name: np.stack(values) for name, values in self._extra.items()},
        }
        if self.quantised:
            arrays["scale"] = np.concatenate(self._scales) if self._scales else np.zeros(0, np.float32)
        if self.codec is not None:
            arrays |= self.codec.tensors()
        if self._valid:
            cells = [self._valid.get(i, np.ones(count, bool)).ravel() for i, count in enumerate(counts)]
            arrays["valid"] = np.concatenate(cells)
        for name, array in arrays.items():
            chunks = tuple(max(1, side) for side in array.shape)
            target = self._group.create_array(
                name,
                shape=array.shape,
                chunks=chunks,
                dtype=array.dtype,
                compressors=[ZstdCodec(), Crc32cCodec()],
                config={"write_empty_chunks": True},
            )
            if array.size:
                target[...] = array
        about = {
            "format": FORMAT,
            "kind": self.kind,
            "ids": self.ids,
            "per_image": sorted(self._extra),
            "rows": self._rows_written,
            "attrs": self.attrs,
            "provenance": self.provenance.as_dict() if self.provenance else {},
            "arrays": {name: seal_array(self._root / name) for name in ("values", *sorted(arrays))},
        } | ({} if self.codec is None else {"codec": self.codec.digest})
        if any(self._parents):
            about["parents"] = self._parents
        self._group.attrs.update(with_checksum(about))


def _attributes(path: Path) -> dict[str, Any]:
    """The attributes of a store of this format.

    Raises:
        StoreError: a store of another format. OSError, ValueError, LookupError, TypeError: no or damaged metadata.
    """
    meta: dict[str, Any] = json.loads((path / METADATA).read_bytes())["attributes"]
    found = meta.get("format")
    if found in OLDER:
        raise StoreError(f"{path}: written by an older maskmill (format {found!r}); run snakemake again")
    if found != FORMAT:
        raise StoreError(f"{path}: not a maskmill store (format {found!r}, expected {FORMAT!r}); delete it and run "
                         "snakemake again")  # fmt: skip
    return meta


class Ragged:
    """Read one ragged store.

    `store[i]` or `store["cat/001"]` gives [h, w] or [h, w, d]; `store.rows(a, b)` gives flat rows; both decode int8 and
    product-quantised vectors.

    Attributes:
        ids: image ids in order. offsets: [n + 1] int64. grid: [n, 2] int32 (h, w).
        attrs: free metadata. provenance: what made it. values: the raw Zarr array.
        per_image_names: names of the fields stored once an image. codec: of product-quantised vectors, else None.

    Raises:
        StoreError: absent, truncated, foreign, or of another kind; the message names the file and the way out.
    """

    def __init__(self, path: str | Path, kind: str | None = None) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise StoreError(f"{path}: no such store; run snakemake to make it")
        try:
            meta = _attributes(self.path)
            self._seals: dict[str, Any] = self._checked_seals(meta)
            self.kind: str = str(meta["kind"])
            self.ids: list[str] = list(meta["ids"])
            self.attrs: dict[str, Any] = dict(meta["attrs"])
            self.provenance: dict[str, Any] = dict(meta["provenance"])
            self._parents: list[str | None] = list(meta.get("parents", ()))
            self.per_image_names: list[str] = list(meta["per_image"])
            self.values: zarr.Array = self._array("values")
            self.offsets: np.ndarray = self._whole("offsets")
            self.grid: np.ndarray = self._whole("grid")
            self._scale = self._whole("scale") if "scale" in self._seals else None
            self.codec = self._codec(meta["codec"]) if "codec" in meta else None
        except StoreError:
            raise
        except Exception as error:  # zarr raises many kinds for broken files; all mean the same to a reader
            raise self._broken(error) from error
        if len(self.ids) != len(self.grid) or self.values.shape[0] != self.offsets[-1]:
            raise self._broken(f"{self.values.shape[0]} rows, {self.offsets[-1]} expected")
        expected.check(self.path, self.provenance)
        if kind is not None and kind != self.kind:
            raise StoreError(f"{path}: holds {self.kind!r}, expected {kind!r}; check the path")
        self._index = {image_id: i for i, image_id in enumerate(self.ids)}

    def _checked_seals(self, meta: dict[str, Any]) -> dict[str, Any]:
        """The seals of the attributes, which are whole; all arrays fit theirs."""
        if not fits_checksum(meta):
            raise self._broken("the checksum of its attributes does not fit")
        for name, seal in meta["arrays"].items():
            check_array(self.path / name, seal)
        return dict(meta["arrays"])

    def _array(self, name: str) -> zarr.Array:
        return zarr.open_array(str(self.path / name), mode="r", zarr_format=3)

    def _whole(self, name: str) -> np.ndarray:
        """All of an array; any error is a StoreError that names it."""
        try:
            found = np.asarray(self._array(name)[...])
            check_array(self.path / name, self._seals[name])  # a file deleted since it was opened reads as zeros
        except Exception as error:
            raise self._broken(f"{name}: {error}") from error
        return found

    def _codec(self, digest: str) -> product.Codec:
        """What the codes of this store mean; it is read once for all stores that share it."""
        found = product.known(digest)
        if found is None:
            found = product.of_tensors({name: self._whole(name) for name in ("rotation", "centroids")}, self.path)
        if found.digest != digest or self.values.shape[1:] != (found.bytes,):
            raise self._broken("its codec is not the one of its codes")
        return found

    def _broken(self, reason: object) -> StoreError:
        said = " ".join(str(reason).split())
        return StoreError(f"{self.path}: truncated or damaged store ({said}); delete it and run snakemake again")

    @property
    def hash(self) -> str:
        """Hash of what made this store."""
        return str(self.provenance.get("hash", ""))

    @property
    def depth(self) -> int | None:
        """Length of a value's vector, None for scalars."""
        if self.codec is not None:
            return self.codec.depth
        return self.values.shape[1] if self.values.ndim == 2 else None

    def parent(self, i: int) -> str | None:
        """Id of the image that image `i` is a window, a page or a composite of; None of others."""
        return self._parents[i] if self._parents else None

    def owner(self, i: int) -> str:
        """Id of the image that image `i` is of: its parent, or its own."""
        return self.parent(i) or self.ids[i]

    @cached_property
    def valid_rows(self) -> np.ndarray | None:
        """Which rows show data, bool [rows]; None where all do."""
        return self._whole("valid") if "valid" in self._seals else None

    def valid(self, image: int | str) -> np.ndarray | None:
        """Which cells of an image show data, bool [h, w]; None where all do."""
        rows, i = self.valid_rows, self.index(image) if isinstance(image, str) else image
        if rows is None:
            return None
        h, w = (int(side) for side in self.grid[i])
        found = rows[self.offsets[i] : self.offsets[i + 1]].reshape(h, w)
        return None if found.all() else found

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._index

    def index(self, image_id: str) -> int:
        """Position of an image id in this store."""
        try:
            return self._index[image_id]
        except KeyError:
            raise StoreError(f"{self.path}: holds no image {image_id!r}") from None

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Flat rows start:stop, [m] or [m, d]; int8 and product-quantised vectors come back as float32."""
        raw = self._read(start, stop)
        if self.codec is not None:
            return self.codec.decode(raw)
        return decoded_rows(raw, None if self._scale is None else self._scale[start:stop])

    def stored(self, start: int, stop: int) -> np.ndarray:
        """Flat rows start:stop as they are stored: int8 without their scale, codes [m, bytes] uint8."""
        return self._read(start, stop)

    def _read(self, start: int, stop: int) -> np.ndarray:
        try:
            raw = np.asarray(self.values[start:stop])
        except Exception as error:  # checksum, missing chunk, truncated file
            raise self._broken(f"values: {error}") from error
        self._check_present(start, stop)
        return raw

    def _check_present(self, start: int, stop: int) -> None:
        """The files that were just read are there: one that was deleted since the store was opened reads as zeros."""
        step = (self.values.shards or self.values.chunks)[0]
        tail = "/0" * (self.values.ndim - 1)
        for i in range(start // step, -(-min(stop, self.values.shape[0]) // step)):
            if not (self.path / f"values/c/{i}{tail}").is_file():
                raise self._broken(f"values/c/{i}{tail} was deleted while it was read")

    def __getitem__(self, image: int | str) -> np.ndarray:
        """Values of one image, [h, w] or [h, w, d]."""
        i = self.index(image) if isinstance(image, str) else image
        h, w = (int(side) for side in self.grid[i])
        rows = self.rows(int(self.offsets[i]), int(self.offsets[i + 1]))
        return rows.reshape(h, w, *rows.shape[1:])

    def images(self) -> Iterator[tuple[str, np.ndarray]]:
        """(id, values) of every image, in order, as `store[i]` gives them; about one chunk is read at a time.

        A chunk holds hundreds of masks: image by image, it would be decoded hundreds of times.
        """
        done, held, begin = 0, self.rows(0, 0), 0  # images given, rows that wait for more, the first of these
        for start, part in self.chunks(self.values.chunks[0]):  # whole chunks: none is decoded twice
            held = np.concatenate([held, part]) if len(held) else part
            end = start + len(part)
            while done < len(self) and int(self.offsets[done + 1]) <= end:
                first, last = (int(row) - begin for row in self.offsets[done : done + 2])
                h, w = (int(side) for side in self.grid[done])
                yield self.ids[done], held[first:last].reshape(h, w, *held.shape[1:])
                done += 1
            held, begin = held[int(self.offsets[done]) - begin :], int(self.offsets[done])
        for i in range(done, len(self)):  # a store whose images are all empty has no chunk
            yield self.ids[i], held.reshape(*(int(side) for side in self.grid[i]), *held.shape[1:])

    def per_image(self, name: str) -> np.ndarray:
        """A field stored once an image, [n, ...]."""
        if name not in self.per_image_names:
            raise StoreError(f"{self.path}: has no per-image field {name!r}")
        return self._whole(name)

    def chunks(self, rows: int = 65536) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, values) in blocks of about `rows` rows, aligned to whole zarr chunks."""
        step = max(1, rows // self.values.chunks[0]) * self.values.chunks[0]
        for start in range(0, self.values.shape[0], step):
            yield start, self.rows(start, min(start + step, self.values.shape[0]))

    def dask(self) -> Any:
        """The raw values as `dask.array`, one block a zarr shard."""
        import dask.array as da

        return da.from_zarr(self.values, chunks=self.values.shards or self.values.chunks)
