# What the rules of regions, reduce, foreground and paint are given.


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
