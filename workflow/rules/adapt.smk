# adapt: a head learnt on stored features, or on photos with its backbone, once a seed; its codes are a feature set of
# the recipe, made shard by shard.
rule adapt_neighbours:
    input:
        manifest=ancient("results/inputs/manifest.parquet"),
        features=lambda wc: adapt_features(wc, shards()),
    output:
        "results/recipes/{recipe}/neighbours.parquet",
    log:
        "logs/adapt_neighbours/{recipe}.log",
    benchmark:
        "benchmarks/adapt_neighbours/{recipe}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: 2
    resources:
        mem_mb=lambda wc, attempt: 4000 * attempt,
        runtime=lambda wc, attempt: 120 * attempt,
    params:
        run=command,
        adapt=neighbours_params,
        folder=placed(adapt_folder),
    shell:
        "{params.run} adapt neighbours --features {params.folder} --manifest {input.manifest} --params {params.adapt:q}"
        " --out {output} --threads {threads} &> {log}"


rule adapt_fit:
    input:
        unpack(adapt_inputs),
        manifest=ancient("results/inputs/manifest.parquet"),
    output:
        head="results/recipes/{recipe}/seed{seed}/adapt/head.safetensors",
        monitor="results/recipes/{recipe}/seed{seed}/adapt/monitor.json",
        timing="results/recipes/{recipe}/seed{seed}/adapt/timing.json",
    log:
        "logs/adapt_fit/{recipe}/seed{seed}.log",
    benchmark:
        "benchmarks/adapt_fit/{recipe}/seed{seed}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: lambda wc: 8 if RUN.recipes[wc.recipe].unfrozen else 2
    resources:
        mem_mb=lambda wc, attempt: (16000 if RUN.recipes[wc.recipe].unfrozen else 6000)
        * attempt,
        runtime=lambda wc, attempt: 240 * attempt,
        gpu=0,
        checkpoint_steps=lambda wc: (
            RUN.recipes[wc.recipe].adapt.settings.checkpoint_steps
        ),
        cache_mib=lambda wc: RUN.recipes[wc.recipe].adapt.settings.cache_mib,
    params:
        run=command,
        adapt=adapt_params,
        options=placed(adapt_options),
    shell:
        "{params.run} adapt fit --manifest {input.manifest} --params {params.adapt:q}"
        " --seed {wildcards.seed} --out {output.head} --monitor {output.monitor} --timing {output.timing}"
        " {params.options} --checkpoint-steps {resources.checkpoint_steps} --cache-mib {resources.cache_mib}"
        " --threads {threads} &> {log}"


rule adapt_map:
    input:
        unpack(adapt_map_inputs),
        head="results/recipes/{recipe}/seed{seed}/adapt/head.safetensors",
    output:
        directory("results/recipes/{recipe}/seed{seed}/adapt/{shard}.zarr"),
    log:
        "logs/adapt_map/{recipe}/seed{seed}/{shard}.log",
    benchmark:
        "benchmarks/adapt_map/{recipe}/seed{seed}/{shard}.tsv"
    priority: SOON
    conda:
        "../../envs/maskmill.yaml"
    threads: lambda wc: 2 if RUN.recipes[wc.recipe].unfrozen else 1
    resources:
        mem_mb=lambda wc, attempt: (6000 if RUN.recipes[wc.recipe].unfrozen else 3000)
        * attempt,
        runtime=lambda wc, attempt: 60 * attempt,
    params:
        run=command,
        version=STAGE_VERSION["adapt"],
        options=placed(adapt_map_options),
    shell:
        "{params.run} adapt map {params.options} --head {input.head} --out {output} --threads {threads} &> {log}"
