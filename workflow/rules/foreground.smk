# foreground: which tokens of a recipe without a cut are foreground. Fine clusters once a seed, counted against masks of
# attention shard by shard, then added up.
rule foreground_fit:
    input:
        manifest=ancient("results/inputs/manifest.parquet"),
        vectors=lambda wc: [vectors(wc.recipe, shard, wc.seed) for shard in shards()],
    output:
        "results/recipes/{recipe}/seed{seed}/foreground/fine.safetensors",
    log:
        "logs/foreground_fit/{recipe}/seed{seed}.log",
    benchmark:
        "benchmarks/foreground_fit/{recipe}/seed{seed}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: 2
    resources:
        mem_mb=lambda wc, attempt: 6000 * attempt,
        runtime=lambda wc, attempt: 120 * attempt,
    params:
        run=command,
        foreground=lambda wc: foreground_keys(wc.recipe, "fit"),
        folder=placed(vectors_folder),
    shell:
        "{params.run} foreground fit --vectors {params.folder} --manifest {input.manifest} --params {params.foreground:q}"
        " --seed {wildcards.seed} --out {output} --threads {threads} &> {log}"


rule foreground_count:
    input:
        vectors=lambda wc: vectors(wc.recipe, wc.shard, wc.seed),
        features=stage_features("foreground"),
        codebook="results/recipes/{recipe}/seed{seed}/foreground/fine.safetensors",
    output:
        "results/recipes/{recipe}/seed{seed}/foreground/{shard}.safetensors",
    log:
        "logs/foreground_count/{recipe}/seed{seed}/{shard}.log",
    benchmark:
        "benchmarks/foreground_count/{recipe}/seed{seed}/{shard}.tsv"
    priority: SOON
    conda:
        "../../envs/maskmill.yaml"
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: 3000 * attempt,
        runtime=lambda wc, attempt: 60 * attempt,
    params:
        run=command,
        foreground=lambda wc: foreground_keys(wc.recipe, "count"),
    shell:
        "{params.run} foreground count --vectors {input.vectors} --features {input.features} --codebook {input.codebook}"
        " --params {params.foreground:q} --out {output} &> {log}"


rule foreground_choose:
    input:
        manifest=ancient("results/inputs/manifest.parquet"),
        counts=every_shard(
            "results/recipes/{recipe}/seed{seed}/foreground/{shard}.safetensors"
        ),
        codebook="results/recipes/{recipe}/seed{seed}/foreground/fine.safetensors",
    output:
        "results/recipes/{recipe}/seed{seed}/foreground/codebook.safetensors",
    log:
        "logs/foreground_choose/{recipe}/seed{seed}.log",
    benchmark:
        "benchmarks/foreground_choose/{recipe}/seed{seed}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: 2000 * attempt,
        runtime=lambda wc, attempt: 30 * attempt,
    params:
        run=command,
        place=place,
        foreground=lambda wc: foreground_keys(wc.recipe, "choose"),
    shell:
        "{params.run} foreground choose --codebook {input.codebook}"
        " --counts {params.place}results/recipes/{wildcards.recipe}/seed{wildcards.seed}/foreground --manifest {input.manifest}"
        " --params {params.foreground:q} --out {output} &> {log}"
