# What the rules share: the validated configuration, and the functions that pick a job's files.
import json
import re
from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

from maskmill import access, slurm
from maskmill.adapt._views import UNFREEZING
from maskmill.artefact import json_hash
from maskmill.recipes import CODES, load
from maskmill.errors import UserError
from maskmill.inputs._listing import listing_fingerprint
from maskmill.manifest import read_shards
from maskmill.rounds.instance import TEACHING
from maskmill.versions import STAGE_VERSION


def guarded(function, *arguments):
    """Its result; an error meant for the user stops the run as one line."""
    try:
        return function(*arguments)
    except UserError as error:
        raise WorkflowError(str(error)) from None


RUN = guarded(load, config, Path(workflow.basedir) / "recipes")
# Before the first file is written; jobs inherit it.
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


def keys(stage, body):
    """A rule's `params`: exactly the keys that it depends on and its stage's code version, as JSON."""
    return json.dumps({"version": STAGE_VERSION[stage], **body}, sort_keys=True)


def either(names):
    """A wildcard's constraint: one of these names, or nothing at all."""
    return "|".join(re.escape(name) for name in sorted(names)) or "(?!)"


def section(stage):
    """The params of a recipe's stage."""
    return lambda wc: keys(stage, RUN.recipes[wc.recipe].stage(stage).as_dict())


@cache
def _shards(path, mtime_ns):
    return read_shards(path)


def shards():
    """The shards of the manifest; waits for the checkpoint."""
    path = checkpoints.inputs.get().output.manifest
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


def inputs_files(wc):
    """What another rule makes; all else is watched through its listing (see params), whatever braces its name has."""
    return [IMAGES] if IMAGES == DEMO_VIDEO else []


def watched(rule, images, labels):
    """The fingerprint of the files that a rule watches.

    A job that runs in a process of its own (SLURM) plans only itself, but evaluates the params of what it follows: it
    does not list a million images, each time, for a rule that it cannot run.
    """
    own = workflow.is_main_process or rule in workflow.dag_settings.allowed_rules
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


# adapt


def adapt_folder(wc):
    """The folder of the feature set that a recipe's head learns on."""
    name = RUN.recipes[wc.recipe].stage("adapt").settings.features
    return feature_folder(wc.recipe, name)


def adapt_features(wc, wanted):
    """Its stores."""
    return [f"{adapt_folder(wc)}/{shard}.zarr" for shard in wanted]


def adapt_source(wc, wanted):
    """What a head looks at: stored tokens, or photos with a backbone that learns too."""
    recipe = RUN.recipes[wc.recipe]
    if not recipe.unfrozen:
        return {"features": adapt_features(wc, wanted)}
    seen = recipe.features[recipe.stage("adapt").settings.features]
    return {"weights": f"resources/weights/{seen.weights_slug}.safetensors"}


def neighbours_params(wc):
    """What the table depends on."""
    params = RUN.recipes[wc.recipe].stage("adapt").params
    body = {"crops": params.crops, "neighbours": params.neighbours}
    return keys("adapt", body)


def adapt_params(wc):
    """The section without what this head does not depend on, and the number of prototypes where the recipe takes them.

    A head that trains its backbone depends on how photos are read and on which they are: no store of theirs is an
    input whose time would tell.
    """
    recipe = RUN.recipes[wc.recipe]
    others = ("checkpoint_steps", "cache_mib")
    others += ("hide", "jitter") if recipe.unfrozen else UNFREEZING
    body = {k: v for k, v in recipe.stage("adapt").as_dict().items() if k not in others}
    if recipe.cluster.method == "prototypes":
        body["clusters"] = recipe.cluster.params.clusters
    if recipe.unfrozen:
        seen = recipe.features[recipe.stage("adapt").settings.features]
        stored = {"dtype", "key_bias"}
        body["feature_set"] = seen.model_dump(mode="json", exclude=stored)
        body["photos"] = json_hash(shards())  # their names are hashes of contents
    return keys("adapt", body)


