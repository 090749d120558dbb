"""`maskmill predict`: an exported segmenter on new images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from PIL import Image

from maskmill.errors import InputError, NumericsError, UserError
from maskmill.export.formats import WHOLE
from maskmill.images.decode import MAX_PIXELS, SUFFIXES
from maskmill.images.stems import is_store, names
from maskmill.inputs.reading import Reading
from maskmill.predict.masks import Masks
from maskmill.predict.pictures import divides, opened
from maskmill.predict.pictures import names as names_in
from maskmill.predict.segmenter import load
from maskmill.progress import track
from maskmill.store.artefact import write_json
from maskmill.urls import is_url, refusal


@dataclass(frozen=True)
class Predicted:
    """The number of images whose masks were written, and why there is none of the others, by file.

    Attributes:
        notes: what to know of masks that were written, and of how many.
    """

    masks: int
    failed: dict[Path, str] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What is to be written, and how.

    Attributes:
        formats: of `maskmill.export.formats.WHOLE`, beside the PNG. max_pixels: images that have to be decoded as a
            whole are refused where they have more.
    """

    overlays: bool = True
    formats: Sequence[str] = ()
    threads: int = 1
    device: str = "auto"
    max_pixels: int | None = None


def predict(images: Iterable[Path], segmenter: Path, out: Path, wanted: Wanted) -> Predicted:
    """Write `<out>/<name>.png` (indexed mask at image size), `<name>.overlay.jpg`, and a file of each format; of named
    classes `classes.json`.

    Images below a folder keep their relative names. A large image is cut into windows where the run has cut its own,
    and their masks are put together; it has no overlay. A few images, or one window, are in memory at a time. An image
    that cannot be read or segmented is left out, with its reason; the others get their masks.

    Raises:
        InputError: nothing to read, or a mask would lie where a photo lies. UserError: what is wrong with all images,
            such as the segmenter or the disk; what was written before stays.
    """
    import torch

    from maskmill.numerics.blocks import ordered

    found = _find(images)
    _check_targets(found, out, wanted, Reading())
    torch.set_num_threads(wanted.threads)
    loaded = load(segmenter, wanted.device)
    if divides(loaded.reading):
        _check_targets(found, out, wanted, loaded.reading)
    workers = wanted.threads if loaded.side_by_side else 1
    torch.set_num_threads(wanted.threads // workers)
    masks = Masks(loaded, out, wanted.overlays, wanted.formats)
    if loaded.classes:
        write_json(out / "classes.json", {"0": "background"} | {str(c["id"]): c["name"] for c in loaded.classes})

    def one(item: tuple[str, Path]) -> str:
        """Why there is no mask of this image; nothing where there is one."""
        name, path = item
        try:
            with opened(path, name, loaded.reading, wanted.max_pixels or MAX_PIXELS) as file:
                for canvas in file.canvases:
                    masks.write(file, canvas)
        except (InputError, NumericsError) as error:
            return str(error)
        except OSError as error:
            if error.filename is not None and Path(error.filename) != path:
                raise
            return error.strerror or str(error)
        except UserError as error:
            raise type(error)(f"{path}: {error}") from None
        return ""

    reasons = list(track(ordered(one, found.items(), workers), len(found), "predict"))
    failed = {path: reason for path, reason in zip(found.values(), reasons, strict=True) if reason}
    return Predicted(len(found) - len(failed), failed, dict(masks.notes))


def _find(images: Iterable[Path]) -> dict[str, Path]:
    """Output name -> file; two files of one name are an InputError."""
    found: dict[str, Path] = {}
    for given in images:
        if is_url(str(given)):
            raise InputError(refusal(str(given)))
        if not given.exists():
            raise InputError(f"{given}: no such image or folder")
        folder = given.is_dir() and not is_store(given)
        for file in _below(given) if folder else [given]:
            name = str((file.relative_to(given) if folder else Path(file.name)).with_suffix(""))
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


def _check_targets(found: dict[str, Path], out: Path, wanted: Wanted, reading: Reading) -> None:
    """No photo is overwritten, and no two masks have one name: those of pages and composites among them."""
    photos = {path.resolve() for path in found.values()}
    suffixes = [
        ".png",
        *([".overlay.jpg"] if wanted.overlays else []),
        *(WHOLE[each].suffix for each in wanted.formats),
    ]
    claimed: dict[str, Path] = {}
    for name, path in found.items():
        for each, suffix in product(names_in(path, name, reading, wanted.max_pixels or MAX_PIXELS), suffixes):
            target = out / f"{each}{suffix}"
            if target.resolve() in photos or _is_picture(target):
                raise InputError(f"--out {out}: {path} would overwrite the photo {target}; give another "
                                 "folder")  # fmt: skip
            if claimed.setdefault(f"{each}{suffix}", path) != path:
                raise InputError(f"{path}: its mask {each}{suffix} would overwrite that of "
                                 f"{claimed[f'{each}{suffix}']}; predict them separately")  # fmt: skip


def _is_picture(target: Path) -> bool:
    """Whether a file that would be replaced shows colours or greys: no mask has more than one channel, and those of
    eight bits have a palette.
    """
    if target.suffix not in (".png", ".tif") or not target.is_file():
        return False
    try:
        with Image.open(target) as image:
            return len(image.getbands()) > 1 or (image.mode == "L" and target.suffix == ".png")
    except (OSError, ValueError, Image.DecompressionBombError):
        return False
