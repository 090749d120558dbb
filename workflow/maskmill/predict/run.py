"""`maskmill predict`: an exported segmenter on new images; writes pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from maskmill.errors import InputError, NumericsError, UserError
from maskmill.images.decode import MAX_PIXELS, SUFFIXES, decode
from maskmill.images.palette import class_palette, overlay, png_palette
from maskmill.images.stems import names
from maskmill.predict.segmenter import Segmenter, load
from maskmill.progress import track
from maskmill.store.artefact import write_json
from maskmill.store.atomic import atomic
from maskmill.urls import is_url, refusal


@dataclass(frozen=True)
class Predicted:
    """The number of masks that were written, and why there is none of the other images, by file."""

    masks: int
    failed: dict[Path, str] = field(default_factory=dict)


def predict(
    images: Iterable[Path],
    segmenter: Path,
    out: Path,
    *,
    overlays: bool,
    threads: int,
    device: str = "auto",
    max_pixels: int | None = None,
) -> Predicted:
    """Write `<out>/<name>.png` (indexed mask at image size) and `<name>.overlay.jpg`; of named classes `classes.json`.

    Images below a folder keep their relative names. A few images are in memory at a time. An image that cannot be read
    or segmented is left out, with its reason; the others get their masks.

    Raises:
        InputError: nothing to read, or a mask would lie where a photo lies. UserError: what is wrong with all images,
            such as the segmenter or the disk; what was written before stays.
    """
    import torch

    from maskmill.numerics.blocks import ordered

    found = _find(images)
    _check_targets(found, out, overlays)
    torch.set_num_threads(threads)
    loaded = load(segmenter, device)
    workers = threads if loaded.side_by_side else 1
    torch.set_num_threads(threads // workers)
    colours = _colours(loaded)
    if loaded.classes:
        write_json(out / "classes.json", {"0": "background"} | {str(c["id"]): c["name"] for c in loaded.classes})

    def one(item: tuple[str, Path]) -> str:
        """Why there is no mask of this image; nothing where there is one."""
        name, path = item
        try:
            image = decode(path, max_pixels or MAX_PIXELS, advice="cut it into tiles, or raise --max-pixels")
            mask = loaded.mask(image)
        except (InputError, NumericsError) as error:
            return str(error)
        except UserError as error:
            raise type(error)(f"{path}: {error}") from None
        _save(out / f"{name}.png", _indexed(mask, colours))
        if overlays:
            _save(out / f"{name}.overlay.jpg", Image.fromarray(overlay(image, mask, colours=colours)))
        return ""

    reasons = list(track(ordered(one, found.items(), workers), len(found), "predict"))
    failed = {path: reason for path, reason in zip(found.values(), reasons, strict=True) if reason}
    return Predicted(len(found) - len(failed), failed)


def _find(images: Iterable[Path]) -> dict[str, Path]:
    """Output name -> file; two files of one name are an InputError."""
    found: dict[str, Path] = {}
    for given in images:
        if is_url(str(given)):
            raise InputError(refusal(str(given)))
        if not given.exists():
            raise InputError(f"{given}: no such image or folder")
        files = _below(given) if given.is_dir() else [given]
        for file in files:
            name = str((file.relative_to(given) if given.is_dir() else Path(file.name)).with_suffix(""))
            if name in found:
                raise InputError(f"{file}: its mask would overwrite that of {found[name]}; predict them separately")
            found[name] = file
    if not found:
        raise InputError(f"no image in {', '.join(map(str, images))}; looked for {', '.join(SUFFIXES)}")
    return found


def _below(folder: Path) -> list[Path]:
    """The visible images below a folder, sorted; as the stage inputs finds them."""
    try:
        return sorted(folder / name for name in names(folder, []) if name.lower().endswith(SUFFIXES))
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be listed ({error.strerror}); mend its rights") from None


def _check_targets(found: dict[str, Path], out: Path, overlays: bool) -> None:
    """No file that is read is written."""
    photos = {path.resolve() for path in found.values()}
    for name, path in found.items():
        for target in (out / f"{name}.png", *([out / f"{name}.overlay.jpg"] if overlays else [])):
            if target.resolve() in photos:
                raise InputError(f"--out {out}: {path} would overwrite the photo {target}; give another "
                                 "folder")  # fmt: skip


def _colours(segmenter: Segmenter) -> np.ndarray:
    """Colours uint8 [k + 1, 3] of the values of its masks: those of its classes, or the palette."""
    return class_palette(segmenter.clusters, {int(each["id"]): str(each["colour"]) for each in segmenter.classes})


def _indexed(mask: np.ndarray, colours: np.ndarray) -> Image.Image:
    image = Image.fromarray(mask)
    if mask.dtype == np.uint8:
        image.putpalette(png_palette(colours))
    return image


def _save(path: Path, image: Image.Image) -> None:
    with atomic(path) as temporary:
        image.save(temporary, format="PNG" if path.suffix == ".png" else "JPEG", quality=90)
