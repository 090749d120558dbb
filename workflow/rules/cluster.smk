# cluster: fit a codebook once a seed; map regions to clusters shard by shard (paint maps tokens itself).
rule cluster_fit:
    input:
        unpack(foreground_codebook),
        unpack(cluster_head),
        manifest=ancient("results/inputs/manifest.parquet"),
        vectors=lambda wc: [vectors(wc.recipe, shard, wc.seed) for shard in shards()],
    output:
        codebook="results/recipes/{recipe}/seed{seed}/cluster/codebook.safetensors",
        selection="results/recipes/{recipe}/seed{seed}/cluster/selection.json",
    log:
        "logs/cluster_fit/{recipe}/seed{seed}.log",
    benchmark:
        "benchmarks/cluster_fit/{recipe}/seed{seed}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: 2
    resources:
        mem_mb=lambda wc, attempt: 6000 * attempt,
        runtime=lambda wc, attempt: 120 * attempt,
    params:
        run=command,
        cluster=section("cluster"),
        folder=placed(vectors_folder),
        options=placed(cluster_options),
    shell:
        "{params.run} cluster fit --vectors {params.folder} --manifest {input.manifest} --params {params.cluster:q}"
        " --seed {wildcards.seed} --out {output.codebook} --selection {output.selection} --threads {threads}"
        " {params.options} &> {log}"


rule cluster_map:
    input:
        vectors=lambda wc: vectors(wc.recipe, wc.shard, wc.seed),
        table="results/recipes/{recipe}/regions/{shard}.parquet",
        codebook="results/recipes/{recipe}/seed{seed}/cluster/codebook.safetensors",
    output:
        "results/recipes/{recipe}/seed{seed}/cluster/{shard}.parquet",
    log:
        "logs/cluster_map/{recipe}/seed{seed}/{shard}.log",
    benchmark:
        "benchmarks/cluster_map/{recipe}/seed{seed}/{shard}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: 3000 * attempt,
        runtime=lambda wc, attempt: 60 * attempt,
    params:
        run=command,
        version=STAGE_VERSION["cluster"],
    shell:
        "{params.run} cluster map --vectors {input.vectors} --table {input.table} --codebook {input.codebook}"
        " --out {output} &> {log}"
