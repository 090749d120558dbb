"""`maskmill <stage>`: one verb a stage, each a thin call of the stage's `run`. Snakemake's rules call these verbs.

Stages are imported inside their verb: a job pays only for what it uses.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from maskmill import __version__
from maskmill.errors import ConfigError, NumericsError, UserError
from maskmill.plan.command import plan
from maskmill.redact import redact

CORES = max(1, os.cpu_count() or 1)

app = typer.Typer(
    help="Unlabelled images in, pseudo-masks and a trained segmenter out. Run the workflow with plain `snakemake`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
reduce_app = typer.Typer(help="reduce: vectors -> fewer dimensions.", no_args_is_help=True)
foreground_app = typer.Typer(help="foreground: tokens -> codebook of background and foreground.", no_args_is_help=True)
adapt_app = typer.Typer(help="adapt: tokens -> head -> codes, a feature set of the recipe.", no_args_is_help=True)
cluster_app = typer.Typer(help="cluster: vectors -> codebook, assignments.", no_args_is_help=True)
rounds_app = typer.Typer(help="rounds: masks -> student -> masks.", no_args_is_help=True)
evaluate_app = typer.Typer(help="evaluate: masks, segments or features + labels -> scores.", no_args_is_help=True)
for name, group in {
    "adapt": adapt_app,
    "reduce": reduce_app,
    "foreground": foreground_app,
    "cluster": cluster_app,
    "rounds": rounds_app,
    "evaluate": evaluate_app,
}.items():
    app.add_typer(group, name=name)
app.command()(plan)

Params = Annotated[str, typer.Option("--params", help="the stage's section as JSON, as its rule passes it")]
Out = Annotated[Path, typer.Option("--out", help="what to write; appears only when complete")]
ManifestFile = Annotated[Path, typer.Option("--manifest", help="results/inputs/manifest.parquet")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="CPU threads")]
Device = Annotated[str, typer.Option("--device", envvar="MASKMILL_DEVICE", help="auto, cpu, cuda or cuda:0")]
Seed = Annotated[int, typer.Option("--seed", min=0)]
Foreground = Annotated[Path | None, typer.Option("--foreground", help="codebook of background and foreground")]
Named = Annotated[
    list[str], typer.Option("--features", help="NAME=FOLDER, once a feature set; none: the student sees photos")
]


def _json(text: str) -> dict[str, Any]:
    """The JSON object of an option; the rule's code version is not a parameter of the stage."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"--params: not valid JSON ({error}); copy it from `snakemake -p`") from None
    if not isinstance(value, dict):
        raise ConfigError(f"--params: expected a JSON object, found {type(value).__name__}")
    value.pop("version", None)
    return value


def _shard_files(folder: Path, manifest: Path, suffix: str = "zarr") -> list[Path]:
    """One file a shard of the manifest; files of shards that no longer exist are not read."""
    from maskmill.manifest import read_shards

    return [folder / f"{shard}.{suffix}" for shard in read_shards(manifest)]


def _pairs(features: list[str]) -> dict[str, Path]:
    pairs = {}
    for pair in features:
        name, sign, folder = pair.partition("=")
        if not sign:
            raise ConfigError(f"--features: {pair!r} is not NAME=FOLDER")
        pairs[name] = Path(folder)
    return pairs


@app.command()
def demo(out: Out) -> None:
    """Fetch the embedded footage (a street video of 250 frames) with a pinned sha256."""
    from maskmill.weights import fetch_demo

    fetch_demo(out)


@app.command()
def weights(params: Params, out: Out) -> None:
    """features: fetch or convert the weights of one backbone into one safetensors file."""
    from maskmill.config import FeatureSet, validate
    from maskmill.weights import prepare

    prepare(validate(FeatureSet, _json(params), "--params"), out)


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

    run(images, labels or None, _json(params), manifest, rejected, threads, frames)


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
    from maskmill.features.run import run

    run(manifest, shard, _json(params), weights, out, batch_size, threads, device)


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
    from maskmill.cut.run import run

    run(features, _json(params), out, seed, threads, device, colour=colour, manifest=manifest)


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
    run(segments, features, _json(params), table, vectors, network)


@reduce_app.command("fit")
def reduce_fit(
    vectors: Annotated[Path, typer.Option(help="folder of vector stores")],
    manifest: ManifestFile,
    params: Params,
    out: Out,
    seed: Seed = 0,
    threads: Threads = 1,
) -> None:
    """Fit the reduction on the vectors of all shards."""
    from maskmill.reduce.run import fit

    fit(_shard_files(vectors, manifest), _json(params), seed, out, threads)