def adapt_inputs(wc):
    """What a head learns from, with the table of nearest images where the recipe's method asks for it."""
    found = adapt_source(wc, shards())
    if RUN.recipes[wc.recipe].neighbours:
        found["neighbours"] = f"results/recipes/{wc.recipe}/neighbours.parquet"
    return found


def adapt_options(wc):
    """The same as options of `maskmill adapt fit`."""
    files = {
        name: adapt_folder(wc) if name == "features" else file
        for name, file in adapt_inputs(wc).items()
    }
    return " ".join(f"--{name} {file}" for name, file in files.items())


def adapt_map_inputs(wc):
    """What a head makes the codes of a shard from."""
    if RUN.recipes[wc.recipe].unfrozen:
        return {"manifest": ancient("results/inputs/manifest.parquet")}
    return {"features": adapt_features(wc, [wc.shard])}


def adapt_map_options(wc):
    """The same as options of `maskmill adapt map`."""
    if RUN.recipes[wc.recipe].unfrozen:
        return f"--manifest results/inputs/manifest.parquet --shard {wc.shard}"
    return f"--features {adapt_folder(wc)}/{wc.shard}.zarr"


def cluster_head(wc):
    """The head whose prototypes are the clusters, where the recipe's method says so."""
    if RUN.recipes[wc.recipe].cluster.method != "prototypes":
        return {}
    return {"head": f"results/recipes/{wc.recipe}/seed{wc.seed}/adapt/head.safetensors"}


def cluster_options(wc):
    """What `cluster_fit` reads besides the vectors, as options."""
    files = foreground_codebook(wc) | cluster_head(wc)
    return " ".join(f"--{name} {file}" for name, file in files.items())


# regions


def regions_params(wc):
    """The section; crops pass through a backbone, so they depend on how its feature set reads it, not on its size."""
    recipe = RUN.recipes[wc.recipe]
    body = recipe.stage("regions").as_dict()
    if recipe.crops:
        seen = recipe.features[recipe.regions.settings.features]
        body["feature_set"] = seen.model_dump(mode="json", exclude={"size", "dtype"})
    return keys("regions", body)


def regions_inputs(wc):
    """Segments with stored tokens, or with the photos and a backbone."""
    recipe, name = (
        RUN.recipes[wc.recipe],
        RUN.recipes[wc.recipe].regions.settings.features,
    )
    files = {"segments": f"results/recipes/{wc.recipe}/cut/{wc.shard}.zarr"}
    if recipe.crops:
        return files | {
            "manifest": ancient("results/inputs/manifest.parquet"),
            "weights": f"resources/weights/{recipe.features[name].weights_slug}.safetensors",
        }
    return files | {"features": f"{feature_folder(wc.recipe, name)}/{wc.shard}.zarr"}


def regions_sources(wc):
    """The same as options of `maskmill regions`."""
    return " ".join(f"--{name} {file}" for name, file in regions_inputs(wc).items())


def regions_need(tokens, crops):
    """A resource of the rule: small for stored tokens, more where a backbone runs; grows with the attempts."""
    return (
        lambda wc, attempt: (crops if RUN.recipes[wc.recipe].crops else tokens)
        * attempt
    )


# reduce


def reduce_memory(wc, attempt):
    """MB of a fit: what the recipe lets it take and a tenth more, where its method has a limit."""
    params = RUN.recipes[wc.recipe].reduce.params
    return max(6000, int(1100 * getattr(params, "memory_gb", 0))) * attempt


# foreground


