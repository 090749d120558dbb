"""Run-length codes of binary masks as CVAT and Label Studio read them. (COCO's are in maskmill.store.rle.)"""

from __future__ import annotations

import numpy as np

_SIZES = (3, 4, 8, 16)  # Label Studio: bits of a run's length, the smallest that holds it is taken
_LONGEST = 1 << _SIZES[-1]
_CHANNELS = 4  # Label Studio codes RGBA


def row_runs(mask: np.ndarray) -> np.ndarray:
    """Lengths of the runs of mask [h, w] bool along its rows, beginning with the first run of zeros, which may be 0."""
    flat = mask.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    ends = np.concatenate([changes, [flat.size]])
    if flat[0]:
        ends = np.concatenate([[0], ends])
    return np.diff(ends, prepend=0)


def brush(mask: np.ndarray) -> bytes:
    """Label Studio's code of a brush: of the image's RGBA values, 255 in all four where mask [H, W] bool is set.

    The code is the one of rle-pack (thi.ng/umbrella): the number of values in 32 bits, the bits of a value less one in
    5, of a run's length less one in 4 for each of four lengths; then every run as a 1, which of the four lengths, its
    length less one, and the value. It is filled up with 1 to 8 zeros to whole bytes, as Label Studio's own writer does.
    """
    lengths = row_runs(mask) * _CHANNELS
    values = np.arange(len(lengths)) % 2 * 255
    lengths, values = lengths[lengths > 0], values[lengths > 0]
    parts = -(-lengths // _LONGEST)  # runs that are too long are cut
    last = np.cumsum(parts) - 1
    pieces = np.full(int(parts.sum()), _LONGEST, np.int64)
    pieces[last] = lengths - (parts - 1) * _LONGEST
    which = np.searchsorted(1 << np.array(_SIZES), pieces)  # index of the smallest length that holds it
    bits = np.array(_SIZES)[which]
    words = (((0b100 | which) << bits | (pieces - 1)) << 8) | np.repeat(values, parts)
    head = [(mask.size * _CHANNELS, 32), (8 - 1, 5), *((size - 1, 4) for size in _SIZES)]
    numbers, widths = np.array(head).T
    stream = _bits(np.concatenate([numbers, words]), np.concatenate([widths, bits + 11]))
    return np.packbits(np.concatenate([stream, np.zeros(8 - len(stream) % 8, bool)])).tobytes()


def _bits(words: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """The last `widths` bits of each word, one after the other, bool."""
    widest = int(widths.max())
    places = np.arange(widest - 1, -1, -1)
    return ((words[:, None] >> places) & 1).astype(bool)[places < widths[:, None]]
