"""Photos of the manifest, decoded in worker processes ahead of the device. Used by every stage that feeds a network."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np

from maskmill.errors import ConfigError, InputError
from maskmill.images.decode import MAX_PIXELS, decode, image_bytes, resize
from maskmill.images.nodata import NEUTRAL, filled
from maskmill.images.raster import Shown, kept_raster, read_raw, render, values_crc32c
from maskmill.images.view import View
from maskmill.recipe import registry
from maskmill.store.manifest import read_manifest
from maskmill.store.seal import bytes_crc32c

if TYPE_CHECKING:
    import torch

    from maskmill.recipe.sections import Refine

T = TypeVar("T")
R = TypeVar("R")


class PhotoFile(Protocol):
    """What a manifest says of a photo; `bytes` and `crc32c` are None where nothing is known of the content."""

    @property
    def path(self) -> str: ...

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def bytes(self) -> int | None: ...

    @property
    def crc32c(self) -> int | None: ...

    @property
    def view(self) -> str | None: ...


def read_photo(row: PhotoFile) -> np.ndarray:
    """uint8 RGB [H, W, 3] of one image of the manifest, in a neutral colour where it shows no data.

    Raises:
        InputError: it is not the file that the manifest describes; names it.
    """
    return read_filled(row).pixels


def read_filled(row: PhotoFile, colour: np.ndarray | tuple[int, ...] = NEUTRAL) -> Shown:
    """As `read_photo`, with one colour [3] where it shows no data, and where it does; raises as `read_photo`.

    A colour [N] of other than three channels asks for all of them: pixels uint8 [H, W, N].
    """
    shown = read_shown(row)
    pixels = three(shown.pixels) if len(colour) == 3 else shown.pixels
    if pixels.shape[2] != len(colour):
        raise _changed(row, InputError(f"{pixels.shape[2]} channels, the others have {len(colour)}"))
    return Shown(filled(pixels, shown.valid, colour), shown.valid)


def channels_of(rows: Sequence[PhotoFile]) -> int:
    """How many channels the pictures of a run have, which is the same for all: of N > 1 that is N; else three."""
    return next((View.of(row.view).count for row in rows if row.view is not None), 3)


def read_shown(row: PhotoFile) -> Shown:
    """As `read_photo`, with the pixels that hold a measurement where the file says that some do not."""
    try:
        return Shown(unchanged(row)) if row.view is None else _viewed(row, row.view)
    except (InputError, OSError) as error:
        raise _changed(row, error) from None


def unchanged(row: PhotoFile) -> np.ndarray:
    """As `read_photo`, but the InputError is the reason without the path."""
    if row.view is not None:
        shown = _viewed(row, row.view)
        return filled(three(shown.pixels), shown.valid)
    body = image_bytes(row.path, max(MAX_PIXELS, row.height * row.width))
    if row.crc32c is not None and (len(body), bytes_crc32c(body)) != (row.bytes, row.crc32c):
        raise InputError("another content than in the manifest")
    pixels = decode(body, size=(row.height, row.width))
    if pixels.shape[:2] != (row.height, row.width):
        raise InputError(f"{pixels.shape[1]}x{pixels.shape[0]} px, was {row.width}x{row.height}")
    return pixels


def _changed(row: PhotoFile, error: Exception) -> InputError:
    return InputError(
        f"{row.path}: {error}; it changed since the inputs were checked: restore the file and run snakemake again"
    )


def three(pixels: np.ndarray) -> np.ndarray:
    """What is shown of a picture uint8 [H, W, N]: of more channels than three the first three, of fewer the first."""
    if pixels.shape[2] == 3:
        return pixels
    return np.repeat(pixels[..., :1], 3, axis=2) if pixels.shape[2] < 3 else np.ascontiguousarray(pixels[..., :3])


def _viewed(row: PhotoFile, text: str) -> Shown:
    """A picture that is not a whole photo: only what it shows is decoded, and that is compared with the manifest."""
    view = View.of(text)
    height, width = view.whole or (row.height, row.width)  # of the level; a photo is decoded as a whole
    with kept_raster(row.path, max(MAX_PIXELS, round(height * width * view.scale[0] * view.scale[1]))) as raster:
        raw = read_raw(raster, view)
        if row.crc32c is not None and (raw.nbytes, values_crc32c(raw)) != (row.bytes, row.crc32c):
            raise InputError("other values than in the manifest")
        shown = render(raw, raster.facts, view)
    if shown.pixels.shape[:2] != (row.height, row.width):
        raise InputError(f"{shown.pixels.shape[1]}x{shown.pixels.shape[0]} px, was {row.width}x{row.height}")
    return shown


def read_ahead(
    items: Sequence[T], read: Callable[[T], R], workers: int, *, ignore_signals: bool = False
) -> Iterator[tuple[T, R]]:
    """(item, read(item)) in order; each worker process keeps two ahead, so memory does not grow with the shard.

    `read` is pickled where processes are not forked: a function of a module, or a partial of one. Its InputError is
    raised here. Arrays come through pipes: shared memory is often 64 MB in containers, and a batch is milliseconds
    either way. With `ignore_signals` the workers outlive SIGTERM and SIGUSR1, which SLURM sends to every process of a
    job, so that the caller can finish what it does; they end with the caller.
    """
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(
        _Reader(items, read),  # type: ignore[arg-type]
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        worker_init_fn=_ignore_signals if ignore_signals else None,
    )
    for item, value in zip(items, loader, strict=True):
        if isinstance(value, _Bad):
            raise InputError(value.reason)
        yield item, value


@dataclass(frozen=True)
class _Bad:
    """An InputError on its way out of a worker, where torch would wrap it into a traceback."""

    reason: str


class _Reader(Generic[T, R]):
    """A map-style data set."""

    def __init__(self, items: Sequence[T], read: Callable[[T], R]) -> None:
        self.items, self.read = items, read

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> R | _Bad:
        try:
            return self.read(self.items[i])
        except InputError as error:
            return _Bad(str(error))


def _ignore_signals(_worker: int) -> None:
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _as_it_is(value: Any) -> Any:
    return value  # instead of torch's conversion to tensors, which go through shared memory


def reader_count(items: int, threads: int, device: torch.device) -> int:
    """Processes that decode: none with one thread; on a CPU one, because the network needs the rest."""
    if threads == 1:
        return 0
    return min(items, threads if device.type == "cuda" else 1)


class ManifestPhotos:
    """The photos that masks are refined with: those of a manifest, or of one shard of it, by image id, on any grid.

    Raises:
        ConfigError: there is something to refine but no manifest; `where` is the stage, for the message.
        StoreError: no readable manifest.
    """

    def __init__(self, manifest: str | Path | None, where: str, shard: str | None = None) -> None:
        if manifest is None:
            raise ConfigError(f"{where}.refine: needs the photos; give --manifest, or set {where}.refine: none")
        self._manifest = read_manifest(manifest, shard)

    @classmethod
    def needed(
        cls, settings: Refine, manifest: str | Path | None, where: str, shard: str | None = None
    ) -> ManifestPhotos | None:
        """None where nothing is refined."""
        reads_photo = registry.load("refine", settings.method).TRAITS.reads_photo
        return cls(manifest, where, shard) if reads_photo else None

    def on_grid(self, image_id: str, size: tuple[int, int]) -> np.ndarray:
        """The photo uint8 [H, W, 3] squeezed to `size`.

        Raises:
            StoreError: unknown id. InputError: the file changed since the inputs were checked.
        """
        return resize(self.photo(image_id), size)

    def photo(self, image_id: str) -> np.ndarray:
        """The photo as it is, uint8 RGB [H, W, 3]; raises as `on_grid`."""
        return read_photo(self._manifest.row(image_id))
