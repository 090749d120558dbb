"""The trained network at work: a photo in, instances out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from maskmill.device import autocast
from maskmill.images.instances import Instances
from maskmill.rounds._detections import Painting, candidates, decode
from maskmill.rounds._photo_training import state_of
from maskmill.rounds.freesolo.network import SoloNet, build, masks_of
from maskmill.rounds.freesolo.params import Params


class SoloPredictor(Painting):
    """A trained network; see `freesolo.load`."""

    def __init__(
        self, tensors: Mapping[str, np.ndarray], spec: Mapping[str, Any], params: Params, device: torch.device
    ) -> None:
        super().__init__(spec, params, device)
        network = build(self.facts["architecture"], self.clusters + 1, params)
        network.load_state_dict(state_of(tensors))
        self.network: SoloNet = network.eval().to(device)

    def instances(self, view: np.ndarray) -> Instances:
        """Instances of a photo uint8 [H, W, 3], resized to `size`; best first."""
        with torch.inference_mode():
            x = self.seen(view, self.network.shape.multiple)
            with autocast(self.device):
                found = self.network(x)
            features, kernels = found.features[0].float(), found.kernels[0].float()
            p = peaks(torch.sigmoid(found.logits[0].float())[:, 1:], self.network.grids)
            best, label = (value.cpu().numpy() for value in p.max(dim=1))
            keep = candidates(best, self.settings.least_score)
            chosen = torch.from_numpy(keep).to(self.device)
            maps = torch.sigmoid(masks_of(features, kernels[chosen])).cpu().numpy()
        return decode(maps, best[keep], label[keep] + 1, self.settings)


def peaks(p: torch.Tensor, grids: tuple[int, ...]) -> torch.Tensor:
    """Probabilities [L, k] of cells that none of the three cells above and left of it exceeds; 0 of all others."""
    parts = []
    for part, side in zip(p.split([side * side for side in grids]), grids, strict=True):
        heat = part.T.view(1, -1, side, side)
        most = nn.functional.max_pool2d(heat, 2, stride=1, padding=1)[:, :, :-1, :-1]
        parts.append((heat * (heat == most)).view(-1, side * side).T)
    return torch.cat(parts)
