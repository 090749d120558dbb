# adapt: a head learnt on stored features, or on photos with its backbone, once a seed; its codes are a feature set of
# the recipe, made shard by shard.
rule adapt_neighbours:
    input:
        unpack(inputs("adapt_neighbours")),
    output:
        out=path("adapt_neighbours"),
    log:
        "logs/adapt_neighbours/{recipe}.log",
    benchmark:
        "benchmarks/adapt_neighbours/{recipe}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("adapt_neighbours")
    resources:
        mem_mb=memory("adapt_neighbours"),
        runtime=minutes("adapt_neighbours"),
    params:
        run=command("adapt_neighbours"),
        depends=depends("adapt_neighbours"),
        files=options("adapt_neighbours"),
    shell:
        "{params.run} adapt neighbours {params.files} --params {params.depends:q} --threads {threads} &> {log}"


rule adapt_fit:
    input:
        unpack(inputs("adapt_fit")),
    output:
        out=path("adapt_fit"),
        monitor=path("adapt_fit", "monitor"),
        timing=path("adapt_fit", "timing"),
    log:
        "logs/adapt_fit/{recipe}/seed{seed}.log",
    benchmark:
        "benchmarks/adapt_fit/{recipe}/seed{seed}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("adapt_fit")
    resources:
        mem_mb=memory("adapt_fit"),
        runtime=minutes("adapt_fit"),
        gpu=0,
        checkpoint_steps=setting("adapt", "checkpoint_steps"),
        cache_mib=setting("adapt", "cache_mib"),
    params:
        run=command("adapt_fit"),
        depends=depends("adapt_fit"),
        files=options("adapt_fit"),
    shell:
        "{params.run} adapt fit {params.files} --params {params.depends:q} --seed {wildcards.seed}"
        " --checkpoint-steps {resources.checkpoint_steps} --cache-mib {resources.cache_mib} --threads {threads} &> {log}"


rule adapt_map:
    input:
        unpack(inputs("adapt_map")),
    output:
        out=directory(path("adapt_map")),
    log:
        "logs/adapt_map/{recipe}/seed{seed}/{shard}.log",
    benchmark:
        "benchmarks/adapt_map/{recipe}/seed{seed}/{shard}.tsv"
    priority: READER_PRIORITY
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("adapt_map")
    resources:
        mem_mb=memory("adapt_map"),
        runtime=minutes("adapt_map"),
    params:
        run=command("adapt_map"),
        depends=depends("adapt_map"),
        files=options("adapt_map"),
    shell:
        "{params.run} adapt map {params.files} --shard {wildcards.shard} --threads {threads} &> {log}"
