# report: everything above -> one HTML file.
def report_inputs(wc):
    """Every mask of every recipe, seed and round, the regions behind them, and the scores where labels exist."""
    files = {"masks": [], "regions": [], "scores": [], "probes": []}
    for name, recipe in RUN.recipes.items():
        base = f"results/recipes/{name}"
        for seed in RUN.config.seeds:
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
    if RUN.config.labels and RUN.config.evaluate.linear_probe:
        files["probes"] = [
            f"results/evaluate/probe/{features}.json" for features in RUN.feature_sets
        ]
    return files


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
                **{
                    s: recipe.stage(s).as_dict()
                    for s in RECIPE_STAGES
                    if getattr(recipe, s) is not None
                },
            },
        }
        for name, recipe in RUN.recipes.items()
    }
    plan = RUN.config.report.model_dump(mode="json") | {
        "images": RUN.config.images,
        "labels": RUN.config.labels,
    }
    return keys("report", plan | {"seeds": RUN.config.seeds, "recipes": recipes})


rule report:
    input:
        unpack(report_inputs),
        manifest="results/inputs/manifest.parquet",
        rejected="results/inputs/rejected.csv",
    output:
        report("results/report.html", caption="../report/report.rst", category="Report"),
    log:
        "logs/report.log",
    benchmark:
        "benchmarks/report.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=3000,
        runtime=60,
    params:
        plan=report_plan(),
    shell:
        "maskmill report --plan {params.plan:q} --results results --benchmarks benchmarks --out {output} &> {log}"
