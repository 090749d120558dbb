"""`maskmill predict`: an exported student on new images. Composes backbones and student; writes pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from maskmill.artefact import atomic, read_json
from maskmill.config import FeatureSet, Refine, validate
from maskmill.errors import InputError, StoreError
from maskmill.images import SUFFIXES, decode, resize, target_size
from maskmill.masks import to_size
from maskmill.palette import overlay, palette
from maskmill.progress import track

if TYPE_CHECKING:
    from maskmill.backbones import Backbone
    from maskmill.colour import Colour


@dataclass(frozen=True)
class Segmenter:
    """A student and the backbones that it looks through.

    Attributes:
        student: a loaded `maskmill.rounds.infer.Student`.
        backbones: name -> (feature set, backbone); none where the student sees the image itself.
        refine: how masks are fitted to the image, as in the round that trained the student.
    """

    student: Any
    backbones: dict[str, tuple[FeatureSet, Backbone | Colour]]
    refine: Refine

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> Segmenter:
        """From an exported folder `student/` (student.safetensors, features.json, weights/).

        Raises:
            StoreError: not such a folder, or a file of it is damaged. WeightsError: the weights do not fit.
        """
        from maskmill.backbones import load
        from maskmill.device import pick
        from maskmill.rounds.infer import Student

        if not (folder / "student.safetensors").is_file():
            raise StoreError(
                f"--student {folder}: holds no student.safetensors; expected "
                "results/recipes/<recipe>/seed<n>/export/student of a recipe with rounds"
            )
        place = pick(device)
        student = Student.load(folder / "student.safetensors", str(place))
        backbones = {}
        about = read_json(folder / "features.json")
        for name, body in about["features"].items():
            chosen = validate(FeatureSet, body, str(folder / "features.json"), name)
            backbones[name] = (chosen, load(folder / "weights" / f"{chosen.weights_slug}.safetensors", chosen, place))
        refine = validate(Refine, about.get("refine", {}), str(folder / "features.json"), "refine")
        return cls(student, backbones, refine)

    def mask(self, image: np.ndarray) -> np.ndarray:
        """Mask [H, W] (0 background, 1..k clusters) of an image uint8 [H, W, 3], at its size."""
        view = image if self.student.photos else self._tokens(image)
        if self.refine.method == "none":
            mask = self.student.mask(view)
        else:
            mask, _ = self.student.refined_mask(view, image, self.refine)
        return to_size(mask, (image.shape[0], image.shape[1]))

    def _tokens(self, image: np.ndarray) -> dict[str, np.ndarray]:
        """What the student sees of the image: {feature set: tokens [h, w, d]}."""
        import torch

        tokens = {}
        for name, (chosen, backbone) in self.backbones.items():
            size = target_size(image.shape[0], image.shape[1], chosen.size, backbone.multiple)
            batch = torch.from_numpy(resize(image, size).copy())[None]
            tokens[name] = backbone.forward(batch)[0][0].cpu().numpy()  # [h, w, d]
        return tokens


def predict(
    images: Iterable[Path], student: Path, out: Path, *, overlays: bool, threads: int, device: str = "auto"
) -> int:
    """Write `<out>/<name>.png` (indexed mask at image size) and `<name>.overlay.jpg`; the number of images.

    Images below a folder keep their relative names.

    Raises:
        InputError: nothing to read, or a file does not decode; what was written before stays.
    """
    import torch

    torch.set_num_threads(threads)
    found = _find(images)
    segmenter = Segmenter.load(student, device)
    for name, path in track(found.items(), len(found), "predict"):
        try:
            image = decode(path)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        mask = segmenter.mask(image)
        _save(out / f"{name}.png", _indexed(mask, segmenter.student.clusters))
        if overlays:
            _save(out / f"{name}.overlay.jpg", Image.fromarray(overlay(image, mask)))
    return len(found)


def _find(images: Iterable[Path]) -> dict[str, Path]:
    """Output name -> file; two files of one name are an InputError."""
    found: dict[str, Path] = {}
    for given in images:
        if not given.exists():
            raise InputError(f"{given}: no such image or folder")
        files = sorted(f for f in given.rglob("*") if f.suffix.lower() in SUFFIXES) if given.is_dir() else [given]
        for file in files:
            name = str((file.relative_to(given) if given.is_dir() else Path(file.name)).with_suffix(""))
            if name in found:
                raise InputError(f"{file}: its mask would overwrite that of {found[name]}; predict them separately")
            found[name] = file
    if not found:
        raise InputError(f"no image in {', '.join(map(str, images))}; looked for {', '.join(SUFFIXES)}")
    return found


def _indexed(mask: np.ndarray, clusters: int) -> Image.Image:
    image = Image.fromarray(mask)
    if mask.dtype == np.uint8:
        image.putpalette(palette(clusters + 1).tobytes())
    return image


def _save(path: Path, image: Image.Image) -> None:
    with atomic(path) as temporary:
        image.save(temporary, format="PNG" if path.suffix == ".png" else "JPEG", quality=90)
