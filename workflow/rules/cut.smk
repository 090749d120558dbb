# cut: tokens of one image -> segments, one job a shard.
rule cut:
    input:
        unpack(inputs("cut")),
    output:
        out=directory(path("cut")),
    log:
        "logs/cut/{recipe}/{shard}.log",
    benchmark:
        "benchmarks/cut/{recipe}/{shard}.tsv"
    priority: READER_PRIORITY
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("cut")
    resources:
        mem_mb=memory("cut"),
        runtime=minutes("cut"),
    params:
        run=command("cut"),
        depends=depends("cut"),
        files=options("cut"),
    shell:
        "{params.run} cut {params.files} --params {params.depends:q} --threads {threads} &> {log}"
