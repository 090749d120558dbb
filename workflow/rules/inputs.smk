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
    threads: 1
    resources:
        mem_mb=500,
        runtime=10,
    shell:
        "maskmill demo --out {output} &> {log}"


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
    threads: 2
    resources:
        mem_mb=4000,
        runtime=240,
    params:
        inputs=keys("inputs", RUN.config.inputs.model_dump(mode="json")),
        images=lambda wc: IMAGES,  # functions, as Snakemake takes {x} in a plain value for a wildcard
        labels=lambda wc: ["--labels", RUN.config.labels] if RUN.config.labels else [],
        listing=lambda wc: watched("inputs", IMAGES, RUN.config.labels),
    shell:
        "maskmill inputs --images {params.images:q} {params.labels:q} --params {params.inputs:q}"
        " --manifest {output.manifest} --rejected {output.rejected} --frames results/inputs/frames"
        " --threads {threads} &> {log}"
