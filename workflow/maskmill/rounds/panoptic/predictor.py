"""The trained panoptic network at work: a photo in, instances and a semantic map out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from maskmill.errors import StoreError
from maskmill.images.instances import Instances
from maskmill.images.interpolate import resize_maps
from maskmill.images.masks import mask_dtype
from maskmill.rounds.instance.network import InstanceNet
from maskmill.rounds.instance.predictor import InstancePredictor
from maskmill.rounds.panoptic.merge import Found, merged
from maskmill.rounds.panoptic.network import build
from maskmill.rounds.panoptic.params import Params


class PanopticPredictor(InstancePredictor):
    """A trained network; see `panoptic.load`."""

    params: Params

    def built(self, spec: Mapping[str, Any]) -> InstanceNet:
        """The network with random weights, of the metadata of a student's file."""
        self.things = int(spec["things"])
        return build(self.facts["architecture"], self.things, self.clusters - self.things, self.params)

    def instances(self, view: np.ndarray) -> Found:
        """Instances of a photo uint8 [H, W, 3], resized to `size`, best first, and a semantic map on their grid."""
        raw, maps = self.predicted(view)
        found, logits = self.decoded(raw), maps[0].float().cpu().numpy()
        fine = resize_maps(logits, (logits.shape[1] * self.params.upsample, logits.shape[2] * self.params.upsample))
        p = torch.softmax(torch.from_numpy(fine), dim=0).numpy()
        return Found(found.masks, found.labels, found.scores, fine.argmax(axis=0), p.max(axis=0))

    def paint(self, found: Instances) -> tuple[np.ndarray, np.ndarray]:
        """Mask and how sure each cell is; see `maskmill.rounds.panoptic.merge`.

        Raises:
            StoreError: instances without the semantic map that they were found with.
        """
        if not isinstance(found, Found):
            raise StoreError("student panoptic: paints photos, not stored instances; leave out --instances")
        return merged(found, self.things, self.params, mask_dtype(self.clusters))
