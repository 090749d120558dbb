# cut: tokens of one image -> segments, one job a shard.
rule cut:
    input:
        unpack(cut_inputs),
        manifest=ancient("results/inputs/manifest.parquet"),
    output:
        directory("results/recipes/{recipe}/cut/{shard}.zarr"),
    log:
        "logs/cut/{recipe}/{shard}.log",
    benchmark:
        "benchmarks/cut/{recipe}/{shard}.tsv"
    priority: SOON
    conda:
        "../../envs/maskmill.yaml"
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: 3000 * attempt,
        runtime=lambda wc, attempt: 120 * attempt,
    params:
        run=command,
        cut=section("cut"),
        colour=placed(cut_colour),
    shell:
        "{params.run} cut --features {input.features} {params.colour} --manifest {input.manifest}"
        " --params {params.cut:q} --out {output}"
        " --threads {threads} &> {log}"
