# reduce: fit once on vectors of all shards, then map shard by shard.
rule reduce_fit:
    input:
        unpack(inputs("reduce_fit")),
    output:
        out=path("reduce_fit"),
    log:
        "logs/reduce_fit/{recipe}.log",
    benchmark:
        "benchmarks/reduce_fit/{recipe}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("reduce_fit")
    resources:
        mem_mb=memory("reduce_fit"),
        runtime=minutes("reduce_fit"),
    params:
        run=command("reduce_fit"),
        depends=depends("reduce_fit"),
        files=options("reduce_fit"),
    shell:
        "{params.run} reduce fit {params.files} --params {params.depends:q} --threads {threads} &> {log}"


rule reduce_map:
    input:
        unpack(inputs("reduce_map")),
    output:
        out=directory(path("reduce_map")),
    log:
        "logs/reduce_map/{recipe}/{shard}.log",
    benchmark:
        "benchmarks/reduce_map/{recipe}/{shard}.tsv"
    priority: READER_PRIORITY
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("reduce_map")
    resources:
        mem_mb=memory("reduce_map"),
        runtime=minutes("reduce_map"),
    params:
        run=command("reduce_map"),
        depends=depends("reduce_map"),
        files=options("reduce_map"),
    shell:
        "{params.run} reduce map {params.files} --params {params.depends:q} --threads {threads} &> {log}"
