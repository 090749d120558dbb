# export: masks of the last round as PNG and COCO JSON, clusters.csv, and the last student for `maskmill predict`.
def last_masks(wc):
    """The masks of a recipe's last round, of every shard."""
    last = RUN.recipes[wc.recipe].round_count
    return [
        f"results/recipes/{wc.recipe}/seed{wc.seed}/round{last}/masks/{shard}.zarr"
        for shard in shards()
    ]


def export_inputs(wc):
    """Regions where the recipe has a cut, the student where it has rounds."""
    recipe, base = RUN.recipes[wc.recipe], f"results/recipes/{wc.recipe}"
    files = {"masks": last_masks(wc)}
    if not recipe.tokens:
        files["cut"] = [f"{base}/cut/{shard}.zarr" for shard in shards()]
        files["regions"] = [f"{base}/regions/{shard}.parquet" for shard in shards()]
        files["assignments"] = [
            f"{base}/seed{wc.seed}/cluster/{shard}.parquet" for shard in shards()
        ]
    if recipe.round_count:
        files["student"] = (
            f"{base}/seed{wc.seed}/round{recipe.round_count}/student.safetensors"
        )
        files["weights"] = sorted(
            {
                f"resources/weights/{recipe.features[n].weights_slug}.safetensors"
                for n in student_features(wc.recipe)
            }
        )
    if RUN.config.labels:
        files["scores"] = f"{base}/seed{wc.seed}/round{recipe.round_count}/scores.json"
    return files


def export_sources(wc):
    """Options of `maskmill export` for what the recipe has."""
    recipe, base = RUN.recipes[wc.recipe], f"results/recipes/{wc.recipe}"
    options = []
    if not recipe.tokens:
        options += [f"--cut {base}/cut", f"--regions {base}/regions"]
        options += [f"--assignments {base}/seed{wc.seed}/cluster"]
    if recipe.round_count:
        options += [
            f"--student {base}/seed{wc.seed}/round{recipe.round_count}/student.safetensors"
        ]
    return " ".join(options)


rule export:
    input:
        unpack(export_inputs),
        manifest="results/inputs/manifest.parquet",
    output:
        directory("results/recipes/{recipe}/seed{seed}/export"),
    log:
        "logs/export/{recipe}/seed{seed}.log",
    benchmark:
        "benchmarks/export/{recipe}/seed{seed}.tsv"
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: 3000 * attempt,
        runtime=lambda wc, attempt: 240 * attempt,
    params:
        export=keys("export", RUN.config.export.model_dump(mode="json")),
        sources=export_sources,
        features=lambda wc: json.dumps(
            {
                name: fs.model_dump(mode="json")
                for name, fs in RUN.recipes[wc.recipe].features.items()
            }
        ),
        last=lambda wc: RUN.recipes[wc.recipe].round_count,
    shell:
        "maskmill export {params.sources} --manifest {input.manifest} --params {params.export:q}"
        " --masks results/recipes/{wildcards.recipe}/seed{wildcards.seed}/round{params.last}/masks"
        " --feature-sets {params.features:q} --recipe {wildcards.recipe} --seed {wildcards.seed}"
        " --round {params.last} --out {output} &> {log}"
