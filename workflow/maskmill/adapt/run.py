"""Files of the adapt stage: learn a head from the tokens or photos of all shards, then make codes shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from maskmill.adapt import _neighbours
from maskmill.adapt._data import CROPS, Images, TokenImages
from maskmill.adapt._job import Job
from maskmill.device import pick
from maskmill.errors import NumericsError, StoreError
from maskmill.numerics.neighbours import unit_rows
from maskmill.progress import track
from maskmill.recipe.registry import load
from maskmill.recipe.sections import Adapt, FeatureSet, validate
from maskmill.store.artefact import Provenance, json_hash, read_tensors, write_json, write_tensors
from maskmill.store.manifest import read_shard
from maskmill.store.ragged import Ragged, RaggedWriter
from maskmill.training.checkpoint import Keeper

if TYPE_CHECKING:
    import torch

FORMAT = "maskmill-head-1"
LOOK = 32  # images that a new head is looked at on
FULL = 0.95  # a cluster with a larger share of the tokens, or a mask of an image's, is a collapse


@dataclass(frozen=True)
class Photos:
    """Photos in place of stored tokens, for a head that trains its backbone: manifest, weights, feature set."""

    manifest: str | Path
    weights: str | Path
    feature_set: FeatureSet

    def open(self, cache_mib: int, device: torch.device, threads: int) -> Images:
        """See `PhotoImages`."""
        from maskmill.adapt._encoder import PhotoImages

        return PhotoImages(self.manifest, self.weights, self.feature_set, cache_mib, device, threads)


def fit(
    source: Sequence[str | Path] | Photos,
    params: Mapping[str, Any],
    seed: int,
    clusters: int,
    out: str | Path,
    threads: int = 1,
    device: str = "auto",
    *,
    neighbours: str | Path | None = None,
    monitor: str | Path | None = None,
    timing: str | Path | None = None,
    checkpoint_steps: int | None = None,
    cache_mib: int | None = None,
) -> None:
    """Train a head on the stored tokens of all shards, or on photos together with their backbone.

    Args:
        source: one store a shard; the result does not depend on how images are spread over them. Or photos.
        params: the flat `adapt` section. clusters: of the recipe; the prototypes that a method with prototypes learns.
        out: safetensors: the head, and metadata that suffices to use it.
        neighbours: the table of `maskmill adapt neighbours`, for methods that ask for it.
        monitor: JSON of the loss of every step and of what the method watches. timing: JSON of seconds, images a second
            and the share of time spent waiting for data, apart because it differs between runs.
        checkpoint_steps, cache_mib: in place of those of the section; no head depends on them.

    Raises:
        NumericsError: too few images, a loss that is not finite, or a head that has collapsed.
        StoppedError: SIGTERM or SIGUSR1 came; the checkpoint is written, and the same call goes on from it.
    """
    import torch

    torch.set_num_threads(1)  # parallel work is split by hand, so that no sum depends on the number of threads
    method, settings, own = _settings(params)
    place, room = pick(device), settings.cache_mib if cache_mib is None else cache_mib
    images: Images
    images = source.open(room, place, threads) if isinstance(source, Photos) else TokenImages(source, room)
    items = len(images) * CROPS[getattr(own, "crops", "none")]
    if items < getattr(own, "batch_size", 1):
        raise NumericsError(
            f"adapt.batch_size: {own.batch_size}, but there are {items} images (or crops) to learn from; set it to "
            f"{items} or less, or use more images"
        )
    table = _neighbours.read(neighbours, images.ids) if neighbours is not None else None
    spec = {
        "format": FORMAT, "adapt": dict(params), "seed": seed, "clusters": clusters, "depth": images.depth,
        "features": images.made_by,
    }  # fmt: skip
    if images.encoder is not None:
        spec["encoder"] = images.encoder.spec
    hashes = [*images.hashes, *([table.hash] if table is not None else [])]
    made = Provenance.of("adapt", spec, hashes)
    key = json_hash([made.hash, place.type, torch.__version__])
    every = settings.checkpoint_steps if checkpoint_steps is None else checkpoint_steps
    keeper = Keeper.beside(out, key, every, "adapt")
    tensors, diagnostics = method.fit(images, own, Job(seed, place, clusters, threads, keeper, table))
    taken = diagnostics.pop("timing")
    diagnostics |= _examined(Head(tensors, spec, place), images, seed)
    if timing is not None:
        write_json(timing, taken | {"device": place.type, "threads": threads}, made)
    if monitor is not None:
        write_json(monitor, _plain(diagnostics), made)
    write_tensors(out, tensors, made)
    keeper.clear()


def _examined(head: Head, images: Images, seed: int) -> dict[str, Any]:
    """Monitors of a new head: share of every cluster, and of an image's largest mask where its codes are masks.

    Raises:
        NumericsError: the head has collapsed.
    """
    name = str(head.spec["adapt"]["method"])
    found: dict[str, Any] = {"clusters": _shares(head, images, seed)}
    largest = max(found["clusters"], default=0.0)
    what = f"one of {head.spec['clusters']} clusters takes {100 * largest:.1f} % of the tokens"
    if getattr(load("adapt", name), "PER_IMAGE", False):
        found["mask"] = largest = _mask_share(head, images, seed)
        what = f"one mask takes {100 * largest:.1f} % of an image's tokens on average"
    if largest > FULL:
        raise NumericsError(
            f"adapt: the head of {name} has collapsed: {what}; try another seed, more or fewer adapt.steps, a lower "
            "adapt.learning_rate (unfreeze: and backbone_rate), or more images (docs/adapt.md says what the method "
            "needs)"
        )
    return found


def _settings(params: Mapping[str, Any]) -> tuple[Any, Adapt, Any]:
    """The method's module, the settings that all methods share, and its own."""
    method = load("adapt", str(params["method"]))
    own = {key: value for key, value in params.items() if key in method.Params.model_fields}
    common = {key: value for key, value in params.items() if key in Adapt.model_fields}
    return method, validate(Adapt, common, "--params", "adapt"), validate(method.Params, own, "--params", "adapt")


