# What the rules share: the validated configuration, and the functions that pick a job's files.
import json
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

from maskmill.config import RECIPE_STAGES, load
from maskmill.errors import UserError
from maskmill.manifest import read_manifest
from maskmill.versions import STAGE_VERSION

try:
    RUN = load(config, Path(workflow.basedir) / "recipes")
except UserError as error:
    raise WorkflowError(str(error)) from None

SEED = RUN.config.seeds[0]


wildcard_constraints:
    recipe="[^/]+",
    features="[^/]+",
    weights="[^/]+",
    shard="s[0-9a-f]+",
    seed=r"\d+",
    round=r"\d+",


def keys(stage, body):
    """A rule's `params`: exactly the keys that it depends on and its stage's code version, as JSON."""
    return json.dumps({"version": STAGE_VERSION[stage], **body}, sort_keys=True)


def section(stage):
    """The params of a recipe's stage."""
    return lambda wc: keys(stage, RUN.recipes[wc.recipe].stage(stage).as_dict())


@cache
def _manifest(path, mtime_ns):
    return read_manifest(path)


def shards():
    """The shards of the manifest; waits for the checkpoint."""
    path = checkpoints.inputs.get().output.manifest
    return _manifest(str(path), os.stat(path).st_mtime_ns).shards


def every_shard(pattern):
    """An input function: `pattern` with the job's wildcards, once a shard."""
    return lambda wc: [pattern.format(**dict(wc), shard=shard) for shard in shards()]


def slug(recipe, name):
    """The folder of a recipe's feature set `name`."""
    return RUN.recipes[recipe].features[name].slug


def stage_features(stage):
    """The feature store that a recipe's stage reads, for one shard."""

    def pick(wc):
        name = RUN.recipes[wc.recipe].stage(stage).settings.features
        return f"results/features/{slug(wc.recipe, name)}/{wc.shard}.zarr"

    return pick


def raw_vectors(recipe, shard):
    """What a recipe clusters before reduction: region vectors, or tokens."""
    if RUN.recipes[recipe].tokens:
        return f"results/features/{slug(recipe, RUN.recipes[recipe].regions.settings.features)}/{shard}.zarr"
    return f"results/recipes/{recipe}/regions/{shard}.zarr"


def vectors(recipe, shard):
    """What a recipe clusters, reduced where it has a reduction."""
    if RUN.recipes[recipe].reduce.method == "none":
        return raw_vectors(recipe, shard)
    return f"results/recipes/{recipe}/reduce/{shard}.zarr"


def vectors_folder(wc):
    """The folder of `vectors`."""
    return os.path.dirname(vectors(wc.recipe, "s0"))


def student_features(recipe):
    """Name -> folder slug of the feature sets that a recipe's student sees."""
    return {
        name: slug(recipe, name)
        for name in RUN.recipes[recipe].rounds.settings.features
    }
