# What the rules share: the validated configuration, and the graph of jobs that says what each of them reads and asks for.
import json
import os
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

from maskmill import access
from maskmill.dag import slurm
from maskmill.dag.files import Graph, path
from maskmill.dag.jobs import CONSTRAINTS, SCORED, TRAINED, either, targets
from maskmill.errors import UserError
from maskmill.export.files import segmenter_section
from maskmill.inputs.listing import listing_fingerprint
from maskmill.recipe.origin import Origin
from maskmill.recipe.resolve import load
from maskmill.recipe.stages import STAGES
from maskmill.store.manifest import read_shards


def guarded(function, *arguments):
    """Its result; an error meant for the user stops the run as one line."""
    try:
        return function(*arguments)
    except UserError as error:
        raise WorkflowError(str(error)) from None


own_files = [f for f in workflow.configfiles if f not in workflow.overwrite_configfiles]
ORIGIN = Origin(
    [*own_files, *workflow.overwrite_configfiles], workflow.config_settings.config
)
RUN = guarded(load, config, Path(workflow.basedir) / "recipes", ORIGIN)
# Before the first file is written; jobs inherit it.
access.restrict(RUN.config.readers, ".snakemake")


@cache
def _shards(file, mtime_ns):
    found = read_shards(file)
    sets = max(len(RUN.feature_sets), len(RUN.recipes) * len(RUN.config.seeds))
    guarded(
        slurm.arrays_fit, workflow.executor_settings, workflow.nodes, len(found), sets
    )
    return found


def shards():
    """The shards of the manifest; waits for the checkpoint."""
    file = str(checkpoints.inputs.get().output.manifest)
    return _shards(file, os.stat(file).st_mtime_ns)


wildcard_constraints:
    recipe=CONSTRAINTS["recipe"],
    features=CONSTRAINTS["features"],
    weights=CONSTRAINTS["weights"],
    shard=CONSTRAINTS["shard"],
    seed=CONSTRAINTS["seed"],
    round=SCORED,


GRAPH = Graph(RUN, shards)
# Where stores are not kept, what reads them runs before new ones are made: only a few lie on the disk at once.
READER_PRIORITY = 1 if RUN.temporary else 0


def inputs(of):
    """The files that a job reads, by the names of its verb's options."""

    def named(name, source):
        files = [ancient(f) if source.timeless else f for f in source.files]
        return files if len(files) > 1 or source.passed != "file" else files[0]

    def files(wildcards):
        found = guarded(GRAPH.inputs, of, dict(wildcards))
        return {name: named(name, source) for name, source in found.items()}

    return files


def options(of):
    """The same files and those that it writes, as options. Snakemake runs no job again because of this text."""
    return lambda wildcards, input, output: GRAPH.options(
        of, dict(wildcards), input, output
    )


def depends(of):
    """What a job runs again for, besides its files."""
    return lambda wildcards: GRAPH.depends(of, dict(wildcards))


def cores(of):
    return lambda wildcards: GRAPH.needs(of, dict(wildcards)).threads


def memory(of):
    """MB; each further attempt asks for more, as does `minutes`."""
    return lambda wildcards, attempt: GRAPH.needs(of, dict(wildcards)).memory * attempt


def minutes(of):
    return lambda wildcards, attempt: GRAPH.needs(of, dict(wildcards)).minutes * attempt


def setting(stage, key):
    """A setting of a recipe's stage that changes no result: a resource, which makes no job run again."""
    return lambda wildcards: getattr(GRAPH.recipe(wildcards).stage(stage).settings, key)
