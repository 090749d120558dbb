"""pretrain: photos -> the weights of a backbone, in files. The method is in its own module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskmill.errors import ConfigError, NumericsError
from maskmill.recipe import backbones
from maskmill.recipe.architectures import HUB
from maskmill.recipe.feature_set import FeatureSet
from maskmill.recipe.model import Stage
from maskmill.store.hashing import json_hash
from maskmill.store.manifest import Row, contents, read_images
from maskmill.store.provenance import Provenance

if TYPE_CHECKING:
    from maskmill.backbones.learning import Learning, Origin
    from maskmill.pretrain._views import Photos, Segments
    from maskmill.training.resources import Resources

FORMAT = 1  # of the training; another one trains again


@dataclass(frozen=True)
class PretrainSource:
    """What a backbone is trained on.

    Attributes:
        manifest: of the photos. feature_set: names the backbone; its `pretrain` is the section that says how it learns.
        weights: what it starts from, None: random weights. segments: stores of the recipe's cut, for methods that read
            segments.
    """

    manifest: str | Path
    feature_set: FeatureSet
    weights: str | Path | None = None
    segments: Sequence[str | Path] = ()


@dataclass(frozen=True)
class PretrainFiles:
    """What a training writes: weights; JSON of monitors; JSON of throughput, apart because it differs between runs."""

    weights: str | Path
    monitor: str | Path | None = None
    timing: str | Path | None = None


def fit(source: PretrainSource, out: PretrainFiles, resources: Resources) -> None:
    """Train a backbone on the photos of a manifest, whatever their shards.

    Raises:
        ConfigError: a network that the method can not train, or crops that it does not take. NumericsError: too few
            photos, a loss that is not finite, or a collapse. StoppedError: SIGTERM or SIGUSR1 came; the checkpoint is
            written, and the same call goes on from it. WeightsError: the weights are absent or damaged.
    """
    import torch

    from maskmill.backbones import weights_file
    from maskmill.device import pick
    from maskmill.images.photos import reader_count
    from maskmill.pretrain._trainer import Training, train
    from maskmill.store.artefact import plain, write_json
    from maskmill.store.ragged import Ragged
    from maskmill.training.checkpoint import Keeper
    from maskmill.training.team import join, leave

    torch.set_num_threads(1)  # parallel work is split by hand, so that no sum depends on the number of threads
    stage = stage_of(source.feature_set)
    team, name = join(resources.device)
    device = pick(name)
    check_share(stage, team.size)
    rows = chosen_rows(source.manifest, stage)
    readers = reader_count(int(stage.params.steps), resources.threads, device)
    # Each process of the team has readers with photos of their own, and its own for what is watched.
    photos, start = opened(source, stage, rows, resources, team.size * (1 + readers))
    network = built(start, stage)
    check_sides(photos, network, stage)
    learner = _learner(network, stage, len(photos))
    hashes = [Ragged(store).hash for store in source.segments]
    made = Provenance.of("pretrain", _spec(source, stage, start), [contents(rows), start.digest, *hashes])
    every = stage.settings.checkpoint_steps if resources.checkpoint_steps is None else resources.checkpoint_steps
    keeper = Keeper.beside(out.weights, json_hash([made.hash, device.type, torch.__version__]), every, "pretrain")
    training = Training(stage.settings.seed, device, resources.threads, keeper, team)
    state, diagnostics = train(learner, photos, training)
    if team.leads:
        timing = diagnostics.pop("timing") | {"device": device.type, "threads": resources.threads}
        if out.timing is not None:
            write_json(out.timing, timing, made)
        if out.monitor is not None:
            write_json(out.monitor, plain(diagnostics), made)
        weights_file.write(Path(out.weights), state, start.facts | {"pretrain": made.params})
        keeper.clear()
    leave(team)


@dataclass(frozen=True)
class Start:
    """What a training starts from: facts of the weights file to be, and the network's origin."""

    facts: dict[str, Any]
    origin: Origin
    digest: str


def stage_of(feature_set: FeatureSet) -> Stage[Any]:
    """The section of a feature set that is trained."""
    if feature_set.pretrain is None:
        raise ConfigError(f"pretrain: {feature_set.backbone} is not trained; set backbone: {{pretrain: NAME}}")
    # `segments` is a hash of what makes the segments that are read: a part of what the training is called.
    return Stage.of("pretrain", {key: value for key, value in feature_set.pretrain.items() if key != "segments"})


def chosen_rows(manifest: str | Path, stage: Stage[Any]) -> list[Row]:
    """The photos that are learnt from: all, or as many as the section says, drawn by the seed."""
    from maskmill.numerics.sampling import smallest

    limit, seed = stage.settings.images, stage.settings.seed
    rows = read_images(manifest, lambda ids: smallest(ids, limit, seed) if limit else list(range(len(list(ids)))))
    size = stage.params.batch_size
    if len(rows) < size:
        raise NumericsError(
            f"pretrain.batch_size: {size}, but there are {len(rows)} photos to learn from; set it to {len(rows)} or "
            "less, or use more photos (docs/pretrain.md says how many are worth it)"
        )
    return rows


