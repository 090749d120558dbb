"""An exported recipe applied to any image: a student, or the clusters of tokens. Composes backbones and stages.

    tokens -> student -> mask                                               recipes with rounds
    tokens -> (head -> codes) -> (reduction) -> scores of clusters -> mask  recipes that cluster tokens

Every step calls the function of the stage that made the recipe's own masks, and intermediate results are rounded as
the stores of the stages round them. So an image of the run gets the mask of its last round; only the last bits of the
backbone's output may differ, which depend on the batch size, on threads and on the device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from maskmill.errors import StoreError, WeightsError
from maskmill.images.decode import resize, to_target
from maskmill.images.masks import to_size
from maskmill.images.nodata import filled, ignored, nearest_valid, valid_cells
from maskmill.images.photos import three
from maskmill.inputs.reading import Reading
from maskmill.recipe.base import validate
from maskmill.recipe.feature_set import STORING, FeatureSet
from maskmill.recipe.sections import Refine
from maskmill.store.artefact import read_json
from maskmill.store.floats import as_stored
from maskmill.store.seal import file_crc32c

if TYPE_CHECKING:
    import torch

    from maskmill.adapt.infer import Head
    from maskmill.backbones import Dense
    from maskmill.numerics.product import Encoder

FOLDER = "results/recipes/<recipe>/seed<n>/export/segmenter"


class Segmenter(Protocol):
    """What segments images.

    Attributes:
        clusters: k. classes: [{id, name, colour}, ...] where they have names.
        side_by_side: whether several threads may segment an image each. reading: how the run has read its images.
    """

    clusters: int
    classes: Sequence[Mapping[str, Any]]
    side_by_side: bool
    reading: Reading

    def mask(self, image: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
        """Mask [H, W] (0 background, 1..k clusters, the type's largest value ignore) of an image uint8 [H, W, 3], or of
        all N channels where the run has read all.

        What shows no data (`valid` bool [H, W]; None: all does) is ignore, as in the masks of a run.
        """


def load(folder: Path, device: str = "auto") -> Segmenter:
    """From an exported folder `segmenter/`.

    Raises:
        StoreError: not such a folder, or a file of it is damaged. WeightsError: the weights do not fit.
    """
    from maskmill.device import pick

    kinds: dict[str, type[StudentSegmenter] | type[ClusterSegmenter]] = {
        "student": StudentSegmenter,
        "codebook": ClusterSegmenter,
    }
    held = [name for name in kinds if (folder / f"{name}.safetensors").is_file()]
    if not (folder / "features.json").is_file():
        raise StoreError(f"--segmenter {folder}: {_lost('features.json') if held else _missing(folder)}")
    about = read_json(folder / "features.json")
    for part in about.get("files", held):
        if not (folder / f"{part}.safetensors").is_file():
            raise StoreError(f"--segmenter {folder}: {_lost(f'{part}.safetensors')}")
    if not held:
        raise StoreError(f"--segmenter {folder}: {_missing(folder)}")
    _check_files(folder, about)
    return kinds[held[0]](folder, about, pick(device))


def _check_files(folder: Path, about: Mapping[str, Any]) -> None:
    """Raise StoreError, or WeightsError, where a file is not the one that was exported into this folder."""
    crcs = about.get("crc32c", {})
    for part in about.get("files", ()):
        file = folder / f"{part}.safetensors"
        if part not in crcs or file_crc32c(file) != crcs[part]:
            kind = WeightsError if part.startswith("weights/") else StoreError
            raise kind(
                f"{file}: damaged, or not of the same export as features.json; copy the whole folder {folder} again"
            )


def _lost(name: str) -> str:
    return f"has lost {name}; copy the whole folder again"


def _missing(folder: Path) -> str:
    """Why there is no segmenter, and the way out."""
    for near in (folder, folder.parent):
        if not (near / "export.json").is_file():
            continue
        about = read_json(near / "export.json")
        if about.get("segmenter"):
            return f"holds no segmenter; give {near / 'segmenter'}"
        if "segmenter" in about:
            return (
                f"recipe {about.get('recipe')} clusters the regions of a cut, and these clusters segment no other "
                "image; train a student on its masks (rounds: {count: 1}) and run snakemake again"
            )
        return "an export of an older version; run snakemake again"
    return f"holds neither student.safetensors nor codebook.safetensors; expected {FOLDER}"


class Backbones:
    """The frozen backbones of a segmenter.

    Args:
        folder: with weights/. about: its features.json. channels: of the images, where a backbone sees all of them.

    Attributes:
        sets: name -> (feature set, backbone).
    """

    def __init__(self, folder: Path, about: Mapping[str, Any], device: torch.device, channels: int = 3) -> None:
        from maskmill.backbones.dense import load
        from maskmill.numerics.product import Encoder
        from maskmill.store.product import read

        self.sets: dict[str, tuple[FeatureSet, Dense]] = {}
        self.encoders: dict[str, Encoder] = {}
        for name, chosen in feature_sets(folder, about).items():
            seen = 3
            if chosen.channels == "all":
                seen = channels
            self.sets[name] = chosen, load(_weights(folder, chosen), chosen, device, seen)
            if chosen.pq is not None:
                self.encoders[name] = Encoder(read(folder / f"codecs/{name}.safetensors")[0], device)

    def tokens(self, image: np.ndarray, valid: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """{feature set: tokens [h, w, d]} of an image, as a feature store gives them."""
        import torch

        from maskmill.backbones import mean_colour

        found = {}
        for name, (chosen, backbone) in self.sets.items():
            seen = image if chosen.channels == "all" else three(image)
            seen = filled(seen, valid, mean_colour(backbone))
            batch = torch.from_numpy(to_target(seen, chosen.size, backbone.multiple).copy())[None]
            tokens = backbone.forward(batch)[0][0]
            shown = valid_cells(valid, (tokens.shape[0], tokens.shape[1]))
            if name in self.encoders:
                found[name] = nearest_valid(self.encoders[name].as_stored(tokens), shown)
            else:
                found[name] = as_stored(nearest_valid(tokens.cpu().numpy(), shown), chosen.dtype)
        return found


def _weights(folder: Path, chosen: FeatureSet) -> Path:
    """The file of a feature set's weights, or the folder of those of its parts."""
    return folder / "weights" if chosen.concat else folder / f"weights/{chosen.weights_slug}.safetensors"


def feature_sets(folder: Path, about: Mapping[str, Any]) -> dict[str, FeatureSet]:
    """The feature sets of a features.json by name."""
    where = str(folder / "features.json")
    if not isinstance(about.get("features"), Mapping):
        raise StoreError(f"{where}: names no feature sets; run snakemake again")
    return {name: validate(FeatureSet, body, where, name) for name, body in about["features"].items()}


def reading_of(folder: Path, about: Mapping[str, Any]) -> Reading:
    """How the run of a features.json has read its images."""
    return Reading.of(about.get("inputs", {}), str(folder / "features.json"))


class StudentSegmenter:
    """The student of the last round."""

    side_by_side = False

    def __init__(self, folder: Path, about: Mapping[str, Any], device: torch.device) -> None:
        from maskmill.rounds.infer import Student

        self.reading = reading_of(folder, about)
        self.student = Student.load(folder / "student.safetensors", str(device))
        self.clusters, self.classes = self.student.clusters, about.get("classes", ())
        self.refine = validate(Refine, about.get("refine", {}), str(folder / "features.json"), "refine")
        self.backbones = Backbones(folder, about, device, self.reading.channels)

    def mask(self, image: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
        """See `Segmenter`."""
        from maskmill.numerics.blocks import one_thread
        from maskmill.rounds.infer import finest

        tokens = {} if self.student.photos else self.backbones.tokens(image, valid)
        image = filled(three(image), valid)
        view: Any = image if self.student.photos else tokens
        if tokens:
            valid = valid_cells(valid, finest(tokens))
        # As in the job of a round, where only a student of photos computes with several threads.
        with contextlib.nullcontext() if self.student.photos else one_thread():
            if self.refine.method == "none":
                mask = self.student.mask(view)
            else:
                mask, _ = self.student.refined_mask(view, image, self.refine, valid)
        mask = ignored(mask, valid_cells(valid, (mask.shape[0], mask.shape[1])))
        return to_size(mask, (image.shape[0], image.shape[1]))


class ClusterSegmenter:
    """The clusters of tokens, of their codes by a head, or of their reduced vectors."""

    def __init__(self, folder: Path, about: Mapping[str, Any], device: torch.device) -> None:
        from maskmill.reduce.run import Reduction
        from maskmill.store.classes import read_labels
        from maskmill.store.codebook import read

        def part(name: str) -> Path | None:
            file = folder / f"{name}.safetensors"
            return file if file.is_file() else None

        self.reading = reading_of(folder, about)
        self.book = read_labels(folder / "codebook.safetensors")
        self.clusters, self.classes = len(self.book), about.get("classes", ())
        self.ground = read(ground) if (ground := part("foreground")) else None
        self.reduction = Reduction(model) if (model := part("reduction")) else None
        self.head = _head(folder, about, device) if part("head") else None
        # A backbone that was trained together with the head is in the head's file.
        self.end_to_end = self.head if self.head is not None and self.head.sees_photos else None
        seen = about if self.end_to_end is None else {"features": {}}
        self.backbones = Backbones(folder, seen, device, self.reading.channels)
        self.side_by_side = self.end_to_end is not None and device.type == "cpu" and self.end_to_end.concurrent
        where = str(folder / "features.json")
        self.refine = validate(Refine, about.get("refine", {}), where, "refine")
        if not isinstance(about.get("upsample"), int):
            raise StoreError(f"{where}: has no upsample; run snakemake again")
        self.upsample = int(about["upsample"])

    def mask(self, image: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
        """See `Segmenter`."""
        from maskmill.numerics.blocks import one_thread
        from maskmill.painting.tokens import paint_tokens

        view = self._view(image, valid)
        see = None if self.refine.method == "none" else partial(resize, filled(three(image), valid))
        with one_thread():  # as in the jobs of the stages, so that the order of every sum is the same
            vectors = view
            if self.head is not None:
                codes = self.head.codes(view)
                shown = valid_cells(valid, (codes.shape[0], codes.shape[1]))
                vectors = as_stored(nearest_valid(codes, shown))
            shown = valid_cells(valid, (vectors.shape[0], vectors.shape[1]))
            if self.reduction is not None:
                vectors = as_stored(self.reduction(vectors))
            mask = paint_tokens(vectors, self.book, self.upsample, self.refine, see, self.ground, shown)
        return to_size(mask, (image.shape[0], image.shape[1]))

    def _view(self, image: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
        """Tokens [h, w, d] of the image, or the photo uint8 [H, W, 3] for a head with a backbone of its own."""
        if self.end_to_end is not None:
            return self.end_to_end.resized(filled(three(image), valid))
        return next(iter(self.backbones.tokens(image, valid).values()))


def _head(folder: Path, about: Mapping[str, Any], device: torch.device) -> Head:
    """The head of a segmenter, which must see its feature set."""
    from maskmill.adapt.infer import Head

    head = Head.load(folder / "head.safetensors", str(device))
    means_nothing = STORING if head.sees_photos else set()
    seen = {key: value for key, value in head.spec["features"].items() if key not in means_nothing}
    sets = [chosen.model_dump(mode="json", exclude=means_nothing) for chosen in feature_sets(folder, about).values()]
    if sets != [seen]:
        raise StoreError(f"{folder}: head.safetensors was trained on another feature set than features.json names; run "
                         "snakemake again")  # fmt: skip
    return head
