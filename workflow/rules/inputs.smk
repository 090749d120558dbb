# inputs: folder, glob, CSV/Parquet manifest or video -> manifest with shards, rejected list. The only checkpoint.
def watched(of, images, labels):
    """The fingerprint of the files that a rule watches.

    A job that runs in a process of its own (SLURM) plans only itself, but evaluates the params of what it follows: it
    does not list a million images, each time, for a rule that it cannot run.
    """
    own = workflow.is_main_process or of in workflow.dag_settings.allowed_rules
    return listing_fingerprint(images, labels) if own else ""


rule demo:
    output:
        out=path("demo"),
    log:
        "logs/demo.log",
    benchmark:
        "benchmarks/demo.tsv"
    retries: 2
    localrule: True
    threads: cores("demo")
    resources:
        mem_mb=memory("demo"),
        runtime=minutes("demo"),
    params:
        files=options("demo"),
    shell:
        "maskmill demo {params.files} &> {log}"


checkpoint inputs:
    input:
        unpack(inputs("inputs")),
    output:
        manifest=path("inputs", "manifest"),
        rejected=path("inputs", "rejected"),
    log:
        "logs/inputs.log",
    benchmark:
        "benchmarks/inputs.tsv"
    threads: cores("inputs")
    resources:
        mem_mb=memory("inputs"),
        runtime=minutes("inputs"),
    params:
        depends=depends("inputs"),
        files=options("inputs"),
        # Functions, as Snakemake takes {x} in a plain value for a wildcard.
        images=lambda wc: RUN.config.images,
        labels=lambda wc: ["--labels", RUN.config.labels] if RUN.config.labels else [],
        listing=lambda wc: watched("inputs", RUN.config.images, RUN.config.labels),
        source=lambda wc, input: input.get("video", RUN.config.images),
        frames=lambda wc, output: os.path.join(
            os.path.dirname(output.manifest), "frames"
        ),
    shell:
        "maskmill inputs --images {params.source:q} {params.labels:q} --params {params.depends:q} {params.files}"
        " --frames {params.frames:q} --threads {threads} &> {log}"
