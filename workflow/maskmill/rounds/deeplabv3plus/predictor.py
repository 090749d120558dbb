"""The trained network at work: a photo in, logits out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from maskmill.device import autocast
from maskmill.images.decode import resize, target_size
from maskmill.recipe.base import validate
from maskmill.rounds._photo_training import normalise, state_of
from maskmill.rounds.deeplabv3plus.network import build
from maskmill.rounds.deeplabv3plus.params import Params


class PixelPredictor:
    """A trained network; see `deeplabv3plus.load`."""

    def __init__(
        self, tensors: Mapping[str, np.ndarray], spec: Mapping[str, Any], params: Params, device: torch.device
    ) -> None:
        self.device, self.size = device, validate(type(params.size), params.size.model_dump(), "student", "size")
        self.facts = spec["diagnostics"]["encoder"]
        network = build(self.facts["architecture"], int(spec["clusters"]) + 1, params)
        network.load_state_dict(state_of(tensors))
        self.network = network.eval().to(device)

    def logits(self, view: np.ndarray) -> np.ndarray:
        """Logits [k + 1, h, w] float32 of a photo uint8 [H, W, 3], resized to `size`; a cell is 4 px."""
        photo = resize(view, target_size(view.shape[0], view.shape[1], self.size, 32))
        with (
            torch.inference_mode(),
            autocast(self.device),
        ):
            x = normalise(torch.from_numpy(photo.copy())[None].to(self.device), self.facts)
            return self.network(x)[0].float().cpu().numpy()