def _plain(value: Any) -> Any:
    """Arrays as lists, numbers with seven digits: what JSON takes."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(part) for part in (value.tolist() if isinstance(value, np.ndarray) else value)]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _shares(head: Head, images: Images, seed: int) -> list[float]:
    """Share of each prototype among the tokens of some images; none for a method without prototypes."""
    if head.prototypes is None:
        return []
    counts = np.zeros(len(head.prototypes), np.int64)
    for i in _looked_at(images, seed):
        codes = head.codes(images[i])
        flat = codes.reshape(-1, codes.shape[2])
        counts += np.bincount((flat @ head.prototypes.T).argmax(1), minlength=len(counts))
    return [float(share) for share in counts / counts.sum()]


def _mask_share(head: Head, images: Images, seed: int) -> float:
    """Share of the tokens in an image's largest mask, mean over some images."""
    found = []
    for i in _looked_at(images, seed):
        winner = head.codes(images[i]).argmax(2)
        found.append(np.bincount(winner.ravel()).max() / winner.size)
    return float(np.mean(found))


def _looked_at(images: Images, seed: int) -> list[int]:
    """Some images, drawn by the seed."""
    from maskmill.numerics.sampling import rng

    return sorted(rng(seed, "adapt", "look").permutation(len(images))[:LOOK].tolist())


