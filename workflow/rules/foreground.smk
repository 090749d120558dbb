# foreground: which tokens of a recipe without a cut are foreground. Fine clusters once a seed, counted against masks of
# attention shard by shard, then added up.
rule foreground_fit:
    input:
        unpack(inputs("foreground_fit")),
    output:
        out=path("foreground_fit"),
    log:
        "logs/foreground_fit/{recipe}/seed{seed}.log",
    benchmark:
        "benchmarks/foreground_fit/{recipe}/seed{seed}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("foreground_fit")
    resources:
        mem_mb=memory("foreground_fit"),
        runtime=minutes("foreground_fit"),
    params:
        run=command("foreground_fit"),
        depends=depends("foreground_fit"),
        files=options("foreground_fit"),
    shell:
        "{params.run} foreground fit {params.files} --params {params.depends:q} --seed {wildcards.seed} --threads {threads} &> {log}"


rule foreground_count:
    input:
        unpack(inputs("foreground_count")),
    output:
        out=path("foreground_count"),
    log:
        "logs/foreground_count/{recipe}/seed{seed}/{shard}.log",
    benchmark:
        "benchmarks/foreground_count/{recipe}/seed{seed}/{shard}.tsv"
    priority: READER_PRIORITY
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("foreground_count")
    resources:
        mem_mb=memory("foreground_count"),
        runtime=minutes("foreground_count"),
    params:
        run=command("foreground_count"),
        depends=depends("foreground_count"),
        files=options("foreground_count"),
    shell:
        "{params.run} foreground count {params.files} --params {params.depends:q} &> {log}"


rule foreground_choose:
    input:
        unpack(inputs("foreground_choose")),
    output:
        out=path("foreground_choose"),
    log:
        "logs/foreground_choose/{recipe}/seed{seed}.log",
    benchmark:
        "benchmarks/foreground_choose/{recipe}/seed{seed}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("foreground_choose")
    resources:
        mem_mb=memory("foreground_choose"),
        runtime=minutes("foreground_choose"),
    params:
        run=command("foreground_choose"),
        depends=depends("foreground_choose"),
        files=options("foreground_choose"),
    shell:
        "{params.run} foreground choose {params.files} --params {params.depends:q} &> {log}"
