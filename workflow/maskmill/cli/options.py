"""Options that verbs share, and how they are read."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from maskmill.errors import ConfigError, InputError
from maskmill.store.words import unpacked
from maskmill.urls import is_url, refusal

Params = Annotated[str, typer.Option("--params", help="the stage's section as JSON, as its rule passes it")]
Out = Annotated[Path, typer.Option("--out", help="what to write; appears only when complete")]
ManifestFile = Annotated[Path, typer.Option("--manifest", help="results/inputs/manifest.parquet")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="CPU threads")]
Gpus = Annotated[int, typer.Option("--gpus", min=0, help="several: one process each, through torchrun")]
Device = Annotated[str, typer.Option("--device", envvar="MASKMILL_DEVICE", help="auto, cpu, cuda or cuda:0")]
Seed = Annotated[int, typer.Option("--seed", min=0)]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="the configuration; default: that of this folder, else the one that comes along"),
]
RecipeFolder = Annotated[
    Path, typer.Option("--recipes", show_default=False, help="folder of recipes; default: those that come along")
]
Foreground = Annotated[Path | None, typer.Option("--foreground", help="codebook of background and foreground")]
Named = Annotated[
    list[str], typer.Option("--features", help="NAME=FOLDER, once a feature set; none: the student sees photos")
]


def refuse_urls(arguments: Sequence[str]) -> None:
    """No verb reads anything but files: a URL is refused before an option makes a path of it, which loses a slash.

    Raises:
        InputError: names the URL, without its secrets.
    """
    for argument in arguments:
        value = argument.partition("=")[2] if argument.startswith("--") else argument
        if value.startswith("{"):  # a section as JSON
            continue
        for part in (value, value.partition("=")[2]):  # NAME=FOLDER
            if is_url(part):
                raise InputError(refusal(part))


def section(text: str) -> dict[str, Any]:
    """The JSON object of an option; the rule's code version is not a parameter of the stage."""
    try:
        value = json.loads(unpacked(text))
    except ValueError as error:
        raise ConfigError(f"--params: not valid JSON ({error}); copy it from `snakemake -p`") from None
    if not isinstance(value, dict):
        raise ConfigError(f"--params: expected a JSON object, found {type(value).__name__}")
    value.pop("version", None)
    return value


def shard_files(folder: Path, manifest: Path, suffix: str = "zarr") -> list[Path]:
    """One file a shard of the manifest; files of shards that no longer exist are not read."""
    from maskmill.store.manifest import read_shards

    return [folder / f"{shard}.{suffix}" for shard in read_shards(manifest)]


def pairs(features: list[str]) -> dict[str, Path]:
    """NAME=FOLDER options as {name: folder}."""
    found = {}
    for pair in features:
        name, sign, folder = pair.partition("=")
        if not sign:
            raise ConfigError(f"--features: {pair!r} is not NAME=FOLDER")
        found[name] = Path(folder)
    return found


def launch(gpus: int) -> None:
    """Where there are several GPUs: start this command again through torchrun, a process each, and do not return."""
    if gpus < 2 or "WORLD_SIZE" in os.environ:
        return
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={gpus}"]
    program = Path(__file__).parents[1] / "__main__.py"  # not `-m`: the interpreter may not have maskmill itself
    # After `--`: torchrun would take `--monitor` for one of its own options.
    os.execv(sys.executable, [*torchrun, "--", str(program), *sys.argv[1:]])
