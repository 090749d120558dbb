# inputs: folder, glob, CSV/Parquet manifest or video -> manifest with shards, rejected list. The only checkpoint. Many
# files (inputs.check_files) are listed first and checked in parts; the checkpoint then gathers these.
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


rule inputs_list:
    input:
        unpack(inputs("inputs_list")),
    output:
        out=path("inputs_list"),
    log:
        "logs/inputs_list.log",
    benchmark:
        "benchmarks/inputs_list.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("inputs_list")
    resources:
        mem_mb=memory("inputs_list"),
        runtime=minutes("inputs_list"),
    params:
        run=command("inputs_list"),
        depends=depends("inputs_list"),
        files=options("inputs_list"),
        # Functions, as Snakemake takes {x} in a plain value for a wildcard.
        images=lambda wc: RUN.config.images,
        labels=lambda wc: RUN.config.labels or "",
        listing=lambda wc: watched("inputs_list", RUN.config.images, RUN.config.labels),
        sources=lambda wc, input: named_sources(
            input.get("video") or RUN.config.sources
        ),
        frames=lambda wc, output: os.path.join(os.path.dirname(output.out), "frames"),
    shell:
        "{params.run} inputs-list {params.sources} --labels={params.labels:q} --params {params.depends:q} {params.files}"
        " --frames {params.frames:q} &> {log}"


rule inputs_check:
    input:
        unpack(inputs("inputs_check")),
    output:
        out=path("inputs_check"),
    log:
        "logs/inputs_check/{part}.log",
    benchmark:
        "benchmarks/inputs_check/{part}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("inputs_check")
    resources:
        mem_mb=memory("inputs_check"),
        runtime=minutes("inputs_check"),
    params:
        run=command("inputs_check"),
        depends=depends("inputs_check"),
        files=options("inputs_check"),
    shell:
        "{params.run} inputs-check {params.files} --part {wildcards.part} --params {params.depends:q}"
        " --threads {threads} &> {log}"


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
