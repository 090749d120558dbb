"""`maskmill tracks ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskmill.cli.options import ManifestFile, Out, Params, section, shard_files

app = typer.Typer(help="tracks: last masks of ordered images -> one number for one thing.", no_args_is_help=True)

Masks = Annotated[Path, typer.Option(help="masks of the last round, of the shard")]
Instances = Annotated[Path | None, typer.Option(help="its instances, where the last round predicts them")]
Tokens = Annotated[Path | None, typer.Option(help="tokens of the shard, for flow: features and match: features")]


@app.command("match")
def tracks_match(
    masks: Masks,
    manifest: ManifestFile,
    params: Params,
    out: Out,
    pairs: Annotated[Path, typer.Option(help="table of pairs of regions to write")],
    features: Tokens = None,
    instances: Instances = None,
) -> None:
    """Compare the regions of neighbouring frames of one shard."""
    from maskmill.tracks.run import FrameFiles, run_match

    files = FrameFiles([masks], [features] if features else [], [instances] if instances else [])
    run_match(files, manifest, section(params), masks.stem, out, pairs)


@app.command("join")
def tracks_join(
    masks: Annotated[Path, typer.Option(help="folder of the masks of the last round")],
    regions: Annotated[Path, typer.Option(help="folder of the tables of regions")],
    pairs: Annotated[Path, typer.Option(help="folder of the tables of pairs")],
    manifest: ManifestFile,
    params: Params,
    out: Out,
    features: Annotated[Path | None, typer.Option(help="folder of tokens")] = None,
    instances: Annotated[Path | None, typer.Option(help="folder of instances")] = None,
) -> None:
    """Follow the regions through every sequence, over the borders of shards too."""
    from maskmill.tracks.run import FrameFiles, run_join

    given = [shard_files(folder, manifest) if folder else [] for folder in (masks, features, instances)]
    tables = shard_files(regions, manifest, "parquet"), shard_files(pairs, manifest, "parquet")
    run_join(FrameFiles(given[0], given[1], given[2]), tables, manifest, section(params), out)


@app.command("map")
def tracks_map(
    masks: Masks,
    tracks: Annotated[Path, typer.Option(help="table of the tracks")],
    manifest: ManifestFile,
    params: Params,
    out: Out,
    instances: Instances = None,
) -> None:
    """Lay the numbers of the tracks over the masks of one shard."""
    from maskmill.tracks.run import FrameFiles, run_map

    files = FrameFiles([masks], (), [instances] if instances else [])
    run_map(files, tracks, manifest, section(params), masks.stem, out)


def register(parent: typer.Typer) -> None:
    """Adds the verbs of this stage."""
    parent.add_typer(app, name="tracks")
