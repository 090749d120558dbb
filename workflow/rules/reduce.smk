# reduce: fit once on vectors of all shards, then map shard by shard.
rule reduce_fit:
    input:
        manifest=ancient("results/inputs/manifest.parquet"),
        vectors=lambda wc: [raw_vectors(wc.recipe, shard) for shard in shards()],
    output:
        "results/recipes/{recipe}/reduce/model.safetensors",
    log:
        "logs/reduce_fit/{recipe}.log",
    benchmark:
        "benchmarks/reduce_fit/{recipe}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: 2
    resources:
        mem_mb=reduce_memory,
        runtime=lambda wc, attempt: 120 * attempt,
    params:
        run=command,
        reduce=section("reduce"),
        folder=placed(lambda wc: os.path.dirname(raw_vectors(wc.recipe, "s0"))),
    shell:
        "{params.run} reduce fit --vectors {params.folder} --manifest {input.manifest} --params {params.reduce:q}"
        " --out {output} --threads {threads} &> {log}"


rule reduce_map:
    input:
        vectors=lambda wc: raw_vectors(wc.recipe, wc.shard),
        model="results/recipes/{recipe}/reduce/model.safetensors",
    output:
        directory("results/recipes/{recipe}/reduce/{shard}.zarr"),
    log:
        "logs/reduce_map/{recipe}/{shard}.log",
    benchmark:
        "benchmarks/reduce_map/{recipe}/{shard}.tsv"
    priority: SOON
    conda:
        "../../envs/maskmill.yaml"
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: 3000 * attempt,
        runtime=lambda wc, attempt: 60 * attempt,
    params:
        run=command,
        reduce=section("reduce"),
    shell:
        "{params.run} reduce map --vectors {input.vectors} --model {input.model} --params {params.reduce:q}"
        " --out {output} --threads {threads} &> {log}"
