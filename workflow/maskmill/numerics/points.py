"""Points made ready for k-means: float32, checked, centred or of unit length, in memory or as a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from maskmill.errors import NumericsError
from maskmill.numerics.blocks import ordered
from maskmill.store.product import Codec
from maskmill.store.ragged import Ragged
from maskmill.store.valid import all_valid_only

BLOCK = 16384  # rows prepared at once
MEMORY_BYTES = 8 << 30  # vectors beyond this are streamed from disk, once an iteration
STREAM_ROWS = 65536  # rows a block of that stream
Blocks = Callable[[], Iterator[np.ndarray]]
Source = np.ndarray | Blocks
"""Points [n, d] of floats in memory, or a function that returns an iterator over blocks [b, d] of them.

The blocks must come in the same order each time.
"""


@dataclass(frozen=True)
class Frame:
    """How raw points become prepared ones: to unit length, or (x - shift) / scale.

    Squared distances come from |x|^2 - 2 x c + |c|^2 in float32; centring and scaling keep the loss
    of digits in that difference small.
    """

    spherical: bool
    shift: np.ndarray  # [d] float32
    scale: float

    def ready(self, block: np.ndarray) -> np.ndarray:
        """Prepared copy [b, d] float32 of a raw block; a vector of zeros stays zero."""
        x = np.array(block, dtype=np.float32, order="C")
        if self.spherical:
            norms = np.sqrt(np.einsum("ij,ij->i", x, x, dtype=np.float64))
            x /= np.maximum(norms, np.finfo(np.float32).tiny).astype(np.float32)[:, None]
        else:
            x -= self.shift
            x *= np.float32(1 / self.scale)
        return x

    def restore(self, centroids: np.ndarray) -> np.ndarray:
        """Prepared centroids [k, d] float64 in the space of the raw points."""
        return centroids if self.spherical else centroids * self.scale + self.shift

    def inertia(self, value: float) -> float:
        """Sum of squared prepared distances as the sum of the codebook's distances (half a squared chord: 1 - cos)."""
        return value / 2 if self.spherical else value * self.scale**2


@dataclass(frozen=True)
class PreparedPoints:
    """Prepared points: `blocks()` yields them [b, d] in order; `array` is all of them where they are in memory.

    count: n. energy: sum of squared lengths, float64.
    """

    count: int
    depth: int
    energy: float
    frame: Frame
    blocks: Blocks
    array: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The prepared points at ascending `rows` [m, d]."""
        if self.array is not None:
            return self.array[rows]
        parts, start = [], 0
        for block in self.blocks():
            inside = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + len(block))] - start
            parts.append(block[inside])
            start += len(block)
        return np.concatenate(parts)


def prepare(source: Source, spherical: bool, threads: int, stage: str = "cluster") -> PreparedPoints:
    """Check and prepare points; an array is copied, a stream is prepared again at each pass.

    Args:
        stage: for messages.

    Raises:
        NumericsError: NaN, infinite or no points.
    """
    if isinstance(source, np.ndarray):
        return _in_memory(source, spherical, threads, stage)
    raw = source

    def rechunked() -> Iterator[np.ndarray]:
        """Blocks of at most BLOCK rows, so that no caller's block size sets our memory."""
        for block in raw():
            for start in range(0, len(block), BLOCK):
                yield block[start : start + BLOCK]

    count, frame = _frame(rechunked(), spherical, threads, stage)

    def ready() -> Iterator[np.ndarray]:
        return ordered(frame.ready, rechunked(), threads)

    energy = sum(float(np.einsum("ij,ij->", x, x, dtype=np.float64)) for x in ready())
    return PreparedPoints(count, len(frame.shift), energy, frame, ready)


