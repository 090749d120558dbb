"""`maskmill taxonomy ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskmill.cli.options import Foreground, ManifestFile, Out, Params, section, shard_files

app = typer.Typer(help="taxonomy: clusters -> classes that have names.", no_args_is_help=True)
Vectors = Annotated[Path, typer.Option(help="folder of vector stores")]
Book = Annotated[Path, typer.Option(help="the clusters")]
Cut = Annotated[Path | None, typer.Option(help="recipes with a cut: folder of segments")]
Tables = Annotated[Path | None, typer.Option(help="recipes with a cut: folder of region tables")]


@app.command("survey")
def survey(
    vectors: Vectors,
    codebook: Book,
    manifest: ManifestFile,
    params: Params,
    out: Out,
    margins: Annotated[Path, typer.Option(help="store to write: how sure each place is of its cluster")],
    cut: Cut = None,
    regions: Tables = None,
    foreground: Foreground = None,
) -> None:
    """Where the clusters lie in a sample of the images."""
    from maskmill.taxonomy import run

    shards = _shards(vectors, manifest, cut, regions)
    run.survey(shards, codebook, manifest, int(section(params)["gallery"]), out, margins, foreground)


def _shards(vectors: Path, manifest: Path, cut: Path | None, regions: Path | None):  # type: ignore[no-untyped-def]
    """What each shard's clusters are computed from."""
    from maskmill.taxonomy._survey import ShardVectors

    found = shard_files(vectors, manifest)
    if cut is None or regions is None:
        return [ShardVectors(file) for file in found]
    return [ShardVectors(file, cut / file.name, regions / f"{file.stem}.parquet") for file in found]


def register(parent: typer.Typer) -> None:
    """Adds the verbs of this stage."""
    parent.add_typer(app, name="taxonomy")