def foreground_keys(recipe, job):
    """The part of the section that one kind of job depends on: another threshold counts and fits nothing again."""
    body = RUN.recipes[recipe].stage("foreground").as_dict()
    fit, choose = ("clusters", "max_fit_points"), ("threshold",)
    if job == "fit":
        own = {k: body[k] for k in fit} | {"kmeans": STAGE_VERSION["cluster"]}
    elif job == "choose":
        own = {k: body[k] for k in choose}
    else:
        own = {k: v for k, v in body.items() if k not in (*fit, *choose, "features")}
    return keys("foreground", own)


def foreground_codebook(wc):
    """Which tokens are foreground, where the recipe asks for it."""
    if RUN.recipes[wc.recipe].foreground is None:
        return {}
    base = f"results/recipes/{wc.recipe}/seed{wc.seed}/foreground"
    return {"foreground": f"{base}/codebook.safetensors"}


def foreground_option(wc):
    """The same as an option of `maskmill cluster fit` and `maskmill paint`."""
    return " ".join(
        f"--{name} {file}" for name, file in foreground_codebook(wc).items()
    )


# paint


def paint_inputs(wc):
    """Token recipes score their tokens; region recipes paint segments with the clusters of their regions."""
    base = f"results/recipes/{wc.recipe}"
    files = {"codebook": f"{base}/seed{wc.seed}/cluster/codebook.safetensors"}
    if RUN.recipes[wc.recipe].tokens:
        files["vectors"] = vectors(wc.recipe, wc.shard, wc.seed)
        return files | foreground_codebook(wc)
    return files | {
        "segments": f"{base}/cut/{wc.shard}.zarr",
        "assignments": f"{base}/seed{wc.seed}/cluster/{wc.shard}.parquet",
        "limits": f"{base}/seed{wc.seed}/round0/limits.safetensors",
    }


def paint_sources(wc):
    """The same as options of `maskmill paint`."""
    return " ".join(
        f"--{name} {file}"
        for name, file in paint_inputs(wc).items()
        if name != "codebook"
    )


# rounds


def rounds_params(wc):
    """The round's section without what no student depends on: more rounds or other checkpoints retrain nothing."""
    body = RUN.recipes[wc.recipe].rounds_at(int(wc.round)).as_dict()
    others = ("count", "checkpoint_steps", "from_round", "refine", *TEACHING)
    return keys("rounds", {k: v for k, v in body.items() if k not in others})


def teach_params(wc):
    """Which predictions a round learns from."""
    body = RUN.recipes[wc.recipe].rounds_at(int(wc.round)).as_dict()
    return keys("rounds", {k: body[k] for k in TEACHING})


def taught(recipe, seed, r):
    """The folder of the instances that round r learns from: those of the cut, later what was kept of the predictions."""
    base = f"results/recipes/{recipe}/seed{seed}"
    return f"{base}/round0/instances" if r == 1 else f"{base}/round{r}/taught"


def teach_inputs(wc):
    """What the round before learnt from and predicted, of one shard."""
    r = int(wc.round)
    predicted = f"results/recipes/{wc.recipe}/seed{wc.seed}/round{r - 1}/instances"
    return {
        "taught": f"{taught(wc.recipe, wc.seed, r - 1)}/{wc.shard}.zarr",
        "predicted": f"{predicted}/{wc.shard}.zarr",
    }


def round_instances(wc):
    """The instances that a round predicted, of every shard; none where its student predicts masks only."""
    if not RUN.recipes[wc.recipe].instances(int(wc.round)):
        return []
    base = f"results/recipes/{wc.recipe}/seed{wc.seed}/round{wc.round}/instances"
    return [f"{base}/{shard}.zarr" for shard in shards()]


def instances_option(recipe, seed, r):
    """The same as an option."""
    if not RUN.recipes[recipe].instances(int(r)):
        return ""
    return f"--instances results/recipes/{recipe}/seed{seed}/round{r}/instances"


def predict_params(wc):
    """What prediction depends on besides its student."""
    return keys("rounds", {"refine": round_refine(wc.recipe, int(wc.round))})


