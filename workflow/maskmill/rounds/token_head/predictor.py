"""The token head at work: feature sets of one image in, logits on the finest token grid out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from maskmill.rounds.token_head.features import Projection, align
from maskmill.rounds.token_head.network import TokenDecoder
from maskmill.rounds.token_head.params import Params


def projections_of(tensors: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, Projection]:
    """The projections that a student's file holds."""
    return {name: Projection(tensors[f"{name}.mean"], tensors[f"{name}.weight"]) for name in names}


class TokenPredictor:
    """A head with the projections of its feature sets; see `token_head.load`."""

    def __init__(
        self, tensors: Mapping[str, np.ndarray], spec: Mapping[str, Any], params: Params, device: torch.device
    ) -> None:
        self.device = device
        self.projections = projections_of(tensors, list(spec["features"]))
        inputs = sum(projection.weight.shape[1] for projection in self.projections.values())
        self.head = TokenDecoder(inputs, params.hidden, params.layers, int(spec["clusters"]) + 1)
        prefix = "head."
        state = {key[len(prefix) :]: torch.from_numpy(v) for key, v in tensors.items() if key.startswith(prefix)}
        self.head.load_state_dict(state)
        self.head.eval().to(device)

    def logits(self, view: Mapping[str, np.ndarray]) -> np.ndarray:
        """Logits [k + 1, h, w] float32 of {name: tokens [h, w, d]}, on the finest grid."""
        x = torch.from_numpy(align(view, self.projections)[None]).to(self.device)
        with torch.inference_mode():
            valid = torch.ones((1, 1, *x.shape[2:]), device=self.device)
            return self.head(x, valid)[0].float().cpu().numpy()
