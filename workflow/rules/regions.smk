# regions: segments + features -> region table and one vector a region, one job a shard. `pool: crop_*` reads the photos
# and the weights of a backbone instead of features.
rule regions:
    input:
        unpack(inputs("regions")),
    output:
        table=path("regions", "table"),
        vectors=directory(path("regions", "vectors")),
    log:
        "logs/regions/{recipe}/{shard}.log",
    benchmark:
        "benchmarks/regions/{recipe}/{shard}.tsv"
    priority: READER_PRIORITY
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("regions")
    resources:
        mem_mb=memory("regions"),
        runtime=minutes("regions"),
        batch_size=8,
    params:
        run=command("regions"),
        depends=depends("regions"),
        files=options("regions"),
    shell:
        "{params.run} regions {params.files} --params {params.depends:q} --batch-size {resources.batch_size}"
        " --threads {threads} &> {log}"
