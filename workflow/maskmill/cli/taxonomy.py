"""`maskmill taxonomy ...`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskmill.cli.options import Foreground, ManifestFile, Out, Params, Seed, Threads, section, shard_files

if TYPE_CHECKING:
    from maskmill.taxonomy._survey import ShardVectors

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
    places: Annotated[Path, typer.Option(help="JSON to write: members of the clusters, for a later taxonomy")],
    cut: Cut = None,
    regions: Tables = None,
    foreground: Foreground = None,
) -> None:
    """Where the clusters lie in a sample of the images."""
    from maskmill.taxonomy import run

    shards, gallery = _shards(vectors, manifest, cut, regions), int(section(params)["gallery"])
    run.survey(shards, codebook, manifest, gallery, out, margins, places, foreground)


@app.command("fit")
def fit(
    vectors: Vectors,
    codebook: Book,
    manifest: ManifestFile,
    params: Params,
    out: Out,
    cut: Cut = None,
    regions: Tables = None,
    foreground: Foreground = None,
    seed: Seed = 0,
    threads: Threads = 1,
) -> None:
    """Which vectors become which class."""
    from maskmill.store.codebook import read
    from maskmill.taxonomy import Clustered, run

    body = section(params)
    given = Clustered(
        read(codebook), None if foreground is None else read(foreground), _shards(vectors, manifest, cut, regions),
        manifest, int(body["max_fit_points"]), seed,
    )  # fmt: skip
    run.fit(body["source"], body["grouping"], given, out, threads)


@app.command("names")
def names(
    classes: Annotated[Path, typer.Option(help="the classes")],
    codebook: Book,
    places: Annotated[Path, typer.Option(help="members.json of the survey")],
    params: Params,
    out: Out,
    document: Annotated[Path, typer.Option(help="taxonomy.yaml to write")],
    recipe: Annotated[str, typer.Option()],
    seed: Seed = 0,
) -> None:
    """What the classes are called, and the file to edit."""
    from maskmill.taxonomy import run

    run.names(classes, codebook, places, section(params), out, document, recipe, seed)


@app.command("map")
def map_regions(
    vectors: Annotated[Path, typer.Option(help="vector store of one shard")],
    assignments: Annotated[Path, typer.Option(help="assignments of the same shard")],
    classes: Annotated[Path, typer.Option(help="the classes")],
    params: Params,
    out: Out,
) -> None:
    """Give the regions of one shard their classes."""
    from maskmill.taxonomy import run

    run.map_regions(vectors, assignments, classes, out)


def _shards(vectors: Path, manifest: Path, cut: Path | None, regions: Path | None) -> list[ShardVectors]:
    """What each shard's clusters are computed from."""
    from maskmill.taxonomy._survey import ShardVectors

    found = shard_files(vectors, manifest)
    if cut is None or regions is None:
        return [ShardVectors(file) for file in found]
    return [ShardVectors(file, cut / file.name, regions / f"{file.stem}.parquet") for file in found]


def register(parent: typer.Typer) -> None:
    """Adds the verbs of this stage."""
    parent.add_typer(app, name="taxonomy")
