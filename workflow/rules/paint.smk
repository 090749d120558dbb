# paint: clusters -> pseudo-masks of round 0, one job a shard; and its regions one by one, for students of instances.
# What a region's distance is compared with comes from all shards at once, so that a shard's job reads its own files only.
rule paint_limits:
    input:
        unpack(inputs("paint_limits")),
    output:
        out=path("paint_limits"),
    log:
        "logs/paint_limits/{recipe}/seed{seed}.log",
    benchmark:
        "benchmarks/paint_limits/{recipe}/seed{seed}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("paint_limits")
    resources:
        mem_mb=memory("paint_limits"),
        runtime=minutes("paint_limits"),
    params:
        run=command("paint_limits"),
        depends=depends("paint_limits"),
        files=options("paint_limits"),
    shell:
        "{params.run} paint-limits {params.files} --params {params.depends:q} &> {log}"


# Classes of what lies between the segments, in recipes that ask for them (paint.stuff).
rule paint_stuff:
    input:
        unpack(inputs("paint_stuff")),
    output:
        out=path("paint_stuff"),
    log:
        "logs/paint_stuff/{recipe}/seed{seed}.log",
    benchmark:
        "benchmarks/paint_stuff/{recipe}/seed{seed}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("paint_stuff")
    resources:
        mem_mb=memory("paint_stuff"),
        runtime=minutes("paint_stuff"),
    params:
        run=command("paint_stuff"),
        depends=depends("paint_stuff"),
        files=options("paint_stuff"),
    shell:
        "{params.run} paint-stuff {params.files} --params {params.depends:q} --seed {wildcards.seed} --threads {threads} &> {log}"


rule paint:
    input:
        unpack(inputs("paint")),
    output:
        out=directory(path("paint")),
    log:
        "logs/paint/{recipe}/seed{seed}/{shard}.log",
    benchmark:
        "benchmarks/paint/{recipe}/seed{seed}/{shard}.tsv"
    priority: READER_PRIORITY
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("paint")
    resources:
        mem_mb=memory("paint"),
        runtime=minutes("paint"),
    params:
        run=command("paint"),
        depends=depends("paint"),
        files=options("paint"),
    shell:
        "{params.run} paint {params.files} --params {params.depends:q} &> {log}"


rule paint_instances:
    input:
        unpack(inputs("paint_instances")),
    output:
        out=directory(path("paint_instances")),
    log:
        "logs/paint_instances/{recipe}/seed{seed}/{shard}.log",
    benchmark:
        "benchmarks/paint_instances/{recipe}/seed{seed}/{shard}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("paint_instances")
    resources:
        mem_mb=memory("paint_instances"),
        runtime=minutes("paint_instances"),
    params:
        run=command("paint_instances"),
        depends=depends("paint_instances"),
        files=options("paint_instances"),
    shell:
        "{params.run} paint --instances {params.files} --params {params.depends:q} &> {log}"
