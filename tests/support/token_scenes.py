"""Drawn token grids for the heads of the stage adapt, and settings with which each head learns in a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from maskmill.store.provenance import Provenance
from maskmill.store.ragged import RaggedWriter

DEPTH = 16
# Settings that end in a second on the toy images below; a method without an entry runs with its own few steps.
FAST: dict[str, dict] = {
    "acseg": {"steps": 60, "batch_size": 8, "concepts": 5, "blocks": 1, "heads": 2, "hidden": 16,
              "learning_rate": 5e-3},
    "cause": {"steps": 60, "codebook_steps": 15, "probe_steps": 30, "batch_size": 8, "head": "mlp", "dropout": 0.0,
              "dimensions": 8, "concepts": 12, "crops": "none", "stride": 1, "projection": 16, "bank": 8,
              "learning_rate": 2e-2},
    "dinosaur": {"steps": 120, "batch_size": 8, "masks": "slots", "slots": 4, "slot_size": 32, "width": 32,
                 "input_width": 32, "layers": 1, "side": 6, "iterations": 2, "learning_rate": 2e-2, "warmup": 30,
                 "halve_every": 200},
    "eagle": {"steps": 60, "batch_size": 8, "dimensions": 8, "places": 4, "colour": 0, "segments": 6, "warmup": 20},
    "stego": {"steps": 60, "batch_size": 8, "dimensions": 8, "places": 4},
    "hp": {"steps": 60, "batch_size": 4, "dimensions": 8, "pool": 16, "renew": 20, "warmup": 20, "negatives": 0.5},
    "primaps_em": {"steps": 60, "batch_size": 4, "probe_steps": 20},
    "smooseg": {
        "steps": 60,
        "batch_size": 8,
        "dimensions": 8,
        "learning_rate": 5e-3,
        "prototype_rate": 5e-3,
        "momentum": 0.9,
    },
    "iic": {"steps": 60, "batch_size": 8, "dimensions": 16, "hidden": 0, "shift": 1, "learning_rate": 1e-2},
    "mdc": {"steps": 60, "batch_size": 8, "dimensions": 8, "hidden": 8, "epoch_steps": 15, "learning_rate": 1e-3},
    "picie": {"steps": 60, "batch_size": 8, "dimensions": 8, "hidden": 8, "epoch_steps": 15, "learning_rate": 1e-3},
}  # fmt: skip


def write(folder: Path, images: dict[str, np.ndarray], shards: int = 1, backbone: str = "toy") -> list[Path]:
    """Feature stores of these images, dealt out over shards."""
    made = Provenance.of("features", {"backbone": backbone})
    paths = []
    for shard in range(shards):
        paths.append(folder / f"s{shard}.zarr")
        with RaggedWriter(paths[-1], "features", depth=DEPTH, provenance=made) as out:
            for name in list(images)[shard::shards]:
                out.append(name, images[name])
    return paths


def scenes(count: int = 16, size: tuple[int, int] = (8, 10), seed: int = 0) -> dict[str, np.ndarray]:
    """Images of two halves, each of one of three materials with noise."""
    rng = np.random.default_rng(seed)
    materials = 3 * np.linalg.qr(np.random.default_rng(7).standard_normal((DEPTH, DEPTH)))[0][:3]
    images = {}
    for i in range(count):
        label = np.zeros(size, int)
        label[:, : size[1] // 2], label[:, size[1] // 2 :] = rng.choice(3, 2, replace=False)
        images[f"im{i:02d}"] = (materials[label] + 0.3 * rng.standard_normal((*size, DEPTH))).astype("f4")
    return images
