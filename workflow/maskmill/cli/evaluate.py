"""`maskmill evaluate ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maskmill.cli.options import Foreground, ManifestFile, Out, Params, Seed, Threads, section, shard_files
from maskmill.errors import ConfigError, nearest
from maskmill.recipe.scoring import READOUTS

app = typer.Typer(help="evaluate: masks, segments or features + labels -> scores.", no_args_is_help=True)


@app.command("masks")
def evaluate_masks(
    masks: Annotated[Path, typer.Option(help="folder of masks")],
    manifest: ManifestFile,
    params: Params,
    recipe: Annotated[str, typer.Option()],
    out: Out,
    seed: Seed = 0,
    round: Annotated[int, typer.Option(min=0)] = 0,
    instances: Annotated[Path | None, typer.Option(help="folder of the round's instances, where it has them")] = None,
    classes: Annotated[Path | None, typer.Option(help="classes.json: names of the classes of the masks")] = None,
) -> None:
    """Score the masks of one recipe, seed and round by every protocol, and its instances as the cut's segments are."""
    from maskmill.evaluate.run import run
    from maskmill.images.masks import MaskSet

    found, scored = shard_files(instances, manifest) if instances else [], MaskSet(recipe, seed, round)
    run(shard_files(masks, manifest), manifest, section(params), out, scored, instances=found, classes=classes)


@app.command("candidates")
def evaluate_candidates(
    vectors: Annotated[Path, typer.Option(help="folder of token stores")],
    candidates: Annotated[Path, typer.Option(help="folder of the other clusterings of these tokens")],
    codebook: Annotated[Path, typer.Option(help="the clustering whose masks the recipe exports")],
    manifest: ManifestFile,
    params: Params,
    recipe: Annotated[str, typer.Option()],
    out: Out,
    seed: Seed = 0,
    foreground: Foreground = None,
) -> None:
    """Score the masks of every way to cluster the tokens of one recipe and seed."""
    from maskmill.evaluate.candidates import run
    from maskmill.images.masks import MaskSet

    body = section(params)
    books = {name: candidates / f"{name}.safetensors" for name in body["among"]} | {"chosen": codebook}
    run(shard_files(vectors, manifest), books, manifest, body, out, MaskSet(recipe, seed, 0), foreground)


@app.command("objects")
def evaluate_objects(
    cut: Annotated[Path, typer.Option(help="folder of segments")],
    manifest: ManifestFile,
    params: Params,
    recipe: Annotated[str, typer.Option()],
    out: Out,
) -> None:
    """Score the segments of one recipe's cut against labelled objects, without classes."""
    from maskmill.evaluate.run_objects import run

    run(shard_files(cut, manifest), manifest, section(params), out, recipe)


@app.command("probe")
def evaluate_probe(
    features: Annotated[Path, typer.Option(help="folder of feature stores")],
    manifest: ManifestFile,
    params: Params,
    out: Out,
    readout: Annotated[str, typer.Option(help=", ".join(READOUTS))] = READOUTS[0],
    seed: Seed = 0,
    recipe: Annotated[str | None, typer.Option(help="the features are the codes of this recipe's head")] = None,
    threads: Threads = 1,
) -> None:
    """Score a read-out of one feature set, or of the codes of a head."""
    from maskmill.evaluate.readout import Asked, read_out

    if readout not in READOUTS:
        raise ConfigError(f"--readout: unknown {readout!r}{nearest(readout, READOUTS)}; known: {', '.join(READOUTS)}")
    asked = Asked(readout, seed, recipe)
    read_out(asked, shard_files(features, manifest), manifest, section(params), out, threads)


@app.command("time")
def evaluate_time(
    masks: Annotated[Path, typer.Option(help="folder of the masks of the last round")],
    features: Annotated[Path, typer.Option(help="folder of feature stores, whose flow the masks are compared by")],
    manifest: ManifestFile,
    params: Params,
    recipe: Annotated[str, typer.Option()],
    out: Out,
    seed: Seed = 0,
) -> None:
    """Say how far the masks of frames that follow one another agree; needs no labels."""
    from maskmill.evaluate.over_time import run
    from maskmill.images.masks import MaskSet

    body = section(params)
    scored = MaskSet(recipe, seed, int(body.get("round", 0)))
    run(shard_files(masks, manifest), shard_files(features, manifest), manifest, body, out, scored)


def register(parent: typer.Typer) -> None:
    """Adds the verbs of this stage."""
    parent.add_typer(app, name="evaluate")
