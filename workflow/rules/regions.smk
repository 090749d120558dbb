# regions: segments + features -> region table and one vector a region, one job a shard.
rule regions:
    input:
        segments="results/recipes/{recipe}/cut/{shard}.zarr",
        features=stage_features("regions"),
    output:
        table="results/recipes/{recipe}/regions/{shard}.parquet",
        vectors=directory("results/recipes/{recipe}/regions/{shard}.zarr"),
    log:
        "logs/regions/{recipe}/{shard}.log",
    benchmark:
        "benchmarks/regions/{recipe}/{shard}.tsv"
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: 3000 * attempt,
        runtime=lambda wc, attempt: 60 * attempt,
    params:
        regions=section("regions"),
    shell:
        "maskmill regions --segments {input.segments} --features {input.features} --params {params.regions:q}"
        " --table {output.table} --vectors {output.vectors} &> {log}"
