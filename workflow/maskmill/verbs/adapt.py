"""`maskmill adapt ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskmill.verbs.options import Device, ManifestFile, Out, Params, Seed, Threads, section, shard_files

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
    from maskmill.adapt._neighbours import run

    own = section(params)
    run(shard_files(features, manifest), own["crops"], own["neighbours"], out, threads)


@app.command("fit")
def adapt_fit(
    features: Annotated[Path, typer.Option(help="folder of feature stores")],
    manifest: ManifestFile,
    params: Params,
    out: Out,
    seed: Seed = 0,
    threads: Threads = 1,
    device: Device = "auto",
    neighbours: Annotated[Path | None, typer.Option(help="table of nearest images, where the method asks")] = None,
    monitor: Annotated[Path | None, typer.Option(help="JSON of losses and monitors to write")] = None,
    timing: Annotated[Path | None, typer.Option(help="JSON of the throughput to write")] = None,
) -> None:
    """Learn a head on the stored tokens of all shards."""
    from maskmill.adapt.run import fit

    own = section(params)
    clusters = own.pop("clusters", 8)
    stores = shard_files(features, manifest)
    fit(stores, own, seed, clusters, out, threads, device, neighbours=neighbours, monitor=monitor, timing=timing)


@app.command("map")
def adapt_map(
    features: Annotated[Path, typer.Option(help="feature store of one shard")],
    head: Annotated[Path, typer.Option(help="head.safetensors")],
    out: Out,
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Codes of one shard."""
    from maskmill.adapt.run import apply

    apply(head, features, out, threads, device)
