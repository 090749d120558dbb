# What the rules share: the validated configuration, and the functions that pick a job's files.
import json
import re
from functools import cache
import shlex
from pathlib import Path

from snakemake.checkpoints import Checkpoint
from snakemake.exceptions import WorkflowError
from snakemake_interface_executor_plugins.settings import DeploymentMethod

try:
    import maskmill
except ModuleNotFoundError:
    raise WorkflowError(
        "the Python package maskmill is not in the environment that Snakemake runs in; install it from the same version"
        " of the repository: pip install -c constraints.txt -e . (docs/reuse.md)"
    ) from None
from maskmill import access, slurm
from maskmill.recipes import CODES, SHIPPED, load
from maskmill.errors import UserError
from maskmill.inputs._listing import listing_fingerprint
from maskmill.manifest import read_shards
from maskmill.versions import STAGE_VERSION


def guarded(function, *arguments):
    """Its result; an error meant for the user stops the run as one line."""
    try:
        return function(*arguments)
    except UserError as error:
        raise WorkflowError(str(error)) from None


# A module is read more than once, and its rules get new names. What belongs to this reading is kept here, since input
# functions are called after it.
MODULE = workflow.modifier.base_snakefile is not None
rule_name = workflow.modifier.modify_rulename
PLACE = str(workflow.modifier.modify_path("results")).removesuffix("results")

# Not workflow.basedir, which is the folder of whoever uses this workflow as a module, and not a folder beside this file,
# which is not on the disk where the workflow comes from Git: the recipes come with the package.
RUN = guarded(load, config, SHIPPED, "the module's config" if MODULE else "config.yaml")

# Before the first file is written; jobs inherit it. A module leaves the files of its caller alone (see `command`).
if not MODULE:
    access.restrict(RUN.config.readers, ".snakemake")
SEED = RUN.config.seeds[0]
# Where stores are not kept, what reads them runs before new ones are made: only a few lie on the disk at once.
SOON = 1 if RUN.temporary else 0
OBJECTS = bool(RUN.config.labels) and RUN.config.evaluate.objects is not None


wildcard_constraints:
    recipe="[^/]+",
    features="[^/]+",
    weights="[^/]+",
    shard="s[0-9a-f]{10}",
    seed=r"\d+",
    round=r"\d+",


def _command():
    """How a job starts maskmill.

    An environment of conda has the libraries only; the package is always the one that this file has imported.
    """
    start = "maskmill"
    if DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method:
        program = Path(maskmill.__file__).with_name("__main__.py")
        start = f"python -P {shlex.quote(str(program))}"
    if MODULE and (mask := access.umask(RUN.config.readers)) is not None:
        return f"umask {mask:03o} && {start}"
    return start


COMMAND = _command()


# Functions of `output`, so that another way to start a job, or another prefix, makes no result outdated.
def command(wc, output):
    """Param: how a job starts maskmill. Not a global: Snakemake formats a module's commands with its caller's."""
    return COMMAND


def place(wc, output):
    """Param: the prefix of a module."""
    return PLACE


def placed(function):
    """Param: an options string with the prefix of a module."""
    return lambda wc, output: re.sub(
        r"(?<![\w/.])(?=(results|resources)/)", PLACE, function(wc)
    )


def keys(stage, body):
    """A rule's `params`: exactly the keys that it depends on and its stage's code version, as JSON."""
    return json.dumps({"version": STAGE_VERSION[stage], **body}, sort_keys=True)


def either(names):
    """A wildcard's constraint: one of these names, or nothing at all."""
    return "|".join(re.escape(name) for name in sorted(names)) or "(?!)"


def section(stage):
    """The params of a recipe's stage."""
    return lambda wc: keys(stage, RUN.recipes[wc.recipe].stage(stage).as_dict())


def manifest_checkpoint():
    """The checkpoint.

    A caller that changes one of our rules (`with:`) has this file read once more for that one alone, and then
    `checkpoints` is empty: the checkpoint is the one that it has taken before, under whatever name, so it is known by
    its file.
    """
    if hasattr(checkpoints, "inputs"):
        return checkpoints.inputs
    file = f"{PLACE}results/inputs/manifest.parquet"
    found = next(r for r in workflow.rules if r.is_checkpoint and file in r.output)
    return Checkpoint(found, workflow.checkpoints)


@cache
def _shards(path, mtime_ns):
    return read_shards(path)