def round_refine(recipe, r):
    """How the masks of round r are fitted to the photos."""
    return RUN.recipes[recipe].rounds_at(r).settings.refine.model_dump(mode="json")


def rounds_history(wc):
    """What the options of round logic read of the rounds before: option of `maskmill rounds train` -> folder or file."""
    r = int(wc.round)
    logic = RUN.recipes[wc.recipe].rounds_at(r).settings
    base = f"results/recipes/{wc.recipe}/seed{wc.seed}"
    found = {"masks": f"{base}/round{r - 1}/masks"}
    if RUN.recipes[wc.recipe].instances(r):
        found["instances"] = taught(wc.recipe, wc.seed, r)
    if r == 1 and logic.images == "surest":
        found["assignments"] = f"{base}/cluster"
    if r > 1 and (logic.start == "continue" or logic.stop):
        found["before"] = f"{base}/round{r - 1}/student.safetensors"
    if r > 1 and logic.stop:
        found["earlier"] = f"{base}/round{r - 2}/masks"
    if r > 1 and logic.confidence:
        found["confidence"] = f"{base}/round{r - 1}/confidence"
    return found


def rounds_inputs(wc):
    """The same as files, of every shard; and the feature stores that the student sees, or its encoder's weights."""
    kinds = {"assignments": "parquet"}
    files = {
        name: (
            place
            if name == "before"
            else [f"{place}/{shard}.{kinds.get(name, 'zarr')}" for shard in shards()]
        )
        for name, place in rounds_history(wc).items()
    }
    if RUN.recipes[wc.recipe].photos(int(wc.round)):
        files["weights"] = encoder_weights(wc)
    files["features"] = [
        f"results/features/{s}/{shard}.zarr"
        for s in student_features(wc.recipe, int(wc.round)).values()
        for shard in shards()
    ]
    return files


def encoder_weights(wc):
    """The weights that the encoder of a student on photos starts from."""
    recipe = RUN.recipes[wc.recipe]
    encoder = recipe.features[recipe.rounds_at(int(wc.round)).params.encoder]
    return f"resources/weights/{encoder.weights_slug}.safetensors"


def rounds_sources(wc):
    """The same as options."""
    options = [f"--{name} {place}" for name, place in rounds_history(wc).items()]
    if RUN.recipes[wc.recipe].photos(int(wc.round)):
        options.append(f"--weights {encoder_weights(wc)}")
    options.append(student_sources(wc))
    return " ".join(options)


def predict_inputs(wc):
    """The feature stores that a student sees of one shard, or what it detected; none where it sees the photos."""
    if RUN.recipes[wc.recipe].instances(int(wc.round)):
        base = f"results/recipes/{wc.recipe}/seed{wc.seed}/round{wc.round}"
        return {"instances": f"{base}/instances/{wc.shard}.zarr"}
    return {
        "features": [
            f"results/features/{s}/{wc.shard}.zarr"
            for s in student_features(wc.recipe, int(wc.round)).values()
        ]
    }


def predict_sources(wc):
    """The same as options of `maskmill rounds predict`."""
    files = predict_inputs(wc)
    if "instances" in files:
        return f"--instances {files['instances']}"
    return student_sources(wc)


def student_sources(wc):
    """The feature stores of a student as options."""
    return " ".join(
        f"--features {name}=results/features/{s}"
        for name, s in student_features(wc.recipe, int(wc.round)).items()
    )


# evaluate


def evaluate_keys(objects):
    """The evaluate section as params; without its objects for what does not depend on them."""
    leave_out = set() if objects else {"objects"}
    return keys(
        "evaluate", RUN.config.evaluate.model_dump(mode="json", exclude=leave_out)
    )


def evaluate_masks_keys(wc):
    """Where a recipe's masks have a background, their foreground is scored if objects are."""
    background = RUN.recipes[wc.recipe].background
    return evaluate_keys(objects=background and RUN.config.evaluate.objects is not None)


