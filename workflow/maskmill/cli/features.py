"""`maskmill weights`, `maskmill features`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskmill.cli.options import Device, ManifestFile, Out, Params, Threads, section


def weights(params: Params, out: Out) -> None:
    """features: fetch or convert the weights of one backbone into one safetensors file."""
    from maskmill.backbones.weights import prepare
    from maskmill.recipe.base import validate
    from maskmill.recipe.sections import FeatureSet

    body = section(params)
    body.pop("content", None)  # of a checkpoint: a reason to run again
    prepare(validate(FeatureSet, body, "--params"), out)


def features(
    manifest: ManifestFile,
    shard: Annotated[str, typer.Option()],
    params: Params,
    weights: Annotated[Path, typer.Option(help="resources/weights/<backbone>.safetensors")],
    out: Out,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """features: images of one shard -> tokens and cls in Zarr."""
    from maskmill.device import Compute
    from maskmill.features.run import run

    run(manifest, shard, section(params), weights, out, Compute(batch_size, threads, device))


def register(app: typer.Typer) -> None:
    """Adds the verbs of this stage."""
    app.command()(weights)
    app.command()(features)