@reduce_app.command("map")
def reduce_map(
    vectors: Annotated[Path, typer.Option(help="vector store of one shard")],
    model: Annotated[Path, typer.Option()],
    params: Params,
    out: Out,
    threads: Threads = 1,
) -> None:
    """Apply a fitted reduction to one shard."""
    from maskmill.reduce.run import transform

    transform(vectors, model, _json(params), out, threads)


@foreground_app.command("fit")
def foreground_fit(
    vectors: Annotated[Path, typer.Option(help="folder of token stores")],
    manifest: ManifestFile,
    params: Params,
    out: Out,
    seed: Seed = 0,
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Cluster the tokens of all shards finely."""
    from maskmill.cluster.run import fit
    from maskmill.foreground.run import fine_params

    try:
        fit(_shard_files(vectors, manifest), fine_params(_json(params)), seed, out, threads, device)
    except NumericsError as error:
        raise NumericsError(str(error).replace("cluster.clusters", "foreground.clusters")) from None


@foreground_app.command("count")
def foreground_count(
    vectors: Annotated[Path, typer.Option(help="token store of one shard")],
    features: Annotated[Path, typer.Option(help="feature store of the same shard: keys of a ViT")],
    codebook: Annotated[Path, typer.Option(help="the fine clusters")],
    params: Params,
    out: Out,
) -> None:
    """Count how precisely the fine clusters of one shard lie in the foreground masks of its images."""
    from maskmill.foreground.run import count

    count(vectors, features, codebook, _json(params), out)


@foreground_app.command("choose")
def foreground_choose(
    counts: Annotated[Path, typer.Option(help="folder of the counts")],
    codebook: Annotated[Path, typer.Option(help="the fine clusters")],
    manifest: ManifestFile,
    params: Params,
    out: Out,
) -> None:
    """Add the counts of all shards up and say which fine clusters are foreground."""
    from maskmill.foreground.run import choose

    choose(_shard_files(counts, manifest, "safetensors"), codebook, _json(params), out)


@adapt_app.command("neighbours")
def adapt_neighbours(
    features: Annotated[Path, typer.Option(help="folder of feature stores")],
    manifest: ManifestFile,
    params: Params,
    out: Out,
    threads: Threads = 1,
) -> None:
    """The images (or crops of their grids) most like each one, as a table."""
    from maskmill.adapt._neighbours import run

    own = _json(params)
    run(_shard_files(features, manifest), own["crops"], own["neighbours"], out, threads)


@adapt_app.command("fit")
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

    own = _json(params)
    clusters = own.pop("clusters", 8)
    stores = _shard_files(features, manifest)
    fit(stores, own, seed, clusters, out, threads, device, neighbours=neighbours, monitor=monitor, timing=timing)


@adapt_app.command("map")
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


@cluster_app.command("fit")
def cluster_fit(
    vectors: Annotated[Path, typer.Option(help="folder of vector stores")],
    manifest: ManifestFile,
    params: Params,
    out: Out,
    seed: Seed = 0,
    threads: Threads = 1,
    device: Device = "auto",
    selection: Annotated[Path | None, typer.Option(help="JSON of scores without labels to write")] = None,
    foreground: Foreground = None,
    head: Annotated[Path | None, typer.Option(help="method prototypes: the head of the stage adapt")] = None,
) -> None:
    """Fit a codebook on the vectors of all shards."""
    from maskmill.cluster.run import fit

    fit(_shard_files(vectors, manifest), _json(params), seed, out, threads, device, selection, foreground, head)


@cluster_app.command("map")
def cluster_map(
    vectors: Annotated[Path, typer.Option(help="vector store of one shard")],
    table: Annotated[Path, typer.Option(help="region table of the same shard")],
    codebook: Annotated[Path, typer.Option()],
    out: Out,
) -> None:
    """Assign the regions of one shard to clusters."""
    from maskmill.cluster.run import assign

    assign(vectors, table, codebook, out)


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

    run_limits(_shard_files(assignments, manifest, "parquet"), codebook, _json(params), out)


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
    from maskmill.paint._instances import run_instances
    from maskmill.paint.run import run_regions, run_tokens

    if vectors is not None and not instances:
        run_tokens(vectors, codebook, _json(params), out, manifest, foreground)
    elif segments is None or assignments is None or limits is None:
        given = "maskmill paint --instances: give" if instances else "maskmill paint: give --vectors, or"
        raise ConfigError(f"{given} --segments, --assignments and --limits")
    elif instances:
        run_instances(segments, assignments, limits, codebook, _json(params), out)
    else:
        run_regions(segments, assignments, limits, codebook, _json(params), out, manifest)


@rounds_app.command("train")
def rounds_train(
    manifest: ManifestFile,
    codebook: Annotated[Path, typer.Option()],
    masks: Annotated[Path, typer.Option(help="folder of the masks of the round before")],
    params: Params,
    out: Out,
    features: Named = [],  # noqa: B006 (typer's way of saying: none by default)
    weights: Annotated[Path | None, typer.Option(help="students on photos: weights of their encoder")] = None,
    before: Annotated[Path | None, typer.Option(help="start continue, stop: student of the round before")] = None,
    confidence: Annotated[Path | None, typer.Option(help="confidence: folder of the round before")] = None,
    earlier: Annotated[Path | None, typer.Option(help="stop: folder of the masks of two rounds before")] = None,
    assignments: Annotated[Path | None, typer.Option(help="images surest: folder of assignments")] = None,
    instances: Annotated[Path | None, typer.Option(help="student instance: folder of what it learns from")] = None,
    round: Annotated[int, typer.Option(min=1)] = 1,
    seed: Seed = 0,
    gpus: Annotated[int, typer.Option(min=0, help="several: one process each, through torchrun")] = 0,
    timing: Annotated[Path | None, typer.Option(help="JSON to write: how fast the training was")] = None,
    checkpoint_steps: Annotated[int, typer.Option(min=0, help="0: a checkpoint only on SIGTERM or SIGUSR1")] = 0,
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Train a student on the masks of the round before."""
    if gpus > 1 and "WORLD_SIZE" not in os.environ:
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}"]
        os.execv(sys.executable, [*launch, "-m", "maskmill.cli", *sys.argv[1:]])
    from maskmill.codebook import read
    from maskmill.rounds.run import History, Sources, train

    def files(folder: Path | None, suffix: str = "zarr") -> list[Path]:
        return _shard_files(folder, manifest, suffix) if folder else []

    stores = {name: files(folder) for name, folder in _pairs(features).items()}
    history = History(before, files(confidence), files(earlier), files(assignments, "parquet"))
    train(
        Sources(stores, manifest if weights else None, weights, files(instances)), files(masks), _json(params), round,
        seed,
        len(read(codebook)), out, threads, device,
        history=history, timing=timing, checkpoint_steps=checkpoint_steps,
    )  # fmt: skip


