# export: masks of the last round as PNG and COCO JSON, clusters.csv, and what segments new images (`maskmill predict`).
rule export:
    input:
        unpack(export_inputs),
        manifest="results/inputs/manifest.parquet",
    output:
        directory("results/recipes/{recipe}/seed{seed}/export"),
    log:
        "logs/export/{recipe}/seed{seed}.log",
    benchmark:
        "benchmarks/export/{recipe}/seed{seed}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: 3000 * attempt,
        runtime=lambda wc, attempt: 240 * attempt,
    params:
        run=command,
        place=place,
        export=keys("export", RUN.config.export.model_dump(mode="json")),
        sources=placed(export_sources),
        features=export_features,
        refine=export_refine,
        last=lambda wc: RUN.recipes[wc.recipe].round_count,
    shell:
        "{params.run} export {params.sources} --manifest {input.manifest} --params {params.export:q}"
        " --masks {params.place}results/recipes/{wildcards.recipe}/seed{wildcards.seed}/round{params.last}/masks"
        " --feature-sets {params.features:q} --refine {params.refine:q} --recipe {wildcards.recipe} --seed {wildcards.seed}"
        " --round {params.last} --out {output} &> {log}"
