"""The trained instance network at work: a photo in, instances out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from maskmill.device import autocast
from maskmill.images.instances import Instances
from maskmill.rounds._detections import Painting, candidates, decode
from maskmill.rounds._photo_training import state_of
from maskmill.rounds.instance.network import InstanceNet, RawPredictions, build, masks_of
from maskmill.rounds.instance.params import Params


class InstancePredictor(Painting):
    """A trained network; see `instance.load`."""

    def __init__(
        self, tensors: Mapping[str, np.ndarray], spec: Mapping[str, Any], params: Params, device: torch.device
    ) -> None:
        super().__init__(spec, params, device)
        self.params = params
        network = self.built(spec)
        network.load_state_dict(state_of(tensors))
        self.network: InstanceNet = network.eval().to(device)

    def built(self, spec: Mapping[str, Any]) -> InstanceNet:
        """The network with random weights, of the metadata of a student's file."""
        return build(self.facts["architecture"], self.clusters + 1, self.params)

    def instances(self, view: np.ndarray) -> Instances:
        """Instances of a photo uint8 [H, W, 3], resized to `size`; best first."""
        return self.decoded(self.predicted(view))

    def predicted(self, view: np.ndarray) -> Any:
        """What the network says of a photo uint8 [H, W, 3], resized to `size`."""
        with torch.inference_mode():
            x = self.seen(view, self.network.shape.multiple)
            with autocast(self.device):
                return self.network(x)

    def decoded(self, found: RawPredictions) -> Instances:
        """The instances of one image, best first."""
        with torch.inference_mode():
            features, kernels = found.features[0].float(), found.kernels[0].float()
            p = torch.softmax(found.logits[0].float(), dim=1)[:, 1:]
            best, label = (value.cpu().numpy() for value in p.max(dim=1))
            keep = candidates(best, self.params.least_score)
            chosen = torch.from_numpy(keep).to(self.device)
            maps = torch.sigmoid(masks_of(features, kernels[chosen], found.places[chosen])).cpu().numpy()
        return decode(maps, best[keep], label[keep] + 1, self.params)