@rounds_app.command("teach")
def rounds_teach(
    taught: Annotated[Path, typer.Option(help="instances of one shard that the round before learnt from")],
    predicted: Annotated[Path, typer.Option(help="instances of the shard that it predicted")],
    params: Params,
    out: Out,
    round: Annotated[int, typer.Option(min=2)] = 2,
) -> None:
    """Student instance: what the next round learns from, of one shard."""
    from maskmill.config import validate
    from maskmill.rounds import instance
    from maskmill.rounds._instance_teach import teach

    teach(taught, predicted, validate(instance.Params, _json(params), "--params", "rounds"), round, out)


@rounds_app.command("detect")
def rounds_detect(
    shard: Annotated[str, typer.Option()],
    student: Annotated[Path, typer.Option()],
    manifest: ManifestFile,
    out: Out,
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Predict the instances of one shard with a trained student of instances."""
    from maskmill.manifest import read_shard
    from maskmill.rounds.run import detect

    detect(student, read_shard(manifest, shard), out, threads, device)


@rounds_app.command("predict")
def rounds_predict(
    shard: Annotated[str, typer.Option()],
    student: Annotated[Path, typer.Option()],
    manifest: ManifestFile,
    params: Params,
    out: Out,
    features: Named = [],  # noqa: B006
    confidence: Annotated[Path | None, typer.Option(help="also write how sure each mask cell is")] = None,
    instances: Annotated[Path | None, typer.Option(help="student instance: paint these of the shard")] = None,
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Predict the masks of one shard with a trained student."""
    from maskmill.manifest import read_shard
    from maskmill.rounds.run import predict

    stores = {name: folder / f"{shard}.zarr" for name, folder in _pairs(features).items()}
    view = stores or read_shard(manifest, shard)
    predict(
        student, view, out, confidence, threads, device, params=_json(params), manifest=manifest, instances=instances
    )


@evaluate_app.command("masks")
def evaluate_masks(
    masks: Annotated[Path, typer.Option(help="folder of masks")],
    manifest: ManifestFile,
    params: Params,
    recipe: Annotated[str, typer.Option()],
    out: Out,
    seed: Seed = 0,
    round: Annotated[int, typer.Option(min=0)] = 0,
    instances: Annotated[Path | None, typer.Option(help="folder of the round's instances, where it has them")] = None,
) -> None:
    """Score the masks of one recipe, seed and round by every protocol, and its instances as the cut's segments are."""
    from maskmill.evaluate.run import run

    found = _shard_files(instances, manifest) if instances else []
    run(_shard_files(masks, manifest), manifest, _json(params), out, recipe, seed, round, instances=found)


@evaluate_app.command("objects")
def evaluate_objects(
    cut: Annotated[Path, typer.Option(help="folder of segments")],
    manifest: ManifestFile,
    params: Params,
    recipe: Annotated[str, typer.Option()],
    out: Out,
) -> None:
    """Score the segments of one recipe's cut against labelled objects, without classes."""
    from maskmill.evaluate.run_objects import run

    run(_shard_files(cut, manifest), manifest, _json(params), out, recipe)


@evaluate_app.command("probe")
def evaluate_probe(
    features: Annotated[Path, typer.Option(help="folder of feature stores")],
    manifest: ManifestFile,
    params: Params,
    out: Out,
    seed: Seed = 0,
    threads: Threads = 1,
) -> None:
    """Score a linear probe on one feature set."""
    from maskmill.evaluate.linear_probe import probe

    probe(_shard_files(features, manifest), manifest, _json(params), seed, out, threads)


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
    weights: Annotated[Path | None, typer.Option(help="folder of backbone weights, copied beside the student")] = None,
    scores: Annotated[Path | None, typer.Option(help="scores.json of this round: names of the clusters")] = None,
    refine: Annotated[str, typer.Option(help="the last round's refine section as JSON, for `maskmill predict`")] = "{}",
    instances: Annotated[Path | None, typer.Option(help="folder of the last round's instances")] = None,
    seed: Seed = 0,
    round: Annotated[int, typer.Option(min=0)] = 0,
) -> None:
    """export: masks -> PNG, COCO JSON, clusters.csv, and the student for `maskmill predict`."""
    from maskmill.export.run import run

    def files(folder: Path | None, suffix: str) -> list[Path] | None:
        return _shard_files(folder, manifest, suffix) if folder else None

    run(
        _shard_files(masks, manifest), manifest, files(cut, "zarr"), files(assignments, "parquet"),
        files(regions, "parquet"), _json(params), out, recipe, seed, round,
        scores=scores, student=student, feature_sets=json.loads(feature_sets), weights=weights,
        refine=json.loads(refine), instances=files(instances, "zarr"),
    )  # fmt: skip


