"""What the rule files ask: files, options, params and resources of a rule, as the functions that Snakemake calls.

`workflow/rules/common.smk` makes one `Rules` of the configuration that Snakemake read. Where maskmill is a module of
another workflow, Snakemake reads the rule files again for each module, and once more for every rule that the caller
changes; each reading has its own `Rules`, since the functions are called after it.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from snakemake.checkpoints import Checkpoint
from snakemake.exceptions import IncompleteCheckpointException, WorkflowError
from snakemake.io import ancient
from snakemake_interface_executor_plugins.settings import DeploymentMethod

import maskmill
from maskmill import access, driver
from maskmill.dag import slurm
from maskmill.dag.asked import Asked
from maskmill.dag.files import Graph, Source, path
from maskmill.dag.jobs import targets
from maskmill.dag.restore import RECORD, Deleted, Finished, Seen, deleted, look, unmade
from maskmill.errors import InputError, UserError
from maskmill.images.coded import contents_at
from maskmill.images.listing import content_fingerprint, counted_fingerprint
from maskmill.images.order import ordered
from maskmill.images.parts import remove_parts
from maskmill.images.presence import check_presence
from maskmill.recipe.architectures import check_backbones
from maskmill.recipe.documents import read_mapping
from maskmill.recipe.feature_set import ProductCode
from maskmill.recipe.origin import Origin
from maskmill.recipe.packages import check_packages
from maskmill.recipe.resolve import SHIPPED, load
from maskmill.recipe.run_checks import check_counts, check_labels
from maskmill.recipe.stages import RULES, Needs
from maskmill.redact import redact
from maskmill.store.artefact import count_rows, read_json
from maskmill.store.disk import check_writable
from maskmill.store.expected import compare
from maskmill.store.hashing import json_hash
from maskmill.store.manifest import read_manifest, read_shards
from maskmill.store.names import sweep
from maskmill.store.provenance import read_provenance
from maskmill.store.words import packed
from maskmill.versions import STAGE_VERSION

CHECKPOINTS = "MASKMILL_CHECKPOINTS"  # of the environment: local checkpoint -> the hash of its content, JSON
T = TypeVar("T")
KNOWN_AT_START = (
    "demo",
    "inputs_list",
    "inputs_check",
    "inputs",
    "weights",
    "export",
    "report",
)  # rules at which `--until` can stop


def guarded(function: Callable[..., T], *arguments: Any) -> T:
    """Its result; an error meant for the user stops the run as one line."""
    try:
        return function(*arguments)
    except UserError as error:
        raise WorkflowError(redact(str(error))) from None


class Rules:
    """The run of one reading of the rule files.

    Args:
        workflow, config, checkpoints: Snakemake's objects of these names.

    Attributes:
        run: the resolved configuration. graph: its jobs. prefix: of a module's files, with a slash at its end.
        reader_priority: where stores are not kept, what reads them runs before new ones are made, so that only a few
            lie on the disk at once.

    Raises:
        WorkflowError: the configuration is wrong; with the key, the value and the file that it stands in.
    """

    def __init__(self, workflow: Any, config: Mapping[str, Any], checkpoints: Any) -> None:
        self._workflow, self._checkpoints = workflow, checkpoints
        modifier = workflow.modifier  # of this reading; later it is that of whoever is read then
        self._named: Callable[[str], str] = modifier.modify_rulename
        self.module = modifier.base_snakefile is not None
        self.prefix = str(modifier.modify_path("results")).removesuffix("results")
        # The recipes come with the package: beside the Snakefile lies nothing where the workflow comes from Git, and
        # `workflow.basedir` is the folder of whoever uses it as a module.
        origin = self._origin()
        for file in origin.files:  # Snakemake takes the last of keys that are given twice
            if os.path.isfile(file) and not str(file).endswith(".json"):
                guarded(read_mapping, file)
        self.run = guarded(load, config, SHIPPED, origin)
        self._check_machine()
        if not self.module:  # before the first file is written; a module leaves its caller's files alone (`command`)
            access.restrict(self.run.config.readers, ".snakemake")
        self.graph = Graph(self.run, self.shards, self._files, self._images, self._sample)
        driver.announce()
        self.reader_priority = 1 if self.run.temporary else 0

    def _check_machine(self) -> None:
        """Packages and backbones that the run names are installed; asked by the driver and not again by every job.

        Where conda makes an environment for the jobs, that of the driver does not say what they have.
        """
        conda = DeploymentMethod.CONDA in self._workflow.deployment_settings.deployment_method
        if self._workflow.is_main_process and not conda:
            guarded(check_packages, self.run)
            guarded(check_backbones, self.run)

    def _origin(self) -> Origin:
        """Where the configuration came from, for messages."""
        if self.module:
            return Origin(default="the module's config")
        given = list(self._workflow.overwrite_configfiles)
        own = [file for file in self._workflow.configfiles if file not in given]
        return Origin([*own, *given], self._workflow.config_settings.config)

    def shards(self) -> Sequence[str]:
        """The shards of the manifest; waits for the checkpoint."""
        file = str(self._manifest.get().output.manifest)
        return self._read_shards(file, os.stat(file).st_mtime_ns)

    def _sample(self, code: ProductCode) -> str:
        """The hash of the images that a codec is fitted on; waits for the checkpoint."""
        self.shards()  # the manifest is the one expected
        return _sample_of(str(self._manifest.get().output.manifest), code)

    def _images(self) -> int:
        """The images of the manifest; waits for the checkpoint."""
        return guarded(count_rows, str(self._manifest.get().output.manifest))

    def _files(self) -> int:
        """How many files the sources of images name.

        A job on another machine does not list them to know what it follows: the list is there by then. A list that is
        left of a run with more images is removed before the first job (`before_first_job`).
        """
        if self._mine("inputs_list"):
            return self._listed(self.run.config.images, self.run.config.labels)[1]
        found = read_provenance(self._list) if os.path.lexists(self._list) else None
        return int(found["params"]["files"]) if found else 0

    @property
    def _list(self) -> str:
        return f"{self.prefix}{path('inputs_list')}"

    def targets(self, wildcards: Any) -> list[str]:
        """What a run is asked for: its targets, or what was deleted from it when it had finished."""
        wanted, seen = targets(self.graph), self._seen  # what is there before the checkpoint runs
        if not self._whole or not all(os.path.lexists(self.prefix + file) for file in (*wanted, RECORD)):
            return wanted
        self.shards()  # waits for the checkpoint
        found = self._deleted if seen else None
        if found is not None:
            return found.now
        if seen is not None and not (seen.gone or seen.changed) and seen.finished.told == self._told:
            return wanted
        return wanted + unmade(self.graph, self.asked, seen, self.prefix, self._contents)

    @property
    def _whole(self) -> bool:
        """True for the driver of a whole run, without what makes Snakemake run more or less than is needed."""
        chosen, flow = self._workflow.dag_settings, self._workflow
        told = (chosen.forceall, chosen.forcerun, chosen.until, chosen.omit_from, flow.touch, self.module)
        return bool(flow.is_main_process and not any(told))

    @cached_property
    def _seen(self) -> Seen | None:
        return look(self.prefix) if self._whole else None

    @cached_property
    def _deleted(self) -> Deleted | None:
        """Judged once, before the first job that it asks for; what will be made again is noted."""
        found = guarded(deleted, self.graph, self.asked, lambda: self._told, self._seen)
        if found is not None:
            dry = self._workflow.dryrun
            print(found.message(dry), file=sys.stderr)
            if not dry:
                found.finished.write()
        return found

    @cached_property
    def _told(self) -> str:
        """The hash of all that the results depend on, as it was when the run was planned."""
        config = self.run.config
        listed = [self._listing(config.images, config.labels)]
        if config.inputs.depth is not None:
            listed.append(self._listing(config.inputs.depth, None))
        for section in (config.evaluate.objects, config.evaluate.panoptic):
            if section is not None and section.instances is not None:
                listed.append(self._listing(section.instances, None))
        shown = [self.graph.depends("report", {}), *self._named_by_files]
        return json_hash([config.model_dump(mode="json"), shown, dict(STAGE_VERSION), listed, self._contents])

    @property
    def _named_by_files(self) -> list[str]:
        """What files, labels and checkpoints say of the classes of every recipe that has some."""
        rules = ("taxonomy_fit", "taxonomy_names")
        named = [name for name, recipe in self.run.recipes.items() if recipe.named]
        return [self.graph.depends(rule, {"recipe": name}) for name in named for rule in rules]

    @cached_property
    def _contents(self) -> str:
        """The hash of the local checkpoints."""
        files = [each.checkpoint for each in self.run.feature_sets.values() if each.checkpoint]
        return json_hash([self._content(file) for file in files]) if files else ""

    def _content(self, file: str) -> str:
        """The hash of a local checkpoint, as it was when the run was planned.

        The driver reads the file and tells it in the environment, which its jobs inherit: none of them reads it again,
        unless the environment does not reach it.
        """
        known: dict[str, str] = json.loads(os.environ.get(CHECKPOINTS, "{}"))
        if self._workflow.is_main_process or file not in known:
            known[file] = content_fingerprint(file)
            os.environ[CHECKPOINTS] = json.dumps(known)
        return known[file]

    def before_first_job(self) -> None:
        """What a driver does first: see that it may write, end what earlier drivers left behind, and tidy up."""
        places = [Path(self.prefix + name) for name in ("results", "logs", "benchmarks")]
        guarded(check_writable, places)
        guarded(slurm.before_first_job, Path.cwd(), self._workflow.executor_settings)
        if self._workflow.is_main_process:
            if not self.graph.parts:
                Path(self._list).unlink(missing_ok=True)
            remove_parts(Path(self.prefix + path("inputs_check")).parent, self.graph.parts)
            left = sweep(places[0])
            if left:
                size = sum(leftover.bytes for leftover in left) / 2**20
                print(f"{len(left)} unfinished files of killed jobs removed ({size:.1f} MiB)", file=sys.stderr)

    def after_last_job(self) -> str:
        """Record a whole run that has ended well, or set the times of what was made again; what is printed then."""
        found: Deleted | None = self.__dict__.get("_deleted")
        if found is not None:
            found.done()
            if found.later:
                return "More files of this run are gone; run the same command again."
        elif self._whole and any(job.rule.name == "all" for job in self._workflow.dag.jobs):
            before = self._seen.finished if self._seen else None
            Finished.of(self.graph, self.asked, self._told, self.prefix, self._contents, before).write()
        until = sorted(map(str, self._workflow.dag_settings.until))
        report = Path(f"{self.prefix}{path('report')}").absolute()
        if until:
            return f"Done until {', '.join(until)}."
        return f"Report: {report}" if report.is_file() else "Done."

    @cached_property
    def asked(self) -> Asked:
        """What is asked of every job."""
        return Asked(self.graph, self._content)

    @cached_property
    def _asked_of_manifest(self) -> Asked | None:
        """The same by the manifest that lies on the disk, whether it is up to date or not; none without one."""
        file = f"{self.prefix}{path('inputs', 'manifest')}"
        try:
            found, count = read_shards(file), count_rows(file)
        except UserError:  # absent, damaged or of an older version: the stage inputs makes it again
            return None
        graph = Graph(self.run, lambda: found, self._files, lambda: count, lambda code: _sample_of(file, code))
        return Asked(graph, self._content)

    @cached_property
    def _known(self) -> dict[tuple[str, int], Sequence[str]]:
        return {}

    def _read_shards(self, file: str, mtime_ns: int) -> Sequence[str]:
        if (file, mtime_ns) not in self._known:
            found = guarded(read_shards, file)
            guarded(compare, file, read_provenance(file) or {}, self.asked.of("inputs", {}))
            sets = max(len(self.run.feature_sets), len(self.run.recipes) * len(self.run.config.seeds))
            nodes = self._workflow.nodes
            guarded(slurm.arrays_fit, self._workflow.executor_settings, nodes, len(found), sets)
            guarded(check_counts, self.run.recipes, guarded(count_rows, file))
            guarded(self._check_order, file)
            if self.graph.labelled:
                guarded(self._check_labels, Path(file).with_name("classes.json"))
            self._known[file, mtime_ns] = found
        return self._known[file, mtime_ns]

    def _check_order(self, file: str) -> None:
        """Images follow one another where something asks for it: known before the first job that costs anything."""
        time = self.run.config.evaluate.time
        asked = {("tracks", each.tracks.settings.order) for each in self.run.recipes.values() if each.tracks}
        asked |= {("evaluate.time", time.order)} if time else set()
        if asked:
            rows = read_manifest(file).rows
            for key, order in sorted(asked):
                ordered(rows, order, key)

    def _check_labels(self, classes: Path) -> None:
        """The labels can be scored: known before the first job that costs anything."""
        found = read_json(classes)
        compare(classes, found["provenance"], self.asked.of("inputs", {}))
        if not found["labels"]:
            source = self.run.config.labels or f"column 'label' of {', '.join(self.run.config.sources)}"
            raise InputError(
                f"labels: {source}: none of the images of this run has a label; inputs.max_images may leave the "
                f"labelled ones out, or they are in {classes.with_name('rejected.csv')}"
            )
        check_labels(self.run.config.evaluate, {int(label): count for label, count in found["pixels"].items()})

    @property
    def _manifest(self) -> Any:
        """The checkpoint.

        A caller that changes one of our rules (`use rule ... with`) has the files read once more for that rule alone,
        and then `checkpoints` is empty: the checkpoint is the one that the caller has taken before, under whatever
        name, so it is known by its file.
        """
        if hasattr(self._checkpoints, "inputs"):
            return self._checkpoints.inputs
        file = f"{self.prefix}{path('inputs', 'manifest')}"
        found = next(rule for rule in self._workflow.rules if rule.is_checkpoint and file in rule.output)
        return Checkpoint(found, self._workflow.checkpoints)

    def inputs(self, rule: str) -> Callable[..., dict[str, Any]]:
        """Input function: the files that a job reads, by the names of its verb's options; to be unpacked."""
        return lambda wildcards: {
            name: _flagged(source) for name, source in self.graph.inputs(rule, dict(wildcards)).items()
        }

    def options(self, rule: str) -> Callable[..., str]:
        """Param: the same files and those that the job writes, as options. Snakemake runs no job again for this."""
        return lambda wildcards, input, output: self.graph.options(rule, dict(wildcards), input, output)

    def packed(self, rule: str) -> Callable[..., str]:
        """Param: `depends` as a word of a command line; it is not compared, because `depends` is."""
        return lambda wildcards, input: packed(self.graph.depends(rule, dict(wildcards)))

    def place(self, rule: str) -> Callable[..., str]:
        """Param: where the taxonomy of a recipe is found, as an option; no job runs again for another place."""

        def found(wildcards: Any, input: Any) -> str:
            recipe = self.graph.recipe(dict(wildcards))
            where = recipe.taxonomy.module.place(recipe.taxonomy.params, recipe.name)
            return f"--place {shlex.quote(where)}" if where else ""

        return found

    def depends(self, rule: str) -> Callable[..., str]:
        """Param: what a job runs again for, besides its files."""
        return lambda wildcards: self.graph.depends(rule, dict(wildcards))

    def command(self, rule: str) -> Callable[..., str]:
        """Param: how a job starts maskmill; nothing that a job runs again for, as it asks for input and output.

        An environment of conda has the libraries only; the package is always the one that Snakemake has imported.
        Snakemake formats the commands of a module with the names of its caller, so it can be no global name.
        """
        start = "maskmill"
        if DeploymentMethod.CONDA in self._workflow.deployment_settings.deployment_method:
            program = Path(maskmill.__file__).with_name("__main__.py")
            start = f"python -P {shlex.quote(str(program))}"
        mask = access.umask(self.run.config.readers) if self.module else None
        start = start if mask is None else f"umask {mask:03o} && {start}"

        def told(wildcards: Any, input: Any, output: Any) -> str:
            self.graph.inputs(rule, dict(wildcards))  # waits where the job's inputs do
            try:
                job = self.asked.job(rule, dict(wildcards), input, output)
            except IncompleteCheckpointException:  # of a file that is asked for by name: its params may not wait
                if self._asked_of_manifest is None:
                    raise
                job = self._asked_of_manifest.job(rule, dict(wildcards), input, output)
            return f"{start} --job {shlex.quote(job)}"

        return told

    def _needs(self, rule: str, wildcards: Any) -> Needs:
        """What a job asks for; until the images are listed what the table says, and Snakemake asks again after that."""
        try:
            return self.graph.needs(rule, dict(wildcards))
        except IncompleteCheckpointException:
            return RULES[rule].needs

    def cores(self, rule: str) -> Callable[..., int]:
        """Threads of a job."""
        return lambda wildcards: self._needs(rule, wildcards).threads

    def memory(self, rule: str) -> Callable[..., int]:
        """MB of a job; each further attempt asks for more."""
        return lambda wildcards, attempt: self._needs(rule, wildcards).memory * attempt

    def minutes(self, rule: str) -> Callable[..., int]:
        """Run time of a job; each further attempt asks for more."""
        return lambda wildcards, attempt: self._needs(rule, wildcards).minutes * attempt

    def setting(self, stage: str, key: str) -> Callable[..., Any]:
        """Resource: a setting of a recipe's stage that changes no result, so that no job runs again for it."""
        return lambda wildcards: getattr(self.graph.recipe(dict(wildcards)).stage(stage).settings, key)

    def pretraining(self, key: str) -> Callable[..., Any]:
        """Resource: a setting of the training of a backbone that changes no result."""

        def found(wildcards: Any) -> Any:
            recipe, _ = self.run.trained(wildcards.pretrained)
            return getattr(recipe.stage("pretrain").settings, key)

        return found

    def until_weights(self, wildcards: Any) -> list[str]:
        """Input function: the weights of all backbones where `--until weights` asks for them, else nothing.

        They need no image, but what reads them is known only once the images are listed: without this, Snakemake would
        find nothing to do.

        Raises:
            WorkflowError: `--until` names another rule whose jobs are not known at start. Snakemake forgets the whole
                graph then, and would say that nothing is to be done.
        """
        until = self._workflow.dag_settings.until
        late = [rule for rule in RULES if rule not in KNOWN_AT_START and self._named(rule) in until]
        if late:
            known = ", ".join(self._named(rule) for rule in KNOWN_AT_START)
            raise WorkflowError(
                f"--until {self._named(late[0])}: its jobs are known only once the images are listed, and Snakemake "
                f"stops at rules that it knows before: {known}; leave --until out, or name the files that you want"
            )
        if self._named("weights") not in until:
            return []
        # Those that are trained need images; what they start from does not.
        parts = [part for each in self.run.feature_sets.values() for part in each.parts]
        starts = [each for each in parts if (each.pretrain or {}).get("start") != "scratch"]
        return sorted({path("weights", weights=each.origin_slug) for each in starts})

    def watched(self, rule: str, images: str | Sequence[str], labels: str | None) -> str:
        """The fingerprint of the files that a rule watches.

        A job that runs in a process of its own (SLURM) plans only itself, but evaluates the params of what it follows:
        it does not list a million images, each time, for a rule that it cannot run.

        Raises:
            WorkflowError: files that the stage inputs would read are not there. In a module a rule of the caller may
                make them.
        """
        if not self._mine(rule) or (not self._workflow.is_main_process and rule == "inputs" and self.graph.parts):
            return ""
        if rule == "inputs" and not self.module:
            guarded(check_presence, self.run, self._origin())
        found, depth = self._listing(images, labels), self.run.config.inputs.depth
        return f"{found} {self._listing(depth, None)}" if rule == "inputs" and depth else found

    def _listing(self, images: str | Sequence[str], labels: str | None) -> str:
        return self._listed(images, labels)[0]

    def _listed(self, images: str | Sequence[str], labels: str | None) -> tuple[str, int]:
        """The fingerprint of files and their number; they are listed once in each start."""
        key = json.dumps([images, labels])
        if key not in self._listings:
            self._listings[key] = counted_fingerprint(images, labels)
        return self._listings[key]

    @cached_property
    def _listings(self) -> dict[str, tuple[str, int]]:
        return {}

    def _mine(self, rule: str) -> bool:
        """True unless this process was started for a job of another rule."""
        allowed = self._workflow.dag_settings.allowed_rules
        return bool(self._workflow.is_main_process or self._named(rule) in allowed)

    def depends_on_weights(self, wildcards: Any) -> str:
        """Param: what the weights of a backbone depend on, with the content of a local checkpoint.

        Its content and not its time: all features of the run depend on it.
        """
        told = self.graph.depends("weights", dict(wildcards))
        file = json.loads(told)["checkpoint"]
        if file is None or not self._mine("weights"):
            return told
        return json.dumps(json.loads(told) | {"content": self._content(file)}, sort_keys=True)

    def watched_instances(self, rule: str) -> Callable[..., str]:
        """Param: changes with the images of labelled instances, where a recipe is scored against any."""

        def fingerprint(wildcards: Any) -> str:
            objects, panoptic = self.run.config.evaluate.objects, self.run.config.evaluate.panoptic
            folders = []
            if objects is not None and self.graph.recipe(dict(wildcards)).background:
                folders.append(objects.instances)
            if panoptic is not None and rule == "evaluate":
                folders.append(panoptic.instances)
            known = [folder for folder in dict.fromkeys(folders) if folder is not None]
            return " ".join(self.watched(rule, folder, None) for folder in known)

        return fingerprint


def _sample_of(file: str, code: ProductCode) -> str:
    """The hash of the images of a manifest that a codec is fitted on, by its time: it is made anew at most once."""
    return guarded(contents_at, file, os.stat(file).st_mtime_ns, code.images, code.seed)


def _flagged(source: Source) -> Any:
    """One file as such, several as a list; those whose time means nothing are `ancient`."""
    files = [ancient(file) if source.timeless else file for file in source.files]
    return files[0] if source.passed == "file" and len(files) == 1 else files