def instances_listing(rule, wc):
    """Changes with the instance images, where there are any for this recipe."""
    objects = RUN.config.evaluate.objects
    if (
        objects is None
        or objects.instances is None
        or not RUN.recipes[wc.recipe].background
    ):
        return ""
    return watched(rule, objects.instances, None)


# export


def last_masks(wc):
    """The masks of a recipe's last round, of every shard."""
    last = RUN.recipes[wc.recipe].round_count
    return [
        f"results/recipes/{wc.recipe}/seed{wc.seed}/round{last}/masks/{shard}.zarr"
        for shard in shards()
    ]


def export_inputs(wc):
    """Regions where the recipe has a cut, and what segments new images."""
    recipe, base = RUN.recipes[wc.recipe], f"results/recipes/{wc.recipe}"
    files = {"masks": last_masks(wc)}
    if not recipe.tokens:
        files["cut"] = [f"{base}/cut/{shard}.zarr" for shard in shards()]
        files["regions"] = [f"{base}/regions/{shard}.parquet" for shard in shards()]
        files["assignments"] = [
            f"{base}/seed{wc.seed}/cluster/{shard}.parquet" for shard in shards()
        ]
    if recipe.instances(recipe.round_count):
        last = f"{base}/seed{wc.seed}/round{recipe.round_count}"
        files["instances"] = [f"{last}/instances/{shard}.zarr" for shard in shards()]
    files |= segmenter_files(wc)
    files["weights"] = sorted(
        f"resources/weights/{slug}.safetensors"
        for slug in {fs.weights_slug for fs in segmenter_sees(wc).values()}
    )
    if RUN.config.labels:
        files["scores"] = f"{base}/seed{wc.seed}/round{recipe.round_count}/scores.json"
    return files


def segmenter_files(wc):
    """Option of `maskmill export` -> file: the last student, or clusters of tokens and what makes their vectors."""
    recipe, base = RUN.recipes[wc.recipe], f"results/recipes/{wc.recipe}"
    own = f"{base}/seed{wc.seed}"
    if recipe.round_count:
        return {"student": f"{own}/round{recipe.round_count}/student.safetensors"}
    if not recipe.tokens:
        return {}
    files = {"codebook": f"{own}/cluster/codebook.safetensors"} | foreground_codebook(
        wc
    )
    reduced = recipe.reduce.method != "none"
    if reduced:
        files["reduction"] = f"{base}/reduce/model.safetensors"
    if recipe.regions.settings.features == CODES:
        # Reductions are made once a recipe, of the codes of the first seed.
        codes = feature_folder(wc.recipe, CODES, SEED if reduced else wc.seed)
        files["head"] = f"{codes}/head.safetensors"
    return files


def segmenter_sees(wc):
    """Name -> feature set whose backbone runs on new images; a head that trained its backbone has it in its file."""
    recipe = RUN.recipes[wc.recipe]
    if recipe.round_count:
        names = student_features(wc.recipe, recipe.round_count)
        return {name: recipe.features[name] for name in names}
    if not recipe.tokens or (
        recipe.unfrozen and recipe.regions.settings.features == CODES
    ):
        return {}
    return clustered_set(recipe)


def clustered_set(recipe):
    """Name -> the feature set whose tokens a recipe clusters, or behind the codes that it clusters."""
    name = recipe.regions.settings.features
    if name == CODES:
        name = recipe.stage("adapt").settings.features
    return {name: recipe.features[name]}


def export_features(wc):
    """The feature sets as an option: a student says which of them it sees, clusters are those of one."""
    recipe = RUN.recipes[wc.recipe]
    clusters = recipe.tokens and not recipe.round_count
    sets = clustered_set(recipe) if clusters else recipe.features
    return json.dumps({name: fs.model_dump(mode="json") for name, fs in sets.items()})


