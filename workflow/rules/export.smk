# export: masks of the last round as PNG and COCO JSON, clusters.csv, and what segments new images (`maskmill predict`). Of many
# images (export.single_images), a job a shard makes what another one puts together.
rule export_shard:
    input:
        unpack(inputs("export_shard")),
    output:
        out=directory(path("export_shard")),
    log:
        "logs/export_shard/{recipe}/seed{seed}/{shard}.log",
    benchmark:
        "benchmarks/export_shard/{recipe}/seed{seed}/{shard}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("export_shard")
    resources:
        mem_mb=memory("export_shard"),
        runtime=minutes("export_shard"),
    params:
        run=command("export_shard"),
        depends=depends("export_shard"),
        files=options("export_shard"),
        last=lambda wc: RUN.recipes[wc.recipe].round_count,
    shell:
        "{params.run} export-shard {params.files} --params {params.depends:q} --recipe {wildcards.recipe}"
        " --seed {wildcards.seed} --round {params.last} &> {log}"


rule export:
    input:
        unpack(inputs("export")),
    output:
        out=directory(path("export")),
    log:
        "logs/export/{recipe}/seed{seed}.log",
    benchmark:
        "benchmarks/export/{recipe}/seed{seed}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("export")
    resources:
        mem_mb=memory("export"),
        runtime=minutes("export"),
    params:
        run=command("export"),
        depends=depends("export"),
        files=options("export"),
        segmenter=lambda wc: json.dumps(segmenter_section(RUN.recipes[wc.recipe])),
        last=lambda wc: RUN.recipes[wc.recipe].round_count,
    shell:
        "{params.run} export {params.files} --params {params.depends:q} --segmenter {params.segmenter:q} --recipe {wildcards.recipe}"
        " --seed {wildcards.seed} --round {params.last} &> {log}"
