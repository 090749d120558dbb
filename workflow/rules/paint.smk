# paint: clusters -> pseudo-masks of round 0, one job a shard; and its regions one by one, for students of instances.
# What a region's distance is compared with comes from all shards at once, so that a shard's job reads its own files only.
rule paint_limits:
    input:
        manifest=ancient("results/inputs/manifest.parquet"),
        assignments=every_shard(
            "results/recipes/{recipe}/seed{seed}/cluster/{shard}.parquet"
        ),
        codebook="results/recipes/{recipe}/seed{seed}/cluster/codebook.safetensors",
    output:
        "results/recipes/{recipe}/seed{seed}/round0/limits.safetensors",
    log:
        "logs/paint_limits/{recipe}/seed{seed}.log",
    benchmark:
        "benchmarks/paint_limits/{recipe}/seed{seed}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: 2000 * attempt,
        runtime=lambda wc, attempt: 30 * attempt,
    params:
        run=command,
        place=place,
        paint=lambda wc: keys(
            "paint",
            {"keep_closest": RUN.recipes[wc.recipe].paint.settings.keep_closest},
        ),
    shell:
        "{params.run} paint-limits --codebook {input.codebook} --manifest {input.manifest} --params {params.paint:q}"
        " --assignments {params.place}results/recipes/{wildcards.recipe}/seed{wildcards.seed}/cluster --out {output} &> {log}"


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
    priority: SOON
    conda:
        "../../envs/maskmill.yaml"
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: 3000 * attempt,
        runtime=lambda wc, attempt: 60 * attempt,
    params:
        run=command,
        paint=section("paint"),
        sources=placed(paint_sources),
    shell:
        "{params.run} paint {params.sources} --codebook {input.codebook} --manifest {input.manifest}"
        " --params {params.paint:q} --out {output} &> {log}"


rule paint_instances:
    input:
        unpack(paint_inputs),
        manifest=ancient("results/inputs/manifest.parquet"),
    output:
        directory("results/recipes/{recipe}/seed{seed}/round0/instances/{shard}.zarr"),
    log:
        "logs/paint_instances/{recipe}/seed{seed}/{shard}.log",
    benchmark:
        "benchmarks/paint_instances/{recipe}/seed{seed}/{shard}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: 3000 * attempt,
        runtime=lambda wc, attempt: 60 * attempt,
    params:
        run=command,
        paint=section("paint"),
        sources=placed(paint_sources),
    shell:
        "{params.run} paint --instances {params.sources} --codebook {input.codebook}"
        " --manifest {input.manifest} --params {params.paint:q} --out {output} &> {log}"
