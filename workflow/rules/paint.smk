# paint: clusters -> pseudo-masks of round 0, one job a shard; and its regions one by one, for students of instances.
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
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: 3000 * attempt,
        runtime=lambda wc, attempt: 60 * attempt,
    params:
        paint=section("paint"),
        sources=paint_sources,
    shell:
        "maskmill paint --instances {params.sources} --codebook {input.codebook}"
        " --manifest {input.manifest} --params {params.paint:q} --out {output} &> {log}"
