# What the rules of evaluate, export and report are given.


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
