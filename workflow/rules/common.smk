# What the rules share: the functions of maskmill.dag.rules, bound to the configuration of this run.
import json
import os
from pathlib import Path

from snakemake.exceptions import WorkflowError

try:
    from maskmill.dag.rules import Rules, guarded
except ModuleNotFoundError as error:
    if error.name != "maskmill":
        raise
    raise WorkflowError(
        "the Python package maskmill is not in the environment that Snakemake runs in; install it from the same version"
        " of the repository: pip install -c constraints.txt -e . (docs/reuse.md)"
    ) from None
from maskmill.dag import slurm
from maskmill.dag.files import path
from maskmill.dag.jobs import CONSTRAINTS, SCORED, TRAINED, either, targets
from maskmill.export.files import segmenter_section
from maskmill.inputs.files import named_sources
from maskmill.recipe.stages import STAGES

ASK = Rules(workflow, config, checkpoints)
RUN, READER_PRIORITY = ASK.run, ASK.reader_priority
inputs, options, depends, command, place = (
    ASK.inputs,
    ASK.options,
    ASK.depends,
    ASK.command,
    ASK.place,
)
cores, memory, minutes, setting = ASK.cores, ASK.memory, ASK.minutes, ASK.setting
watched = ASK.watched


wildcard_constraints:
    recipe=CONSTRAINTS["recipe"],
    features=CONSTRAINTS["features"],
    weights=CONSTRAINTS["weights"],
    pretrained=CONSTRAINTS["pretrained"],
    part=CONSTRAINTS["part"],
    shard=CONSTRAINTS["shard"],
    seed=CONSTRAINTS["seed"],
    round=SCORED,
    readout=CONSTRAINTS["readout"],
    candidate=CONSTRAINTS["candidate"],
