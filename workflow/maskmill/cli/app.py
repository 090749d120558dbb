"""`maskmill <stage>`: the verbs of every stage, each a thin call of the stage's `run`. The workflow's rules call them.

Stages are imported inside their verb: a job pays only for what it uses.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from maskmill import __version__, driver
from maskmill.cli.options import ConfigFile, Device, RecipeFolder, Threads, refuse_urls
from maskmill.cli.plan import plan
from maskmill.errors import ConfigError, UserError, nearest, shown
from maskmill.recipe.export import WHOLE
from maskmill.recipe.resolve import SHIPPED
from maskmill.recipe.stages import STAGES
from maskmill.redact import redact
from maskmill.store import expected

CORES = max(1, os.cpu_count() or 1)

app = typer.Typer(
    help="Unlabelled images in, pseudo-masks and a trained segmenter out. Run the workflow with plain `snakemake`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for spec in STAGES:
    importlib.import_module(f"maskmill.cli.{spec.name}").register(app)
app.command()(plan)


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="images or folders")],
    segmenter: Annotated[
        Path, typer.Option("--segmenter", "--student", help="results/recipes/<recipe>/seed<seed>/export/segmenter")
    ],
    out: Annotated[Path, typer.Option(help="folder for masks and overlays")] = Path("predictions"),
    overlays: Annotated[bool, typer.Option(help="also write the photo with the mask over it")] = True,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help=f"also write {', '.join(WHOLE)}; may be given several times"),
    ] = None,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="larger images are refused, but for windows; as inputs.max_pixels")
    ] = None,
    threads: Threads = CORES,
    device: Device = "auto",
) -> None:
    """Segment new images as an exported recipe did its own: indexed PNG masks and overlays.

    Large images are cut into windows where the recipe's run has cut its own; their masks are put together. Images that
    cannot be read are listed at the end; the exit code is then 1.
    """
    from maskmill.predict.run import Wanted
    from maskmill.predict.run import predict as run

    made = run(images, segmenter, out, Wanted(overlays, _whole_formats(formats or []), threads, device, max_pixels))
    typer.echo(f"{made.masks} masks in {out}")
    for text, count in made.notes.items():
        typer.echo(f"{text} ({count})", err=True)
    if made.failed:
        lines = [redact(" ".join(f"{path}: {reason}".split())) for path, reason in made.failed.items()]
        left = f"{len(lines)} of {made.masks + len(lines)} images have no mask"
        typer.echo("\n".join([f"maskmill predict: {left}:", *lines]), err=True)
        raise typer.Exit(1)


def _whole_formats(given: list[str]) -> list[str]:
    """The formats of `--format`, each once; a ConfigError names one that is none."""
    names = list(dict.fromkeys(name for each in given for name in each.split(",") if name))
    for name in names:
        if name not in WHOLE:
            raise ConfigError(f"--format {shown(name)}: unknown{nearest(name, WHOLE)}; known: {', '.join(WHOLE)}")
    return names


@app.command()
def stages(
    recipes: RecipeFolder = SHIPPED,
) -> None:
    """Print the stages as a Markdown table and as a Mermaid picture, as docs/architecture.md has them."""
    from maskmill.dag.picture import picture, table

    typer.echo(f"{table()}\n\n{picture(recipes)}")


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
    config: ConfigFile = None,
    recipes: RecipeFolder = SHIPPED,
    clean: Annotated[bool, typer.Option("--clean", help="remove what no run in this folder needs any more")] = False,
) -> None:
    """Check versions, device, disk, weights, configuration, and what killed jobs and old shards left in results/."""
    from maskmill.cli.doctor import examine

    if not examine(config, recipes, clean):
        raise typer.Exit(1)


@app.callback(invoke_without_command=True)
def _common(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
    job: Annotated[str | None, typer.Option(help="what the workflow expects of the job; rules pass it")] = None,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if job is not None:
        driver.end_with_driver()
        context.with_resource(expected.commissioned(job))


def main() -> None:
    """Run the command line; a UserError is one line on stderr and exit code 1. What is printed holds no secrets."""
    try:
        _main()
    except Exception:
        print(redact(traceback.format_exc()), end="", file=sys.stderr)
        sys.exit(1)


def _end(_signal: int, _frame: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)


def _verb(words: list[str]) -> list[str]:
    """The command line without what the workflow puts before the verb."""
    return words[2:] if words[:1] == ["--job"] else words


def _main() -> None:
    # Idle OpenMP threads sleep instead of spinning: on shared cores a waiting job must not slow its neighbours down.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGTERM, _end)  # what is half-written is removed
    try:
        refuse_urls(sys.argv[1:])
        app()
    except UserError as error:
        verb = " ".join(word for word in _verb(sys.argv[1:])[:2] if not word.startswith("-"))
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