@app.command()
def report(
    plan: Annotated[str, typer.Option(help="the resolved run as JSON")],
    out: Out,
    results: Annotated[Path, typer.Option()] = Path("results"),
    benchmarks: Annotated[Path, typer.Option()] = Path("benchmarks"),
) -> None:
    """report: everything -> one self-contained HTML file."""
    from maskmill.report.run import run

    run(_json(plan), results, benchmarks, out)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="images or folders")],
    student: Annotated[Path, typer.Option(help="results/recipes/<recipe>/seed<seed>/export/student")],
    out: Annotated[Path, typer.Option(help="folder for masks and overlays")] = Path("predictions"),
    overlays: Annotated[bool, typer.Option(help="also write the photo with the mask over it")] = True,
    threads: Threads = CORES,
    device: Device = "auto",
) -> None:
    """Segment new images with an exported student: indexed PNG masks and overlays."""
    from maskmill.predict import predict as run

    count = run(images, student, out, overlays=overlays, threads=threads, device=device)
    typer.echo(f"{count} masks in {out}")


@app.command()
def schema(
    out: Annotated[Path, typer.Option(help="file to write")] = Path("workflow/schemas/config.schema.json"),
) -> None:
    """Write the JSON schema of config.yaml for editors."""
    from maskmill.artefact import write_json
    from maskmill.schema import schema as body

    write_json(out, body())


@app.command()
def doctor(
    config: Annotated[Path, typer.Option(help="the configuration to check")] = Path("config.yaml"),
    recipes: Annotated[Path, typer.Option(help="folder of recipes")] = Path("recipes"),
) -> None:
    """Check versions, device, disk, weights and configuration."""
    from maskmill.doctor import examine

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


if __name__ == "__main__":  # torchrun starts it this way
    main()
