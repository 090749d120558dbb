# What the rules of adapt and cluster are given.
from maskmill.store.artefact import json_hash
from maskmill.recipe.sections import FREEZING, STORING, UNFREEZING


def adapt_folder(wc):
    """The folder of the feature set that a recipe's head learns on."""
    name = RUN.recipes[wc.recipe].stage("adapt").settings.features
    return feature_folder(wc.recipe, name)


def adapt_features(wc, wanted):
    """Its stores."""
    return [f"{adapt_folder(wc)}/{shard}.zarr" for shard in wanted]


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
    others += FREEZING if recipe.unfrozen else UNFREEZING
    body = {k: v for k, v in recipe.stage("adapt").as_dict().items() if k not in others}
    if recipe.cluster.method == "prototypes":
        body["clusters"] = recipe.cluster.params.clusters
    if recipe.unfrozen:
        seen = recipe.behind(CODES)
        body["feature_set"] = seen.model_dump(mode="json", exclude=STORING)
        body["photos"] = json_hash(shards())  # their names are hashes of contents
    return keys("adapt", body)


def adapt_inputs(wc):
    """What a head learns from: stored tokens, or photos with the weights of a backbone that learns too.

    And the table of nearest images where the recipe's method asks for it.
    """
    recipe = RUN.recipes[wc.recipe]
    wanted = shards()  # adapt_params names photos by them, so a head waits for them
    if recipe.unfrozen:
        slug = recipe.behind(CODES).weights_slug
        found = {"weights": f"resources/weights/{slug}.safetensors"}
    else:
        found = {"features": adapt_features(wc, wanted)}
    if recipe.neighbours:
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