def check_share(stage: Stage[Any], processes: int) -> None:
    """Every process computes micro-batches; else a ConfigError."""
    count = stage.params.batch_size // stage.params.micro
    if count < processes:
        raise ConfigError(
            f"pretrain: {processes} processes, but a step has {count} micro-batches; use {count} GPUs or fewer, or set "
            f"pretrain.micro_batch to {max(2, stage.params.batch_size // processes)} or less"
        )


def opened(
    source: PretrainSource, stage: Stage[Any], rows: Sequence[Row], resources: Resources, processes: int = 1
) -> tuple[Photos, Start]:
    """The photos, of which all processes together hold `cache_mib`, and what the network starts from."""
    from maskmill.images.photos import channels_of
    from maskmill.pretrain._views import Normalisation, Photos

    channels = channels_of(rows) if source.feature_set.channels == "all" else 3
    start = started(source, stage, channels)
    cache = stage.settings.cache_mib if resources.cache_mib is None else resources.cache_mib
    normalisation = Normalisation(tuple(start.facts["mean"]), tuple(start.facts["std"]))
    segments = _segments(source, stage)
    held = cache // max(1, processes)
    return Photos(rows, stage.module, stage.params, normalisation, stage.settings.seed, held, segments), start


def started(source: PretrainSource, stage: Stage[Any], channels: int = 3) -> Start:
    """The weights that a training starts from, or random ones."""
    from maskmill.backbones import weights_file
    from maskmill.backbones.learning import Origin, normalisation
    from maskmill.backbones.network import import_timm

    name, state, digest = source.feature_set.backbone, None, "scratch"
    if source.weights is not None:
        state, facts = weights_file.read(source.weights)
        digest = facts["sha256"]
    else:
        architecture = str(backbones.of(name).architecture).removeprefix("timm/")
        if architecture.startswith(HUB):
            raise ConfigError(f"pretrain.start: scratch, but {name!r} is a name of a hub; give the one that timm has")
        cfg = import_timm().create_model(architecture, pretrained=False).pretrained_cfg
        facts = {"architecture": architecture, "mean": cfg["mean"], "std": cfg["std"]}
    about = f"{name}, {'from random weights' if state is None else 'from its weights'}, trained by {stage.method}"
    mean, std = normalisation(facts, channels)
    kept = {"architecture": facts["architecture"], "mean": mean, "std": std, "about": about, "source": "pretrain"}
    norms = stage.settings.batch_norms
    origin = Origin(
        source.feature_set,
        str(facts["architecture"]),
        state,
        channels,
        stage.settings.stride,
        stage.params.drop_path,
        keeps_norms=norms == "kept" or (norms == "auto" and state is not None),
    )
    return Start(kept, origin, digest)


def built(start: Start, stage: Stage[Any]) -> Learning:
    """The network at its first step; random weights depend on the seed alone."""
    import torch

    from maskmill.backbones.learning import build
    from maskmill.numerics.sampling import rng

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng(stage.settings.seed, "pretrain", "weights").integers(2**62)))
        return build(start.origin)


def _learner(network: Learning, stage: Stage[Any], photos: int) -> Any:
    import torch

    from maskmill.numerics.sampling import rng

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng(stage.settings.seed, "pretrain", "heads").integers(2**62)))
        return stage.module.build(network, stage.params, photos)


def check_sides(photos: Photos, network: Learning, stage: Stage[Any]) -> None:
    """Crops are whole patches of a ViT, and large enough for a CNN; else a ConfigError."""
    import torch

    for side in sorted({spec.side for spec in photos.specs}):
        if network.is_vit and side % network.stride:
            lower = side // network.stride * network.stride
            raise ConfigError(
                f"pretrain: crops of {side} px are not whole patches of {network.stride} px; set that side to "
                f"{lower or network.stride} or {lower + network.stride} (pretrain.method: {stage.method})"
            )
        try:
            with torch.no_grad():
                network(torch.zeros(2, len(photos.normalisation.mean), side, side))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ConfigError(
                f"pretrain: crops of {side} px do not pass through {type(network.model).__name__} "
                f"({' '.join(str(error).split())[:120]}); set that side to {2 * network.stride} or more "
                f"(pretrain.method: {stage.method})"
            ) from None


def _segments(source: PretrainSource, stage: Stage[Any]) -> Segments | None:
    """The segments of the recipe's cut by image id, for a method that reads them."""
    if not stage.module.TRAITS.segments:
        return None
    from maskmill.pretrain._segments import SegmentStores

    if not source.segments:
        raise ConfigError(f"pretrain.method: {stage.method} reads segments; give --segments, the folder of a cut")
    return SegmentStores(source.segments)


def _spec(source: PretrainSource, stage: Stage[Any], start: Start) -> dict[str, Any]:
    """What the weights depend on, besides photos and the weights that they start from."""
    section = {
        key: value for key, value in stage.as_dict().items() if key not in ("checkpoint_steps", "cache_mib", "accept")
    }
    return {
        "format": FORMAT, "backbone": source.feature_set.backbone, "pretrain": section,
        "channels": start.origin.channels, "photos": source.feature_set.channels,
    }  # fmt: skip
