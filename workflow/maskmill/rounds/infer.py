"""A trained student, read from its file alone, applied to one image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskmill.errors import StoreError
from maskmill.images.decode import resize
from maskmill.images.instances import Instances
from maskmill.images.interpolate import resize_maps, softmax_at, upsample_scores, upsample_softmax
from maskmill.images.masks import mask_dtype
from maskmill.images.nodata import valid_cells
from maskmill.recipe.model import Stage
from maskmill.refine import refine_scores, refine_step
from maskmill.rounds import Traits
from maskmill.store.artefact import read_tensors

if TYPE_CHECKING:
    import torch

    from maskmill.recipe.sections import Refine

FORMAT = "maskmill-student-1"


def finest(tokens: Mapping[str, np.ndarray]) -> tuple[int, int]:
    """The grid (h, w) with most cells of several feature sets [h, w, d] of one image."""
    grids = [(int(part.shape[0]), int(part.shape[1])) for part in tokens.values()]
    return max(grids, key=lambda grid: grid[0] * grid[1])


class Student:
    """A student of any method.

    What it sees of an image is its `view`: {feature set: tokens [h, w, d]}, or, where `photos` is true, the photo
    itself, uint8 RGB [H, W, 3]. A student of instances also takes the instances that it predicted before (`instances`).

    >>> student = Student.load("results/recipes/comus/seed0/round2/student.safetensors")
    >>> mask = student.mask({"grouping": tokens, "semantic": other})        # [h, w, d] each

    Attributes:
        clusters: number of clusters k; classes are background and clusters 1..k.
        photos: whether it sees photos instead of features. objects: whether it predicts instances; its masks are
            painted from them.
        features: names of the feature sets, in order. feature_params: how each set was made, as far as its store said.
        things: classes 1..things are of things, the others of stuff; None for a student that knows no such thing.
        upsample: mask cells a side for each of its logits. spec: everything the file's metadata says.
        hash: of what made the file that it was read from.
    """

    def __init__(
        self, tensors: Mapping[str, np.ndarray], spec: Mapping[str, Any], device: torch.device, hash: str = ""
    ) -> None:
        self.spec, self.device, self.hash = dict(spec), device, hash
        self.clusters = int(spec["clusters"])
        self.things: int | None = spec.get("things")
        self.features: list[str] = list(spec["features"])
        self.feature_params: dict[str, Any] = dict(spec["features"])
        stage = Stage.of("rounds", spec["rounds"], "student")
        traits: Traits = stage.module.TRAITS
        self.photos, self.objects = traits.photos, traits.instances
        self.upsample = 1 if self.objects else int(stage.params.upsample)
        self.model = stage.module.load(tensors, spec, stage.params, device)

    @classmethod
    def load(cls, path: str | Path, device: str = "cpu") -> Student:
        """Read a student file.

        Raises:
            StoreError: absent, truncated, or not a student.
        """
        from maskmill.device import pick

        tensors, provenance = read_tensors(path)
        spec = provenance.get("params", {})
        if spec.get("format") != FORMAT:
            raise StoreError(f"{path}: not a student file; expected results/recipes/<recipe>/seed<n>/round<r>/student")
        try:
            return cls(tensors, spec, pick(device), str(provenance["hash"]))
        except (KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise StoreError(f"{path}: the student does not fit its own metadata ({reason}); train it again") from error

    def instances(self, view: Any) -> Instances:
        """Instances of a photo, best first; they may overlap.

        Raises:
            StoreError: a student that predicts masks only.
        """
        if not self.objects:
            raise StoreError(f"student {self.spec['rounds']['student']}: predicts masks, no instances")
        return view if isinstance(view, Instances) else self.model.instances(view)

    def _maps(self, view: Any) -> np.ndarray:
        """Logits [k + 1, h, w] float32, `upsample` times coarser than the mask."""
        return self.model.logits(self.instances(view) if self.objects else view)

    def logits(self, view: Any) -> np.ndarray:
        """Logits [k + 1, H, W] float32, bilinear, at the size of the mask."""
        maps = self._maps(view)
        return resize_maps(maps, (maps.shape[1] * self.upsample, maps.shape[2] * self.upsample))

    def mask(self, view: Any) -> np.ndarray:
        """Mask [H, W] of the best class: 0 background, 1..k clusters."""
        if self.objects:
            return self.model.paint(self.instances(view))[0]
        return upsample_scores(self._maps(view), self.upsample).astype(mask_dtype(self.clusters))

    def sure_mask(self, view: Any) -> tuple[np.ndarray, np.ndarray]:
        """`mask`, and how sure each of its cells is, in steps of 1/255, uint8 [H, W].

        That is the softmax of the best class, or what `maskmill.images.instances.paint` says.
        """
        if self.objects:
            mask, sure = self.model.paint(self.instances(view))
            return mask, _in_steps(sure)
        label, best = upsample_softmax(self._maps(view), self.upsample)
        return label.astype(mask_dtype(self.clusters)), _in_steps(best)

    def refined_mask(
        self, view: Any, photo: np.ndarray, settings: Refine, valid: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """`sure_mask` fitted to the edges of the photo uint8 [*, *, 3], where it is `valid` [*, *].

        The confidence of a cell is the softmax, before refinement, of the class that the cell has after it.
        """
        maps = self._maps(view)
        best = upsample_scores(maps, self.upsample)
        step = 1 if self.photos else refine_step(self.upsample)
        photo = resize(photo, (best.shape[0] * step, best.shape[1] * step))
        shown = valid_cells(valid, (best.shape[0], best.shape[1]))
        label = refine_scores(maps, best, photo, settings, None if shown is None else ~shown)
        return label.astype(mask_dtype(self.clusters)), _in_steps(softmax_at(maps, label))


def _in_steps(share: np.ndarray) -> np.ndarray:
    """A share in steps of 1/255, rounded down, uint8."""
    return np.floor(share * 255).clip(0, 255).astype(np.uint8)
