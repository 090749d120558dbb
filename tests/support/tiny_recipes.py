"""Every shipped recipe, small enough that one run takes all of them: each file gets one more preset, `tiny`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
THREE: dict[str, Any] = {"cluster": {"clusters": 3}}
PCA: dict[str, Any] = {"reduce": {"method": "pca", "dimensions": 4}}
GRAPH: dict[str, Any] = {"reduce": {"method": "pca", "dimensions": 6}}
ROUND: dict[str, Any] = {"count": 1, "student": "token_head", "steps": 20}
# What `cutler` and `maskdistill` train in seconds: forty steps of a narrow network.
INSTANCES: dict[str, Any] = {
    "steps": 40, "batch_size": 4, "crop": 112, "size": {"short_side": 112}, "width": 32, "keep_score": 0.2,
}  # fmt: skip
SIZES = {"grouping": 224, "semantic": 128, "early": 128, "late": 128}
RESNET: dict[str, Any] = {"features": {"semantic": {"backbone": {"pretrain": "resnet18"}, "size": {"square": 128}}}}
WHOLE = {"steps": 4, "batch_size": 4, "micro_batch": 2, "crop": 64, "dimensions": 8, "hidden": 16}
CROPS = WHOLE | {"local_crop": 32, "local_crops": 1}
CUT: dict[str, Any] = {"features": {"grouping": {"size": {"square": 112}}}}
# Recipe -> what the preset changes; a recipe that is small as it is needs no entry.
# A dozen regions vary in fewer directions than COMUS keeps.
TINY: dict[str, dict[str, Any]] = {
    "acseg": THREE | {"adapt": {"steps": 20, "batch_size": 4, "blocks": 1, "hidden": 32, "side": 8}},
    "cause": THREE | {"adapt": {
        "steps": 80, "codebook_steps": 20, "probe_steps": 40, "batch_size": 4, "head": "mlp", "dimensions": 8,
        "concepts": 16, "stride": 1, "projection": 16, "bank": 4}},
    "comus": THREE | PCA | {"rounds": {"count": 2, "steps": 60}},
    "cutler": CUT | {"cut": {"refine": "none"}, "rounds": {
        "count": 2, **INSTANCES, "from_round": {2: {"steps": 4, "keep_score": 0.2}}}},
    "depthg": THREE | {"adapt": {"steps": 40, "neighbours": 3, "places": 5, "dimensions": 16}},
    "dinosaur": THREE | {"adapt": {
        "steps": 100, "batch_size": 4, "masks": "decoder", "slots": 3, "slot_size": 32, "width": 32, "input_width": 32,
        "layers": 1, "iterations": 2, "learning_rate": 2e-2, "warmup": 5, "halve_every": 200}},
    "dino": THREE | {"pretrain": {
        "steps": 4, "batch_size": 4, "micro_batch": 2, "crop": 64, "local_crop": 32, "local_crops": 1, "prototypes": 32,
        "hidden": 16, "bottleneck": 8}},
    "deepcluster": THREE | RESNET | {"pretrain": CROPS | {"clusters": [3, 2]}},
    "diffcut": THREE | CUT,
    "dsm": THREE | {"cut": {"segments": 4}, "rounds": ROUND},
    "freesolo": CUT | {"rounds": {
        "count": 2, "steps": 40, "batch_size": 4, "crop": 112, "size": {"short_side": 112}, "width": 32, "kernels": 16,
        "layers": 1, "grids": [10, 9, 6, 4, 3], "unfrozen": 0, "schedule": "cosine", "learning_rate": 5e-3,
        "pair_steps": 20, "least_score": 0.0, "from_round": {2: {"steps": 4, "start": "continue", "keep_score": 0.1}}}},
    "found": {"adapt": {"steps": 20, "background_steps": 8, "batch_size": 4}},
    "eagle": THREE | {"adapt": {
        "steps": 20, "warmup": 5, "batch_size": 4, "dimensions": 8, "places": 4, "segments": 8}},
    "hdbscan": GRAPH | {"cluster": {"min_cluster_size": 6, "min_samples": 3, "fine": 300, "noise": "ignore"}},
    "hnne": THREE,
    "hp": THREE | {"adapt": {
        "steps": 20, "warmup": 5, "batch_size": 4, "tokens": 16, "dimensions": 16, "pool": 16, "renew": 10}},
    "iic": THREE | {"adapt": {"steps": 60, "batch_size": 4, "hidden": 0, "dimensions": 16, "learning_rate": 1e-2}},
    "kcut": THREE | CUT,
    "kmeans": THREE | PCA,
    "kmeans_whitened": THREE,
    "leiden": GRAPH | {"cluster": {"clusters": None, "neighbours": 8, "fine": 100}},
    "leopart": {"foreground": {"clusters": 12}, "cluster": {"fine": 8, "clusters": 2, "unlinked": "clusters"},
                "pretrain": {
        "steps": 4, "batch_size": 4, "micro_batch": 2, "crop": 70, "local_crop": 28, "local_crops": 1,
        "prototypes": 8, "hidden": 16, "dimensions": 8, "queue": 16, "align": 3}},
    "leopart_cbfe": {"foreground": {"clusters": 12}, "cluster": {"fine": 8, "clusters": 2}},
    "leopart_cd": {"cluster": {"fine": 20, "clusters": 3}},
    "lost": CUT,
    "maskcontrast": THREE | {"features": {"grouping": {"size": {"square": 112}}, "semantic": {"size": {"square": 128}}},
                             "pretrain": {"steps": 3, "batch_size": 4, "micro_batch": 2, "crop": 64, "queue": 8}},
    "maskcut": CUT,
    "maskdistill": THREE | {"rounds": {"count": 2, **INSTANCES, "paint_score": 0.1, "from_round": {
        2: {"student": "deeplabv3plus", "encoder": "semantic", "steps": 12, "batch_size": 4, "crop": 64, "width": 32,
            "unfrozen": 0, "learning_rate": 5e-3, "balance": 1.0, "refine": "none"}}}},
    "mdc": THREE | {"adapt": {"steps": 20, "batch_size": 4, "hidden": 16, "dimensions": 16, "epoch_steps": 5}},
    "moco": THREE | RESNET | {"pretrain": WHOLE | {"queue": 10}},
    "named": {"cluster": {"clusters": 6}},
    "ncut_color": THREE | {"features": {"colour": {"size": {"long_side": 96}}}, "rounds": ROUND},
    "ncut": {"cluster": {"clusters": 3, "fine": 100}},
    "neco": THREE | {"pretrain": {
        "steps": 4, "batch_size": 4, "micro_batch": 2, "global_side": 56, "local_side": 28, "local_crops": 1,
        "align": 3, "hidden": 16, "dimensions": 8, "queue": 64}},
    "nuclei": {},
    "overcluster": {"cluster": {"clusters": 3, "fine": 30}},
    "pca": THREE | {"reduce": {"dimensions": 8}},
    "peekaboo": {"features": {"grouping": {"size": {"square": 112}}},
                 "adapt": {"steps": 10, "background_steps": 5, "batch_size": 4}},
    "picie": THREE | {"adapt": {"steps": 20, "batch_size": 4, "hidden": 16, "dimensions": 16, "epoch_steps": 5}},
    "picie_h": THREE | {"adapt": {
        "steps": 20, "batch_size": 4, "hidden": 16, "dimensions": 16, "epoch_steps": 5, "over_clusters": 8}},
    "promerge": CUT | {"cut": {"refine": "none", "stride": 2}},
    "primaps_em": THREE | {"adapt": {"steps": 20, "probe_steps": 5, "batch_size": 4}},
    "slotcon": THREE | {
        "pretrain": {"start": "scratch", "steps": 4, "batch_size": 4, "micro_batch": 2, "side": 64, "prototypes": 8,
                     "hidden": 16, "dimensions": 8, "stride": 16},
        "features": {"semantic": {"backbone": {"pretrain": "resnet18"}}}},
    "segsort": THREE | {"features": {"colour": {"size": {"long_side": 112}}, "semantic": {"size": {"square": 128}}},
                        "pretrain": {"steps": 3, "batch_size": 4, "micro_batch": 2, "crop": 64}},
    "selective": {"features": {"colour": {"size": {"long_side": 96}}}},
    "sift": THREE | {"features": {"texture": {"size": {"square": 128}}}},
    "smooseg": THREE | {"adapt": {"steps": 20, "batch_size": 4, "tokens": 20, "dimensions": 16}},
    "spectral": {"cluster": {"clusters": 3, "neighbours": 8, "fine": 100}},
    "stego": THREE | {"adapt": {"steps": 40, "neighbours": 3, "places": 5, "dimensions": 16}},
    "swav": THREE | RESNET | {"pretrain": CROPS | {"prototypes": 6, "queue": 6, "queue_start": 0.25}},
    "tokencut": CUT,
    "transfgu": THREE | {"adapt": {
        "steps": 80, "epoch_steps": 40, "bootstrap": 1, "intervals": [2], "batch_size": 4, "width": 32, "heads": 2,
        "blocks": 1, "scales": [0.6], "foreground": 0.5, "learning_rate": 2e-3}},
    "u2seg": THREE | CUT | {"cut": {"refine": "none"}, "paint": {"stuff": {"clusters": 4}}, "rounds": {
        **INSTANCES, "paint_score": 0.1, "stuff_area": 0.01}},
    "umap": THREE,
    "unsam": THREE | CUT | {"cut": {"refine": "none", "leaves": 40}},
}  # fmt: skip


def write(folder: Path, name: str, **more: Any) -> str:
    """A recipe as it is shipped, with its preset `tiny`; the path of the copy, by which a run names it.

    Args:
        more: sections over those of the preset.
    """
    body = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    sizes = {key: {"size": {"square": SIZES[key]}} for key in body["features"] if key in SIZES}
    tiny = TINY.get(name, {}) | more
    body.setdefault("presets", {})["tiny"] = tiny | {"features": sizes | tiny.get("features", {})}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(body, sort_keys=False))
    return str(path)