def shards():
    """The shards of the manifest; waits for the checkpoint."""
    path = manifest_checkpoint().get().output.manifest
    found = _shards(str(path), os.stat(path).st_mtime_ns)
    sets = max(len(RUN.feature_sets), len(RUN.recipes) * len(RUN.config.seeds))
    guarded(
        slurm.arrays_fit, workflow.executor_settings, workflow.nodes, len(found), sets
    )
    return found


def every_shard(pattern):
    """An input function: `pattern` with the job's wildcards, once a shard."""
    return lambda wc: [pattern.format(**dict(wc), shard=shard) for shard in shards()]


def slug(recipe, name):
    """The folder of a recipe's feature set `name`."""
    return RUN.recipes[recipe].features[name].slug


def feature_folder(recipe, name, seed=SEED):
    """The folder of a recipe's feature set; its codes are those of a seed."""
    if name == CODES:
        return f"results/recipes/{recipe}/seed{seed}/adapt"
    return f"results/features/{slug(recipe, name)}"


def stage_features(stage):
    """The feature store that a recipe's stage reads, for one shard."""

    def pick(wc):
        name = RUN.recipes[wc.recipe].stage(stage).settings.features
        return f"{feature_folder(wc.recipe, name)}/{wc.shard}.zarr"

    return pick


def cut_inputs(wc):
    """The feature stores that a recipe's cut reads, for one shard: the tokens, and the colours where it has them."""
    settings = RUN.recipes[wc.recipe].stage("cut").settings
    names = {"features": settings.features}
    if settings.colour is not None:
        names["colour"] = settings.colour
    return {
        key: f"{feature_folder(wc.recipe, name)}/{wc.shard}.zarr"
        for key, name in names.items()
    }


def cut_colour(wc):
    """The colours as an option of `maskmill cut`."""
    files = cut_inputs(wc)
    return f"--colour {files['colour']}" if "colour" in files else ""


def raw_vectors(recipe, shard, seed=SEED):
    """What a recipe clusters before reduction: region vectors, or tokens, or the codes of a seed's head.

    Cuts, regions and reductions are made once a recipe: they take the codes of the first seed.
    """
    if RUN.recipes[recipe].tokens:
        name = RUN.recipes[recipe].regions.settings.features
        return f"{feature_folder(recipe, name, seed)}/{shard}.zarr"
    return f"results/recipes/{recipe}/regions/{shard}.zarr"


def vectors(recipe, shard, seed):
    """What a recipe clusters, reduced where it has a reduction."""
    if RUN.recipes[recipe].reduce.method == "none":
        return raw_vectors(recipe, shard, seed)
    return f"results/recipes/{recipe}/reduce/{shard}.zarr"


def vectors_folder(wc):
    """The folder of `vectors`."""
    return os.path.dirname(vectors(wc.recipe, "s0", wc.seed))


def student_features(recipe, r):
    """Name -> folder slug of the feature sets that a recipe's student of round r sees; none where it sees photos."""
    if RUN.recipes[recipe].photos(r):
        return {}
    names = RUN.recipes[recipe].rounds_at(r).settings.features
    return {name: slug(recipe, name) for name in names}


# inputs


DEMO_VIDEO = "resources/demo/bikes.mp4"
IMAGES = DEMO_VIDEO if RUN.config.images == "demo" else RUN.config.images
# The footage is a file of this workflow, so it lies behind the prefix of a module; a user's images do not.
IMAGES_READ = PLACE + IMAGES if IMAGES == DEMO_VIDEO else IMAGES


def inputs_files(wc):
    """What another rule makes; all else is watched through its listing (see params), whatever braces its name has."""
    return [IMAGES] if IMAGES == DEMO_VIDEO else []


def watched(rule, images, labels):
    """The fingerprint of the files that a rule watches.

    A job that runs in a process of its own (SLURM) plans only itself, but evaluates the params of what it follows: it
    does not list a million images, each time, for a rule that it cannot run.
    """
    own = (
        workflow.is_main_process
        or rule_name(rule) in workflow.dag_settings.allowed_rules
    )
    return listing_fingerprint(images, labels) if own else ""


# features


def weights_params(wc):
    """Where the weights come from: any feature set of this backbone says it."""
    sets = [fs for fs in RUN.feature_sets.values() if fs.weights_slug == wc.weights]
    return keys(
        "features", {"backbone": sets[0].backbone, "checkpoint": sets[0].checkpoint}
    )


def weights_file(wc):
    """The backbone's weights of a feature set."""
    return f"resources/weights/{RUN.feature_sets[wc.features].weights_slug}.safetensors"
