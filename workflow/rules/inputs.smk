# inputs: folder, glob, CSV/Parquet manifest or video -> manifest with shards, rejected list. The only checkpoint.
rule demo:
    output:
        out=path("demo"),
    log:
        "logs/demo.log",
    benchmark:
        "benchmarks/demo.tsv"
    retries: 2
    localrule: True
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("demo")
    resources:
        mem_mb=memory("demo"),
        runtime=minutes("demo"),
    params:
        run=command("demo"),
        files=options("demo"),
    shell:
        "{params.run} demo {params.files} &> {log}"


checkpoint inputs:
    input:
        unpack(inputs("inputs")),
    output:
        manifest=path("inputs", "manifest"),
        rejected=path("inputs", "rejected"),
        classes=path("inputs", "classes"),
    log:
        "logs/inputs.log",
    benchmark:
        "benchmarks/inputs.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("inputs")
    resources:
        mem_mb=memory("inputs"),
        runtime=minutes("inputs"),
    params:
        run=command("inputs"),
        depends=depends("inputs"),
        files=options("inputs"),
        # Functions, as Snakemake takes {x} in a plain value for a wildcard.
        images=lambda wc: RUN.config.images,
        labels=lambda wc: RUN.config.labels or "",
        listing=lambda wc: watched("inputs", RUN.config.images, RUN.config.labels),
        sources=lambda wc, input: named_sources(
            input.get("video") or RUN.config.sources
        ),
        frames=lambda wc, output: os.path.join(
            os.path.dirname(output.manifest), "frames"
        ),
    shell:
        "{params.run} inputs {params.sources} --labels={params.labels:q} --params {params.depends:q} {params.files}"
        " --frames {params.frames:q} --threads {threads} &> {log}"