def export_refine(wc):
    """How the last masks are fitted to the photos."""
    recipe = RUN.recipes[wc.recipe]
    if recipe.round_count:
        return json.dumps(round_refine(wc.recipe, recipe.round_count))
    return json.dumps(recipe.paint.settings.refine.model_dump(mode="json"))


def export_sources(wc):
    """Options of `maskmill export` for what the recipe has."""
    recipe, base = RUN.recipes[wc.recipe], f"results/recipes/{wc.recipe}"
    options = []
    if not recipe.tokens:
        options += [f"--cut {base}/cut", f"--regions {base}/regions"]
        options += [f"--assignments {base}/seed{wc.seed}/cluster"]
    options += [f"--{name} {file}" for name, file in segmenter_files(wc).items()]
    if segmenter_sees(wc):
        options.append("--weights resources/weights")
    if recipe.tokens and not recipe.round_count:
        options.append(f"--upsample {recipe.paint.settings.upsample}")
    options.append(instances_option(wc.recipe, wc.seed, recipe.round_count))
    if RUN.config.labels:
        options.append(
            f"--scores {base}/seed{wc.seed}/round{recipe.round_count}/scores.json"
        )
    return " ".join(options)


# report


def report_inputs(wc):
    """Every mask of every recipe, seed and round, the regions behind them, and the scores where labels exist."""
    files = {
        name: []
        for name in (
            "masks",
            "regions",
            "scores",
            "objects",
            "probes",
            "selection",
            "heads",
        )
    }
    for name, recipe in RUN.recipes.items():
        base = f"results/recipes/{name}"
        for seed in RUN.config.seeds:
            files["selection"].append(f"{base}/seed{seed}/cluster/selection.json")
            if recipe.adapt is not None:
                files["heads"].append(f"{base}/seed{seed}/adapt/monitor.json")
            for r in range(recipe.round_count + 1):
                files["masks"] += [
                    f"{base}/seed{seed}/round{r}/masks/{shard}.zarr"
                    for shard in shards()
                ]
                if RUN.config.labels:
                    files["scores"].append(f"{base}/seed{seed}/round{r}/scores.json")
            if not recipe.tokens:
                files["regions"] += [
                    f"{base}/seed{seed}/cluster/{shard}.parquet" for shard in shards()
                ]
        if OBJECTS and not recipe.tokens:
            files["objects"].append(f"{base}/objects.json")
    for features, probed in report_probes().items():
        files["probes"].append(f"results/evaluate/probe/{features}.json")
        files["probes"] += [
            f"results/recipes/{name}/seed{seed}/adapt_probe.json"
            for name in probed
            for seed in RUN.config.seeds
        ]
    return files


def report_probes():
    """Feature set -> recipes whose heads were learnt on it and whose codes are probed; nothing where no probe is."""
    if not RUN.config.labels or not RUN.config.evaluate.linear_probe:
        return {}
    return {
        features: [
            name
            for name, recipe in RUN.recipes.items()
            if recipe.global_codes and recipe.behind(CODES).slug == features
        ]
        for features in RUN.feature_sets
    }


def report_plan():
    """What the report shows: the resolved run, without anything that differs between machines."""
    recipes = {
        name: {
            "description": recipe.description,
            "tokens": recipe.tokens,
            "rounds": recipe.round_count,
            "clusters": recipe.cluster.params.clusters,
            "sections": {
                "features": {
                    n: fs.model_dump(mode="json", exclude_none=True)
                    for n, fs in recipe.features.items()
                },
                **recipe.sections(),
            },
        }
        for name, recipe in RUN.recipes.items()
    }
    plan = RUN.config.report.model_dump(mode="json") | {
        "images": RUN.config.images,
        "labels": RUN.config.labels,
    }
    if OBJECTS:
        plan["objects"] = True
    if report_probes():
        plan["probes"] = report_probes()
    return keys("report", plan | {"seeds": RUN.config.seeds, "recipes": recipes})