class Head:
    """A trained head.

    Attributes:
        spec: parameters, clusters, length of a token, the feature set that it was trained on. code_length: c.
        prototypes: [k, c] float32 of unit length, or None. hash: of what made the file that it was read from.
        encoder: the backbone below it, where it was trained together with the head; then the head sees photos.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], spec: Mapping[str, Any], device: Any, hash: str = "") -> None:
        import torch

        method, _, own = _settings(spec["adapt"])
        self.spec, self.device, self.hash = spec, device, hash
        self.code_length = int(method.code_length(own, int(spec["clusters"])))
        size = int(spec["depth"]), own, int(spec["clusters"])
        self.encoder = None
        if "encoder" in spec:
            from maskmill.adapt._encoder import Encoder

            self.encoder = Encoder.of(spec["encoder"], device)
        self.module = method.build(*size) if self.encoder is None else method.build(*size, self.encoder)
        state = {name.removeprefix("head."): torch.from_numpy(value) for name, value in tensors.items()}
        self.module.load_state_dict(state)
        self.module.to(device).eval()
        kept = getattr(self.module, "prototypes", None)
        self.prototypes = None if kept is None else unit_rows(kept.weight.detach().cpu().numpy())

    @classmethod
    def load(cls, path: str | Path, device: str = "auto") -> Head:
        """Read a head; a file that is none is a StoreError."""
        tensors, provenance = read_tensors(path)
        spec = provenance.get("params", {})
        if spec.get("format") != FORMAT:
            raise StoreError(f"{path}: not a head of the adapt stage; check the path")
        return cls(tensors, spec, pick(device), str(provenance["hash"]))

    def codes(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens [h, w, d] of one image, or a photo uint8 [H, W, 3] -> codes [h, w, c] float32."""
        import torch

        with torch.inference_mode():
            x = torch.from_numpy(tokens.astype(np.float32)).permute(2, 0, 1)[None].to(self.device)
            return self.module.codes(x)[0].permute(1, 2, 0).float().cpu().numpy()  # type: ignore[no-any-return]


def apply(head: str | Path, features: str | Path, out: str | Path, threads: int = 1, device: str = "auto") -> None:
    """Codes of one shard, a Ragged "features" store, from its tokens.

    Raises:
        StoreError: the tokens are of another feature set than the head was trained on, or the head sees photos.
    """
    model, store = Head.load(head, device), Ragged(features)
    if model.encoder is not None:
        raise StoreError(f"{head}: was trained together with its backbone and sees photos; give --manifest and --shard")
    if store.ids and dict(store.provenance.get("params", {})) != model.spec["features"]:
        raise StoreError(f"{features}: not of the feature set that {head} was trained on; give the same one, or train "
                         "the head again")  # fmt: skip
    made = Provenance.of("adapt", {"head": model.hash}, [store.hash])
    _write(out, model, store.ids, lambda image_id: np.asarray(store[image_id]), made, threads)


def apply_to_photos(
    head: str | Path, manifest: str | Path, shard: str, out: str | Path, threads: int = 1, device: str = "auto"
) -> None:
    """Codes of one shard, a Ragged "features" store, from its photos, by a head that was trained with its backbone.

    Raises:
        StoreError: the head sees stored tokens. InputError: a photo has changed.
    """
    from maskmill.adapt._encoder import seen

    model = Head.load(head, device)
    if model.encoder is None:
        raise StoreError(f"{head}: sees stored tokens; give --features")
    rows = {row.id: row for row in read_shard(manifest, shard)}
    backbone = model.encoder.backbone
    made = Provenance.of("adapt", {"head": model.hash}, [shard])
    workers = 1 if backbone.is_vit else threads  # a ViT's position embeddings follow the image at hand
    _write(out, model, list(rows), lambda key: seen(rows[key], backbone.set, backbone.multiple), made, workers)


def _write(
    out: str | Path, model: Head, ids: Sequence[str], read: Callable[[str], np.ndarray], made: Provenance, workers: int
) -> None:
    """The codes of images by id, computed several at once."""
    import torch

    from maskmill.numerics.blocks import ordered

    torch.set_num_threads(1)  # each image on one thread, several images at once
    workers = 1 if model.device.type == "cuda" else workers
    with RaggedWriter(out, "features", depth=model.code_length, provenance=made) as writer:
        found = ordered(lambda image_id: model.codes(read(image_id)), ids, workers)
        for image_id, codes in track(zip(ids, found, strict=True), len(ids), "adapt"):
            writer.append(image_id, codes)
