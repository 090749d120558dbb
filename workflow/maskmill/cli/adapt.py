"""`maskmill adapt ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from maskmill.cli.options import Device, ManifestFile, Out, Params, Seed, Threads, section, shard_files
from maskmill.errors import ConfigError

app = typer.Typer(help="adapt: tokens -> head -> codes, a feature set of the recipe.", no_args_is_help=True)


@app.command("neighbours")
def adapt_neighbours(
    features: Annotated[Path, typer.Option(help="folder of feature stores")],
    manifest: ManifestFile,
    params: Params,
    out: Out,
    threads: Threads = 1,
) -> None:
    """The images (or crops of their grids) most like each one, as a table."""
    from maskmill.adapt.run import find_neighbours

    own = section(params)
    find_neighbours(shard_files(features, manifest), own["crops"], own["neighbours"], out, threads)


@app.command("fit")
def adapt_fit(
    manifest: ManifestFile,
    params: Params,
    out: Out,
    seed: Seed = 0,
    threads: Threads = 1,
    device: Device = "auto",
    features: Annotated[Path | None, typer.Option(help="folder of feature stores")] = None,
    weights: Annotated[Path | None, typer.Option(help="of the backbone, where the head learns from photos")] = None,
    neighbours: Annotated[Path | None, typer.Option(help="table of nearest images, where the method asks")] = None,
    monitor: Annotated[Path | None, typer.Option(help="JSON of losses and monitors to write")] = None,
    timing: Annotated[Path | None, typer.Option(help="JSON of the throughput to write")] = None,
    checkpoint_steps: Annotated[int, typer.Option(min=0, help="0: a checkpoint only on SIGTERM or SIGUSR1")] = 500,
    cache_mib: Annotated[int, typer.Option(min=0, help="memory for tokens or photos that are read once")] = 2048,
) -> None:
    """Learn a head on the stored tokens of all shards, or on the photos, with or beside its backbone."""
    from maskmill.adapt.run import HeadFiles, PhotoSource, TokenSource, fit
    from maskmill.recipe.base import validate
    from maskmill.recipe.feature_set import FeatureSet
    from maskmill.recipe.model import Stage
    from maskmill.training.resources import Resources

    own = section(params)
    clusters, feature_set = own.pop("clusters", 8), own.pop("feature_set", None)
    own.pop("photos", None)  # which they are, so that other photos train another head
    if (features is None) == (weights is None):
        raise ConfigError("adapt fit: give --features, or --weights where the head learns from photos; one of the two")
    traits = Stage.of("adapt", own).module.TRAITS
    photos = traits.photos
    if (weights is None) == (photos or bool(own.get("unfreeze"))):
        needs = f"method {own['method']}" if photos else "unfreeze: true"
        raise ConfigError(f"adapt fit: {needs} needs --weights, a head that learns from stored tokens --features")
    source: Any = shard_files(features, manifest) if features else None
    if features is not None and traits.beside:
        source = TokenSource(source, manifest)
    if weights is not None:
        source = PhotoSource(manifest, weights, validate(FeatureSet, feature_set or {}, "--params", "feature_set"))
    fit(
        source, own, HeadFiles(out, monitor, timing), seed=seed, clusters=clusters, neighbours=neighbours,
        resources=Resources(threads, device, checkpoint_steps, cache_mib),
    )  # fmt: skip


@app.command("map")
def adapt_map(
    head: Annotated[Path, typer.Option(help="head.safetensors")],
    out: Out,
    features: Annotated[Path | None, typer.Option(help="feature store of one shard")] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="manifest, for a head that was trained with its backbone")
    ] = None,
    shard: Annotated[str, typer.Option(help="with --manifest: name of the shard")] = "",
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Codes of one shard."""
    from maskmill.adapt.run import apply, apply_to_photos

    if features is not None:
        apply(head, features, out, threads, device)
    elif manifest is not None and shard:
        apply_to_photos(head, manifest, shard, out, threads, device)
    else:
        raise ConfigError("adapt map: give --features, or --manifest and --shard; one of the two")


def register(parent: typer.Typer) -> None:
    """Adds the verbs of this stage."""
    parent.add_typer(app, name="adapt")
