"""`maskmill regions`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskmill.cli.options import Device, Params, Threads, section


def regions(
    segments: Annotated[Path, typer.Option(help="segments of one shard")],
    params: Params,
    table: Annotated[Path, typer.Option(help="region table to write (Parquet)")],
    vectors: Annotated[Path, typer.Option(help="region vectors to write (Zarr)")],
    features: Annotated[Path | None, typer.Option(help="pool mean: feature store of the same shard")] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="pool crop_*, min_pixels: results/inputs/manifest.parquet")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="pool crop_*: resources/weights/<name>.safetensors")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="crops of one size at once")] = 8,
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """regions: segments + features or photos -> region table and one vector a region."""
    from maskmill.regions.run import Network, run

    network = Network(manifest, weights, batch_size, threads, device) if manifest and weights else None
    run(segments, features, section(params), table, vectors, network, manifest)


def register(app: typer.Typer) -> None:
    """Adds the verbs of this stage."""
    app.command()(regions)
