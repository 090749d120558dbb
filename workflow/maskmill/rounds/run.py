"""rounds: train a student on the masks of the round before, predict the masks of this round. Files of the stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskmill.artefact import Provenance, json_hash, read_tensors, write_json, write_tensors
from maskmill.config import METHOD_KEY, validate
from maskmill.device import pick
from maskmill.errors import StoreError
from maskmill.masks import ignore_value, mask_dtype
from maskmill.progress import track
from maskmill.registry import load
from maskmill.rounds._checkpoint import Keeper
from maskmill.rounds.infer import FORMAT, Student
from maskmill.store import Ragged, RaggedWriter

if TYPE_CHECKING:
    import torch


def train(
    features: Mapping[str, Sequence[str | Path]],
    masks: Sequence[str | Path],
    params: Mapping[str, Any],
    round: int,
    seed: int,
    clusters: int,
    out: str | Path,
    threads: int = 1,
    device: str = "auto",
    timing: str | Path | None = None,
    checkpoint_steps: int = 0,
) -> None:
    """Train the student of round `round` >= 1 on the masks of round - 1.

    Args:
        features: {name: feature stores of all shards}.
        masks: mask stores of all shards, round - 1.
        params: the flat `rounds` section.
        clusters: k; the student has k + 1 classes, 0 is background.
        out: safetensors: projections, head, loss of every step; metadata that suffices to predict on new images.
        timing: JSON of seconds, images a second and the share of time waiting for data. It is a file of its own,
            so that the student is the same bytes on every machine.
        checkpoint_steps: steps between two checkpoints; 0 writes one only when SIGTERM or SIGUSR1 comes.

    Raises:
        NumericsError: nothing but ignore in the masks, constant features, or a loss that is not finite.
        StoreError: an image of the masks is missing in a feature set.
        StoppedError: a signal came; the checkpoint is written, and the same call goes on from it.
    """
    import torch

    from maskmill.rounds._data import Images
    from maskmill.rounds._job import Job

    features = {name: features[name] for name in sorted(features)}  # the student's order, whatever the caller's
    torch.set_num_threads(1)  # parallel work is split by hand, so that no sum depends on the number of threads
    method = load("rounds", params[METHOD_KEY["rounds"]])
    body = {key: value for key, value in params.items() if key in method.Params.model_fields}
    settings = validate(method.Params, body, "--params", "rounds")
    key = _round_seed(seed, round)
    place = pick(device)
    spec = {
        "format": FORMAT,
        "rounds": dict(params),
        "round": round,
        "seed": seed,
        "clusters": clusters,
        "features": {name: _made_by(paths) for name, paths in features.items()},
    }
    hashes = [Ragged(path).hash for paths in (*features.values(), masks) for path in paths]
    keeper = Keeper.beside(out, _training_key(spec, hashes, place), checkpoint_steps)
    images = Images(features, masks, clusters + 1, settings.cache_mib)  # type: ignore[attr-defined]
    images.fit_projections(settings.dimensions, settings.max_fit_points, key)  # type: ignore[attr-defined]
    tensors, diagnostics = method.fit(images, settings, Job(clusters + 1, key, place, threads, keeper))
    for name, projection in images.projections.items():
        tensors |= {f"{name}.mean": projection.mean, f"{name}.weight": projection.weight}
    tensors["loss"] = np.array(diagnostics.pop("loss"), np.float32)
    tensors["cells"] = images.counts
    taken = diagnostics.pop("timing")
    made = Provenance.of("rounds", spec | {"diagnostics": diagnostics}, hashes)
    if timing is not None:
        write_json(timing, taken | {"device": place.type, "threads": threads}, made)
    write_tensors(out, tensors, made)
    keeper.clear()


def _training_key(spec: Mapping[str, Any], hashes: Sequence[str], place: torch.device) -> str:
    """What a training's numbers depend on: parameters, inputs, code, and what computes them."""
    import torch

    return json_hash([Provenance.of("rounds", spec, hashes).hash, place.type, torch.__version__])


def predict(
    student: str | Path,
    features: Mapping[str, str | Path],
    out: str | Path,
    threads: int = 1,
    device: str = "auto",
) -> None:
    """Masks of one shard by a trained student; Ragged "masks" with clusters from 1, background 0, no ignore.

    Args:
        features: {name: feature store of the shard}.
    """
    import torch

    torch.set_num_threads(1)  # each image on one thread, several images at once
    model = Student.load(student, device)
    _, provenance = read_tensors(student)
    stores = {name: Ragged(path) for name, path in features.items()}
    missing = [name for name in model.features if name not in stores]
    if missing:
        raise StoreError(f"{student}: needs {', '.join(model.features)}; missing: {', '.join(missing)}")
    first = stores[model.features[0]]
    dtype = mask_dtype(model.clusters)
    attrs = {"clusters": model.clusters, "ignore": ignore_value(dtype), "round": int(model.spec["round"])}
    made = Provenance.of(
        "rounds", {"predict": model.spec["round"]}, [provenance["hash"], *(s.hash for s in stores.values())]
    )

    def one(image_id: str) -> np.ndarray:
        return model.mask({name: stores[name][image_id] for name in model.features})

    with RaggedWriter(out, "masks", dtype=dtype.name, attrs=attrs, provenance=made) as writer:
        masks = _each(one, first.ids, 1 if model.device.type == "cuda" else threads)
        for image_id, mask in track(zip(first.ids, masks, strict=True), len(first), "predict"):
            writer.append(image_id, mask)


def _each(one: Callable[[str], np.ndarray], ids: Sequence[str], threads: int) -> Iterator[np.ndarray]:
    """one(id) in order; a bounded number of images ahead of the writer."""
    ahead = 8 * threads
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(ids), ahead):
            yield from pool.map(one, ids[start : start + ahead])


def _made_by(paths: Sequence[str | Path]) -> dict[str, Any]:
    """Parameters of the feature set, from its first store."""
    return dict(Ragged(paths[0]).provenance.get("params", {})) if paths else {}


def _round_seed(seed: int, round: int) -> int:
    """One number for (seed, round): each round draws its own weights and order."""
    from maskmill.sampling import rng

    return int(rng(seed, "round", str(round)).integers(2**62))
