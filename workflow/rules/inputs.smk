# inputs: folder, glob, CSV/Parquet manifest or video -> manifest with shards, rejected list. The only checkpoint.
rule demo:
    output:
        DEMO_VIDEO,
    log:
        "logs/demo.log",
    benchmark:
        "benchmarks/demo.tsv"
    retries: 2
    localrule: True
    conda:
        "../../envs/maskmill.yaml"
    threads: 1
    resources:
        mem_mb=500,
        runtime=10,
    params:
        run=command,
    shell:
        "{params.run} demo --out {output} &> {log}"


checkpoint inputs:
    input:
        inputs_files,
    output:
        manifest="results/inputs/manifest.parquet",
        rejected="results/inputs/rejected.csv",
    log:
        "logs/inputs.log",
    benchmark:
        "benchmarks/inputs.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: 2
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        run=command,
        place=place,
        inputs=keys("inputs", RUN.config.inputs.model_dump(mode="json")),
        images=lambda wc: IMAGES_READ,  # functions, as Snakemake takes {x} in a plain value for a wildcard
        labels=lambda wc: ["--labels", RUN.config.labels] if RUN.config.labels else [],
        listing=lambda wc: watched("inputs", IMAGES_READ, RUN.config.labels),
    shell:
        "{params.run} inputs --images {params.images:q} {params.labels:q} --params {params.inputs:q}"
        " --manifest {output.manifest} --rejected {output.rejected} --frames {params.place}results/inputs/frames"
        " --threads {threads} &> {log}"
