# cluster: fit a codebook once a seed; map regions to clusters shard by shard (paint maps tokens itself).
rule cluster_fit:
    input:
        unpack(inputs("cluster_fit")),
    output:
        out=path("cluster_fit"),
        selection=path("cluster_fit", "selection"),
    log:
        "logs/cluster_fit/{recipe}/seed{seed}.log",
    benchmark:
        "benchmarks/cluster_fit/{recipe}/seed{seed}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("cluster_fit")
    resources:
        mem_mb=memory("cluster_fit"),
        runtime=minutes("cluster_fit"),
    params:
        run=command("cluster_fit"),
        depends=depends("cluster_fit"),
        files=options("cluster_fit"),
    shell:
        "{params.run} cluster fit {params.files} --params {params.depends:q} --seed {wildcards.seed} --threads {threads} &> {log}"


# Ways to cluster the same tokens, which the fit chooses from and evaluate compares.
rule cluster_candidate:
    input:
        unpack(inputs("cluster_candidate")),
    output:
        out=path("cluster_candidate"),
    log:
        "logs/cluster_candidate/{recipe}/seed{seed}/{candidate}.log",
    benchmark:
        "benchmarks/cluster_candidate/{recipe}/seed{seed}/{candidate}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("cluster_candidate")
    resources:
        mem_mb=memory("cluster_candidate"),
        runtime=minutes("cluster_candidate"),
    params:
        run=command("cluster_candidate"),
        depends=depends("cluster_candidate"),
        files=options("cluster_candidate"),
    shell:
        "{params.run} cluster fit --candidate {params.files} --params {params.depends:q} --seed {wildcards.seed} --threads {threads} &> {log}"


rule cluster_map:
    input:
        unpack(inputs("cluster_map")),
    output:
        out=path("cluster_map"),
    log:
        "logs/cluster_map/{recipe}/seed{seed}/{shard}.log",
    benchmark:
        "benchmarks/cluster_map/{recipe}/seed{seed}/{shard}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("cluster_map")
    resources:
        mem_mb=memory("cluster_map"),
        runtime=minutes("cluster_map"),
    params:
        run=command("cluster_map"),
        depends=depends("cluster_map"),
        files=options("cluster_map"),
    shell:
        "{params.run} cluster map {params.files} --params {params.depends:q} &> {log}"
