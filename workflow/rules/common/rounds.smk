# What the rules of rounds are given.
from maskmill.rounds.instance import TEACHING


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
