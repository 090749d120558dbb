"""A trained student, read from its file alone, applied to the feature sets of one image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskmill.artefact import read_tensors
from maskmill.config import validate
from maskmill.errors import StoreError
from maskmill.interpolate import resize_maps, upsample_scores
from maskmill.masks import mask_dtype
from maskmill.registry import load

if TYPE_CHECKING:
    import torch

FORMAT = "maskmill-student-1"


class Student:
    """A token head with the projections of its feature sets.

    >>> student = Student.load("results/recipes/comus/seed0/round2/student.safetensors")
    >>> mask = student.mask({"grouping": tokens, "semantic": other})        # [h, w, d] each

    Attributes:
        clusters: number of clusters k; classes are background and clusters 1..k.
        features: names of the feature sets, in order. feature_params: how each set was made, as far as its store said.
        upsample: mask cells a token side. spec: everything the file's metadata says.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], spec: Mapping[str, Any], device: torch.device) -> None:
        import torch

        from maskmill.rounds._data import Projection

        self.spec, self.device = dict(spec), device
        self.clusters = int(spec["clusters"])
        self.features: list[str] = list(spec["features"])
        self.feature_params: dict[str, Any] = dict(spec["features"])
        section = dict(spec["rounds"])
        method = load("rounds", section["student"])
        fields = {key: value for key, value in section.items() if key in method.Params.model_fields}
        params = validate(method.Params, fields, "student", "rounds")
        self.upsample = int(params.upsample)  # type: ignore[attr-defined]
        self.projections = {
            name: Projection(tensors[f"{name}.mean"], tensors[f"{name}.weight"]) for name in self.features
        }
        inputs = sum(projection.weight.shape[1] for projection in self.projections.values())
        self.head = method.build(inputs, self.clusters + 1, params)
        prefix = "head."
        state = {key[len(prefix) :]: torch.from_numpy(v) for key, v in tensors.items() if key.startswith(prefix)}
        self.head.load_state_dict(state)
        self.head.eval().to(device)

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
            return cls(tensors, spec, pick(device))
        except (KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise StoreError(f"{path}: the student does not fit its own metadata ({reason}); train it again") from error

    def token_logits(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Logits [k + 1, h, w] float32 on the finest token grid of {name: tokens [h, w, d]}."""
        import torch

        from maskmill.rounds._data import align

        x = torch.from_numpy(align(features, self.projections)[None]).to(self.device)
        with torch.inference_mode():
            valid = torch.ones((1, 1, *x.shape[2:]), device=self.device)
            return self.head(x, valid)[0].float().cpu().numpy()

    def logits(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Logits [k + 1, H, W] float32, bilinear, `upsample` cells a token side."""
        maps = self.token_logits(features)
        return resize_maps(maps, (maps.shape[1] * self.upsample, maps.shape[2] * self.upsample))

    def mask(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        """Mask [H, W] of the best class: 0 background, 1..k clusters."""
        return upsample_scores(self.token_logits(features), self.upsample).astype(mask_dtype(self.clusters))
