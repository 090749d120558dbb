"""Every method under mixed precision: losses are finite, and what is compared with others has single precision."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import photo_rows
import pytest
import torch

from maskmill.backbones.learning import Origin, build, drawing
from maskmill.pretrain._views import Normalisation, Photos
from maskmill.recipe import registry
from maskmill.recipe.feature_set import FeatureSet

SMALL: dict[str, dict[str, Any]] = {
    "deepcluster": {"crop": 32, "local_crop": 16, "local_crops": 1, "clusters": (3, 3), "dimensions": 8, "hidden": 16},
    "dino": {"crop": 32, "local_crop": 16, "local_crops": 1, "prototypes": 16, "hidden": 16, "bottleneck": 8,
             "patch_weight": 1.0, "hide_chance": 1.0},
    "leopart": {"crop": 32, "local_crop": 16, "local_crops": 1, "align": 3, "hidden": 16, "dimensions": 8,
                "prototypes": 8, "queue": 16},
    "maskcontrast": {"crop": 32, "dimensions": 8, "width": 16, "queue": 8},
    "moco": {"crop": 32, "dimensions": 8, "queue": 16},
    "neco": {"global_side": 32, "local_side": 16, "local_crops": 1, "align": 3, "hidden": 16, "dimensions": 8,
             "queue": 60},
    "segsort": {"crop": 32, "dimensions": 8, "width": 16, "parts": 2},
    "slotcon": {"side": 64, "prototypes": 8, "hidden": 16, "dimensions": 8},
    "swav": {"crop": 32, "local_crop": 16, "local_crops": 1, "prototypes": 8, "dimensions": 8, "hidden": 16,
             "queue": 0},
}  # fmt: skip


@pytest.mark.parametrize("method", registry.available("pretrain"))
def test_a_step_in_bfloat16(method: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    module = registry.load("pretrain", method)
    known = {key: value for key, value in SMALL[method].items() if key in module.Params.model_fields}
    assert known.keys() == SMALL[method].keys()
    params = module.Params(**({"steps": 8, "batch_size": 4, "micro_batch": 2} | known))
    rows = photo_rows.rows_of(tmp_path_factory.mktemp("photos"), 8)
    segments = (lambda image_id: np.array([[1, 2], [2, 1]])) if module.TRAITS.segments else None
    photos = Photos(rows, module, params, Normalisation((0.5,) * 3, (0.25,) * 3), 1, 0, segments)
    torch.manual_seed(0)
    learner = module.build(build(Origin(FeatureSet(backbone="test_vit"), "test_vit")), params, len(rows)).train()
    learner.before(0, photos)
    cpu, draws = torch.device("cpu"), torch.Generator().manual_seed(0)
    micros = [photos.shown(each, cpu) for each in photos.read(photos.micro_batches(0))]
    with torch.autocast("cpu", torch.bfloat16), drawing(draws):
        outputs = [learner.outputs(views, draws, 0) for views in micros]
    shared = [learner.shared(each) for each in outputs]
    floats = {name for each in shared for name, value in each.items() if value.is_floating_point()}
    assert {name for name in floats if any(each[name].dtype == torch.bfloat16 for each in shared)} == set()
    with torch.no_grad():
        targets = learner.targets({name: [each[name] for each in shared] for name in shared[0]}, 0)
    learning = [p for group in learner.groups() for p in group.parameters]
    for place, each in enumerate(outputs):
        with torch.autocast("cpu", torch.bfloat16):
            loss, weight, told = learner.loss(each, targets, place, 0)
        assert math.isfinite(float(loss))
        assert weight > 0
        assert set(told) == set(learner.monitors)
        found = torch.autograd.grad(loss * weight, learning, allow_unused=True)
        assert all(torch.isfinite(grad).all() for grad in found if grad is not None)
    learner.after(targets, 0)
