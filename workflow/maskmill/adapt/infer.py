"""A trained head, read from its file alone, applied to one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskmill.adapt._data import on_device, stack
from maskmill.device import pick
from maskmill.errors import StoreError
from maskmill.numerics.neighbours import unit_rows
from maskmill.recipe.feature_set import FeatureSet
from maskmill.recipe.model import Stage
from maskmill.store.artefact import read_tensors

if TYPE_CHECKING:
    import torch

FORMAT = "maskmill-head-1"


class Head:
    """A trained head of any method.

    What it sees of an image is its `view`: tokens [h, w, d] of the feature set that it was trained on, or, where
    `sees_photos` is true, the photo itself, uint8 RGB [H, W, 3] (see `resized`).

    Attributes:
        spec: parameters, clusters, length of a token, the feature set that it was trained on. code_length: c.
        prototypes: [k, c] float32 of unit length, or None. hash: of what made the file that it was read from.
        per_image: its codes are masks of one image (see `maskmill.adapt.Traits`).
    """

    def __init__(
        self, tensors: Mapping[str, np.ndarray], spec: Mapping[str, Any], device: torch.device, hash: str = ""
    ) -> None:
        import torch

        stage = Stage.of("adapt", spec["adapt"])
        method, clusters = stage.module, int(spec["clusters"])
        self.spec, self.device, self.hash = spec, device, hash
        self.method, self.per_image = str(stage.method), bool(method.TRAITS.per_image)
        self.code_length = int(method.code_length(stage.params, clusters))
        size = int(spec["depth"]), stage.params, clusters
        self._encoder = None
        if "encoder" in spec:
            from maskmill.adapt._encoder import Encoder

            self._encoder = Encoder.of(spec["encoder"], device)
        self.module = method.build(*size) if self._encoder is None else method.build(*size, self._encoder)
        state = {name.removeprefix("head."): torch.from_numpy(value) for name, value in tensors.items()}
        self.module.load_state_dict(state)
        self.module.to(device).eval()
        kept = dict(self.module.named_children()).get("prototypes")
        self.prototypes = None if kept is None else unit_rows(kept.weight.detach().cpu().numpy())

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> Head:
        """Read a head; a file that is none is a StoreError."""
        tensors, provenance = read_tensors(path)
        spec = provenance.get("params", {})
        if spec.get("format") != FORMAT:
            raise StoreError(f"{path}: not a head of the adapt stage; check the path")
        return cls(tensors, spec, pick(device), str(provenance["hash"]))

    @property
    def sees_photos(self) -> bool:
        """Whether it was trained together with its backbone, which is then in its file."""
        return self._encoder is not None

    @property
    def feature_set(self) -> FeatureSet:
        """The level of the backbone below it, for a head that sees photos."""
        return self._with_backbone.set

    @property
    def concurrent(self) -> bool:
        """Whether several threads of a CPU may each make the codes of an image.

        Not with the backbone of a ViT: its position embeddings are set to the grid of the image at hand.
        """
        return self._encoder is None or not self._encoder.backbone.is_vit

    def resized(self, photo: np.ndarray) -> np.ndarray:
        """A photo uint8 [*, *, 3] in the size that the head was trained on, uint8 [H, W, 3]."""
        from maskmill.images.decode import to_target

        return to_target(photo, self._with_backbone.set.size, self._with_backbone.multiple)

    @property
    def _with_backbone(self) -> Any:
        assert self._encoder is not None
        return self._encoder.backbone

    def codes(self, view: np.ndarray) -> np.ndarray:
        """Codes [h, w, c] float32 of one image, from its tokens [h, w, d] or its photo uint8 [H, W, 3]."""
        import torch

        with torch.inference_mode():
            x = torch.from_numpy(view.astype(np.float32)).permute(2, 0, 1)[None].to(self.device)
            return self.module.codes(x)[0].permute(1, 2, 0).float().cpu().numpy()  # type: ignore[no-any-return]

    def several(self, views: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Codes [h, w, c] float32 of some images whose views have one shape, in one pass."""
        import torch

        with torch.inference_mode():
            codes = self.module.codes(on_device(stack(views), self.device))
            return list(codes.permute(0, 2, 3, 1).float().cpu().numpy())