def _in_memory(source: np.ndarray, spherical: bool, threads: int, stage: str) -> PreparedPoints:
    if source.ndim != 2:
        raise NumericsError(f"{stage}: points of shape {source.shape}, expected [points, dimensions]")
    starts = range(0, len(source), BLOCK)
    count, frame = _frame((source[start : start + BLOCK] for start in starts), spherical, threads, stage)
    array = np.empty(source.shape, np.float32)

    def copy(start: int) -> float:
        x = frame.ready(source[start : start + BLOCK])
        array[start : start + BLOCK] = x
        return float(np.einsum("ij,ij->", x, x, dtype=np.float64))

    energy = sum(ordered(copy, starts, threads))

    def blocks() -> Iterator[np.ndarray]:
        return iter((array,))

    return PreparedPoints(count, len(frame.shift), energy, frame, blocks, array)


def _frame(blocks: Iterator[np.ndarray], spherical: bool, threads: int, stage: str) -> tuple[int, Frame]:
    """Number of points and their frame, in one pass with float64 sums about the first point."""

    def one(block: np.ndarray) -> tuple[np.ndarray, int, np.ndarray, float]:
        x = block.astype(np.float64)
        anchor = x[0].copy()
        x -= anchor
        return anchor, len(x), x.sum(axis=0), float(np.einsum("ij,ij->", x, x))

    count, anchor, total, energy = 0, np.zeros(0), np.zeros(0), 0.0
    for origin, rows, s, e in ordered(one, (block for block in blocks if len(block)), threads):
        if not count:
            anchor, total = origin, np.zeros_like(origin)
        move = origin - anchor
        energy += e + 2 * float(move @ s) + rows * float(move @ move)
        total, count = total + s + rows * move, count + rows
        if not np.isfinite(energy):
            raise NumericsError(
                f"{stage}: the vectors hold NaN or infinite values; check the features or the reduction"
            )
    if not count:
        raise NumericsError(f"{stage}: there are no vectors to cluster; check that the cut finds segments (cut.method)")
    mean = total / count
    spread = max(energy / count - float((total / count) @ (total / count)), 0.0)
    scale = float(np.sqrt(spread)) or 1.0
    return count, Frame(spherical, (anchor + mean).astype(np.float32), scale)


def points_of(stores: Sequence[Ragged], limit: int, seed: int) -> Source:
    """At most `limit` vectors of stores to fit on: an array [m, d] float32, or a stream where they fill the memory.

    Rows that show no data (`Ragged.valid`) are left out.
    """
    from maskmill.numerics.blocks import by_id
    from maskmill.numerics.sampling import sample_rows

    stores = all_valid_only(stores)
    total = sum(int(store.offsets[-1]) for store in stores)
    depth = max((store.depth or 1 for store in stores), default=1)
    if total > limit or total * depth * 4 <= MEMORY_BYTES:
        return sample_rows(stores, limit, seed)

    codec = CodedPoints.common(stores)
    if codec is not None:
        return CodedPoints(stores, codec)

    def blocks() -> Iterator[np.ndarray]:
        return by_id(stores, STREAM_ROWS)

    return blocks


@dataclass(frozen=True)
class CodedPoints:
    """Vectors of product-quantised stores that do not fit into memory: a stream of vectors, and one of their codes."""

    stores: Sequence[Ragged]
    codec: Codec

    @staticmethod
    def common(stores: Sequence[Ragged]) -> Codec | None:
        """The codec of all rows of the stores; None where they have none, or several, or are seen in part."""
        codecs = [store.codec for store in stores if type(store) is Ragged]
        if len(codecs) < len(stores) or not codecs or any(codec is not codecs[0] for codec in codecs):
            return None
        return codecs[0]

    def __call__(self) -> Iterator[np.ndarray]:
        """Blocks [b, d] float32, as a stream of any stores has them."""
        from maskmill.numerics.blocks import by_id

        return by_id(self.stores, STREAM_ROWS)

    def codes(self) -> Iterator[np.ndarray]:
        """The codes [b, bytes] uint8 of the same blocks."""
        from maskmill.numerics.blocks import codes_by_id

        return codes_by_id(self.stores, STREAM_ROWS)
