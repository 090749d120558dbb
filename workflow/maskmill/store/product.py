"""Product-quantised vectors: the codec that a store of codes carries, and how codes become vectors again.

A vector of length d is cut, after a rotation, into `bytes` parts of equal length, and each part is stored as the number
of the nearest of 256 centroids: one byte (Jegou, Douze, Schmid, Product quantization for nearest neighbor search, PAMI
2011). `maskmill.numerics.product` fits a codec and encodes; reading needs no more than what is here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from maskmill.errors import StoreError
from maskmill.store.artefact import read_tensors, write_tensors
from maskmill.store.provenance import Provenance

LETTERS = 256  # centroids of a part, the values of a byte


@dataclass(frozen=True)
class Codec:
    """What a code means.

    Attributes:
        rotation: [d, d] float32, orthonormal; row i is the direction of the i-th number of a rotated vector, and the
            numbers of one part lie side by side. The identity where nothing is rotated.
        centroids: [bytes, 256, d / bytes] float32 of the parts of rotated vectors. A part that takes fewer values in
            the fit has fewer centroids; the last one fills the rest, which no code names.
    """

    rotation: np.ndarray
    centroids: np.ndarray

    @property
    def depth(self) -> int:
        """Length d of a vector."""
        return len(self.rotation)

    @property
    def bytes(self) -> int:
        """Bytes of a code."""
        return len(self.centroids)

    @cached_property
    def digest(self) -> str:
        """32 hex digits of what a code means."""
        total = hashlib.blake2b(digest_size=16)
        for array in (self.rotation, self.centroids):
            total.update(f"{array.shape}\0".encode() + np.ascontiguousarray(array, "<f4").tobytes())
        return total.hexdigest()

    @cached_property
    def table(self) -> np.ndarray:
        """What each byte adds to a vector, [bytes, 256, d] float32: its centroid, rotated back."""
        from maskmill.store import _lookup

        directions = self.rotation.reshape(self.bytes, -1, self.depth).astype(np.float64)
        table = np.empty((self.bytes, LETTERS, self.depth), np.float32)
        _lookup.rotate_back(self.centroids.astype(np.float64), directions, table)
        return table

    @cached_property
    def squares(self) -> np.ndarray:
        """The squared length that each byte adds to that of a vector, [bytes, 256] float64: parts are orthogonal."""
        return np.square(self.centroids.astype(np.float64)).sum(axis=2)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes [n, bytes] uint8 -> vectors [n, d] float32: the sum of a row of `table` for each byte.

        A vector depends on its own code alone, to the last bit: the sum is taken byte after byte.
        """
        from maskmill.store import _lookup

        vectors = np.empty((len(codes), self.depth), np.float32)
        _lookup.sum_rows(np.ascontiguousarray(codes), self.table, vectors)
        return vectors

    def tensors(self) -> dict[str, np.ndarray]:
        """The arrays, by the names that they have in a store or a file."""
        return {"rotation": self.rotation, "centroids": self.centroids}


_known: dict[str, Codec] = {}  # by digest: the stores of a run share one


def shared(codec: Codec) -> Codec:
    """The codec that this process already has where it is the same one, so that its table is made once."""
    return _known.setdefault(codec.digest, codec)


def known(digest: str) -> Codec | None:
    """The codec of a digest, where this process has read it."""
    return _known.get(digest)


def of_tensors(tensors: Mapping[str, np.ndarray], where: str | Path) -> Codec:
    """The codec of `Codec.tensors`; other arrays are a StoreError that names `where`."""
    try:
        rotation, centroids = tensors["rotation"], tensors["centroids"]
        parts, letters, length = centroids.shape
        fits = rotation.shape == (parts * length, parts * length) and letters == LETTERS
        if not fits or rotation.dtype != np.float32 or centroids.dtype != np.float32:
            raise ValueError(f"shapes {rotation.shape} and {centroids.shape}")
    except (KeyError, ValueError) as error:
        said = f"{where}: no codec of product-quantised tokens ({error}); delete it and run snakemake again"
        raise StoreError(said) from None
    return shared(Codec(rotation, centroids))


def write(path: str | Path, codec: Codec, facts: Mapping[str, np.ndarray], made: Provenance) -> None:
    """Write a codec as safetensors, with numbers of its fit beside it."""
    write_tensors(path, codec.tensors() | dict(facts), made)


def read(path: str | Path) -> tuple[Codec, dict[str, Any]]:
    """A codec of `write` and what made it; a file that is none, or a damaged one, is a StoreError."""
    tensors, provenance = read_tensors(path)
    return of_tensors(tensors, path), provenance
