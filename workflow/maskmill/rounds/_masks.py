"""What a round learns from: masks of the round before, without the images and cells that the options leave out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from maskmill.errors import NumericsError, StoreError
from maskmill.images.masks import ignore_value, to_size
from maskmill.images.nodata import ignored
from maskmill.store.ragged import Ragged


class Masks:
    """Masks of all shards by image id.

    Args:
        paths: mask stores of the round before.
        classes: k + 1, background first.
        round: the round that learns from them, for the messages.
        chosen: ids of the images that feed this round; None for all.
        sure: confidence stores of the same shards (see `rounds_predict`), with `confidence` > 0.
        confidence: cells whose softmax maximum is below it are ignore.
        held: masks of labelled images, of any size: their known cells are taken instead, however sure the others are.

    Attributes:
        ids: sorted ids of the images that have at least one known cell.
        counts: known cells of each class over these images, [classes] int64.
        objects: share of known cells that are no background, by image id.
        things: classes 1..things are of things, the others of stuff; None where the masks know no such thing.

    Raises:
        NumericsError: there is nothing to learn: every cell is ignore, or every known cell is background.
        StoreError: a class that there is not.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        classes: int,
        *,
        round: int = 1,
        chosen: Collection[str] | None = None,
        sure: Sequence[str | Path] = (),
        confidence: float = 0.0,
        held: str | Path | None = None,
    ) -> None:
        self.classes, self.threshold = classes, confidence
        stores = [Ragged(path, "masks") for path in paths]
        certain = [Ragged(path, "confidence") for path in sure] if confidence > 0 else []
        self.things: int | None = stores[0].attrs.get("things") if stores else None
        self._store = {i: store for store in stores for i in store.ids if chosen is None or i in chosen}
        self._sure = {i: store for store in certain for i in store.ids}
        self._in_memory: dict[str, np.ndarray] = {}
        self._labelled = Ragged(held, "masks") if held is not None else None
        self.counts = np.zeros(classes, np.int64)
        self.objects: dict[str, float] = {}
        for image_id, counts in self._scan(stores, certain):
            self.counts += counts
            self.objects[image_id] = float(counts[1:].sum() / counts.sum())
        self.ids = sorted(self.objects)
        if not self.counts[1:].any():
            folder = Path(paths[0]).parent if paths else Path("masks")
            raise NumericsError(f"{folder}: {_nothing(bool(self.ids), round, confidence if sure else 0)}")

    def _scan(self, stores: Sequence[Ragged], certain: Sequence[Ragged]) -> Iterator[tuple[str, np.ndarray]]:
        """(id, known cells a class) of every image with a known cell, about one chunk in memory at a time."""
        for s, store in enumerate(stores):
            others = certain[s].images() if certain else None
            for image_id, mask in store.images():
                sure = next(others)[1] if others else None
                if image_id not in self._store:
                    continue
                mask = self._taught(image_id, mask, sure, store.valid(image_id))
                known = mask != ignore_value(mask.dtype)
                counts = np.bincount(mask[known].ravel(), minlength=self.classes)
                if len(counts) > self.classes:
                    raise StoreError(
                        f"{store.path}: holds class {len(counts) - 1} of {self.classes - 1} clusters; run paint again"
                    )
                if counts.any():
                    yield image_id, counts

    def _taught(self, image_id: str, mask: np.ndarray, sure: np.ndarray | None, valid: np.ndarray | None) -> np.ndarray:
        """What is learnt of an image: its mask without unsure cells, and its label where it has one.

        Nothing is learnt where cells are not `valid`, whatever a label says there.
        """
        unknown = mask.dtype.type(ignore_value(mask.dtype))
        if sure is not None:
            mask = np.where(sure >= self.threshold * 255, mask, unknown)
        if self._labelled is not None and image_id in self._labelled:
            label = to_size(self._labelled[image_id], (mask.shape[0], mask.shape[1]))
            mask = np.where(label != unknown, label, mask)
        return ignored(mask, valid)

    def hold(self, mib: int) -> None:
        """Read the masks into memory once, when all of them fit in `mib`; processes that are forked share them."""
        total, held = 0, {}
        for image_id in self.ids:
            held[image_id] = self[image_id]
            total += held[image_id].nbytes
            if total > mib << 20:
                return
        self._in_memory = held

    def __getitem__(self, image_id: str) -> np.ndarray:
        """Mask [h, w] of one image with the unsure cells set to ignore, and the labelled ones to their labels."""
        if image_id in self._in_memory:
            return self._in_memory[image_id]
        sure = self._sure[image_id][image_id] if self._sure else None
        store = self._store[image_id]
        return self._taught(image_id, store[image_id], sure, store.valid(image_id))


def _nothing(known: bool, round: int, confidence: float) -> str:
    """Why there is nothing to learn, and the way out."""
    what = "every known cell of these masks is background" if known else "every cell of these masks is ignore"
    if round == 1:
        return f"{what}, there is nothing to learn from; raise paint.keep_closest, or loosen the cut (cut.tau)"
    lower, last = f"lower rounds.confidence (now {confidence}), or ", round - 1
    if confidence == 0:
        lower, last = "", round - 2  # the masks themselves are of no use, not what the filter left of them
    return f"{what}, round {round} has nothing to learn from; {lower}set rounds.count={last} to end before it"


def changed_share(before: Sequence[str | Path], after: Sequence[str | Path]) -> float:
    """Share of the cells whose class differs between two rounds, among those known in both; 1 where none is.

    Masks of different sizes are compared at the finer one, every cell counts alike.
    """
    changed = total = 0
    for one, other in zip(before, after, strict=True):
        for (image_id, a), (again, b) in zip(Ragged(one).images(), Ragged(other).images(), strict=True):
            if image_id != again:
                raise StoreError(f"{other}: its images are not those of {one}; run snakemake again")
            size = (max(a.shape[0], b.shape[0]), max(a.shape[1], b.shape[1]))
            a, b = to_size(a, size), to_size(b, size)
            known = (a != ignore_value(a.dtype)) & (b != ignore_value(b.dtype))
            changed += int((known & (a != b)).sum())
            total += int(known.sum())
    return changed / total if total else 1.0
