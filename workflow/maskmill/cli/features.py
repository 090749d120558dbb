"""`maskmill weights`, `maskmill features-pq`, `maskmill features`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from maskmill.cli.options import Device, ManifestFile, Out, Params, Threads, section

Weights = Annotated[Path, typer.Option(help="resources/weights/<backbone>.safetensors")]


def weights(params: Params, out: Out) -> None:
    """features: fetch or convert the weights of one backbone into one safetensors file."""
    from maskmill.backbones.weights import prepare
    from maskmill.recipe.base import validate
    from maskmill.recipe.feature_set import FeatureSet

    body = section(params)
    content = body.pop("content", None)  # of a checkpoint, when the run was planned
    prepare(validate(FeatureSet, body, "--params"), out, content)


def _feature_set(params: str) -> dict[str, Any]:
    """The section of a rule's `params`, without the hash of the images, which is a reason to run again."""
    body = section(params)
    body.pop("images", None)
    return body


def features_pq(
    manifest: ManifestFile,
    params: Params,
    weights: Weights,
    out: Out,
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """features, dtype pq: fit the codec of a feature set on tokens of a sample of the images."""
    from maskmill.device import Compute
    from maskmill.features.fit import fit

    fit(manifest, _feature_set(params), weights, out, Compute(1, threads, device))


def features(
    manifest: ManifestFile,
    shard: Annotated[str, typer.Option()],
    params: Params,
    weights: Weights,
    out: Out,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    threads: Threads = 1,
    device: Device = "auto",
    codec: Annotated[Path | None, typer.Option(help="dtype pq: what `maskmill features-pq` wrote")] = None,
) -> None:
    """features: images of one shard -> tokens and cls in Zarr."""
    from maskmill.device import Compute
    from maskmill.features.run import run

    run(manifest, shard, _feature_set(params), weights, out, Compute(batch_size, threads, device), codec)


def register(app: typer.Typer) -> None:
    """Adds the verbs of this stage."""
    app.command()(weights)
    app.command()(features_pq)
    app.command()(features)
