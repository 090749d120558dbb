"""`maskmill taxonomy ...`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from maskmill.cli.options import Device, Foreground, ManifestFile, Out, Params, Seed, Threads, section, shard_files
from maskmill.taxonomy import Clustered, ShardVectors

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
    from maskmill.taxonomy.run import SurveyFiles, survey

    given = _clustered(codebook, foreground, _shards(vectors, manifest, cut, regions), manifest)
    survey(given, int(section(params)["gallery"]), SurveyFiles(out, margins, places))


@app.command("fit")
def fit(
    vectors: Vectors,
    codebook: Book,
    manifest: ManifestFile,
    params: Params,
    out: Out,
    held: Annotated[Path, typer.Option(help="store to write: labels that made the classes")],
    cut: Cut = None,
    regions: Tables = None,
    foreground: Foreground = None,
    seed: Seed = 0,
    place: Annotated[str, typer.Option(help="source file: where the file is")] = "",
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Which vectors become which class."""
    from maskmill.taxonomy.run import FitFiles, fit

    body = section(params)
    given = _clustered(codebook, foreground, _shards(vectors, manifest, cut, regions), manifest)
    given = replace(given, seed=seed, limit=int(body["max_fit_points"]), place=place, device=device)
    fit(body["source"], body["grouping"], given, FitFiles(out, held), threads)


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
    from maskmill.taxonomy.run import NameFiles, names

    body = section(params) | {"recipe": recipe, "seed": seed}
    names(classes, codebook, places, body, NameFiles(out, document))


@app.command("map")
def map_regions(
    vectors: Annotated[Path, typer.Option(help="vector store of one shard")],
    assignments: Annotated[Path, typer.Option(help="assignments of the same shard")],
    classes: Annotated[Path, typer.Option(help="the classes")],
    params: Params,
    out: Out,
) -> None:
    """Give the regions of one shard their classes."""
    from maskmill.taxonomy.run import map_regions

    map_regions(vectors, assignments, classes, out)


def _shards(vectors: Path, manifest: Path, cut: Path | None, regions: Path | None) -> list[ShardVectors]:
    """What each shard's clusters are computed from."""
    found = shard_files(vectors, manifest)
    if cut is None or regions is None:
        return [ShardVectors(file) for file in found]
    return [ShardVectors(file, cut / file.name, regions / f"{file.stem}.parquet") for file in found]


def _clustered(codebook: Path, foreground: Path | None, shards: list[ShardVectors], manifest: Path) -> Clustered:
    from maskmill.store.codebook import read

    return Clustered(read(codebook), None if foreground is None else read(foreground), shards, manifest)


def suggest(
    recipe: Annotated[str, typer.Option(help="the recipe whose clusters are to be named")],
    count: Annotated[int, typer.Option(min=1, help="clusters, and images, at most")] = 20,
    results: Annotated[Path, typer.Option(help="folder results of a finished run")] = Path("results"),
    seed: Annotated[int, typer.Option(min=0, help="the first seed of the run")] = 0,
    out: Annotated[Path, typer.Option(help="CSV to write")] = Path("suggest.csv"),
) -> None:
    """What to name or to label next: the clusters and images that tell most about what has no sure name yet."""
    from maskmill.taxonomy.run import suggest as run

    found = run(results / "recipes" / recipe / f"seed{seed}", count, out)
    for kind, verb in (("cluster", "name"), ("image", "label")):
        mine = [each for each in found if each.kind == kind]
        names = ", ".join(each.id for each in mine[:8]) + (", ..." if len(mine) > 8 else "")
        told = f" (they tell {sum(each.tells for each in mine):.0%} of what is open)" if mine else ""
        typer.echo(f"{verb} next: {names or 'nothing is left'}{told}")
    typer.echo(f"{len(found)} lines in {out}")


def register(parent: typer.Typer) -> None:
    """Adds the verbs of this stage, and `maskmill suggest`."""
    parent.add_typer(app, name="taxonomy")
    parent.command()(suggest)
