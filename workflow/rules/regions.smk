# regions: segments + features -> region table and one vector a region, one job a shard. `pool: crop_*` reads the photos
# and the weights of a backbone instead of features.
rule regions:
    input:
        unpack(regions_inputs),
    output:
        table="results/recipes/{recipe}/regions/{shard}.parquet",
        vectors=directory("results/recipes/{recipe}/regions/{shard}.zarr"),
    log:
        "logs/regions/{recipe}/{shard}.log",
    benchmark:
        "benchmarks/regions/{recipe}/{shard}.tsv"
    priority: SOON
    conda:
        "../../envs/maskmill.yaml"
    threads: lambda wc: 2 if RUN.recipes[wc.recipe].crops else 1
    resources:
        mem_mb=regions_need(3000, 6000),
        runtime=regions_need(60, 120),
        batch_size=8,
    params:
        run=command,
        regions=regions_params,
        sources=placed(regions_sources),
    shell:
        "{params.run} regions {params.sources} --params {params.regions:q} --table {output.table}"
        " --vectors {output.vectors} --batch-size {resources.batch_size} --threads {threads} &> {log}"
