# paint: clusters -> pseudo-masks of round 0, one job a shard.
def paint_inputs(wc):
    """Token recipes score their tokens; region recipes paint segments with the clusters of all shards' regions."""
    base = f"results/recipes/{wc.recipe}"
    files = {"codebook": f"{base}/seed{wc.seed}/cluster/codebook.safetensors"}
    if RUN.recipes[wc.recipe].tokens:
        return files | {"vectors": vectors(wc.recipe, wc.shard)}
    return files | {
        "segments": f"{base}/cut/{wc.shard}.zarr",
        "assignments": [
            f"{base}/seed{wc.seed}/cluster/{shard}.parquet" for shard in shards()
        ],
    }


def paint_sources(wc):
    """The same as options of `maskmill paint`."""
    base = f"results/recipes/{wc.recipe}"
    if RUN.recipes[wc.recipe].tokens:
        return f"--vectors {vectors(wc.recipe, wc.shard)}"
    return f"--segments {base}/cut/{wc.shard}.zarr --assignments {base}/seed{wc.seed}/cluster"


rule paint:
    input:
        unpack(paint_inputs),
        manifest=ancient("results/inputs/manifest.parquet"),
    output:
        directory("results/recipes/{recipe}/seed{seed}/round0/masks/{shard}.zarr"),
    log:
        "logs/paint/{recipe}/seed{seed}/{shard}.log",
    benchmark:
        "benchmarks/paint/{recipe}/seed{seed}/{shard}.tsv"
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: 3000 * attempt,
        runtime=lambda wc, attempt: 60 * attempt,
    params:
        paint=section("paint"),
        sources=paint_sources,
    shell:
        "maskmill paint {params.sources} --codebook {input.codebook} --manifest {input.manifest}"
        " --params {params.paint:q} --out {output} &> {log}"
