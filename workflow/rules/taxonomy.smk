# taxonomy: clusters -> classes that have names. The survey says where the clusters lie in a sample of the images: what a
# person looks at to name them in the report.
rule taxonomy_survey:
    input:
        unpack(inputs("taxonomy_survey")),
    output:
        out=directory(path("taxonomy_survey")),
        margins=directory(path("taxonomy_survey", "margins")),
        places=path("taxonomy_survey", "places"),
    log:
        "logs/taxonomy_survey/{recipe}/seed{seed}.log",
    benchmark:
        "benchmarks/taxonomy_survey/{recipe}/seed{seed}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("taxonomy_survey")
    resources:
        mem_mb=memory("taxonomy_survey"),
        runtime=minutes("taxonomy_survey"),
    params:
        run=command("taxonomy_survey"),
        depends=depends("taxonomy_survey"),
        files=options("taxonomy_survey"),
    shell:
        "{params.run} taxonomy survey {params.files} --params {params.depends:q} &> {log}"


# Which vectors become which class; without names, so that another name paints nothing again.
rule taxonomy_fit:
    input:
        unpack(inputs("taxonomy_fit")),
    output:
        out=path("taxonomy_fit"),
        held=directory(path("taxonomy_fit", "held")),
    log:
        "logs/taxonomy_fit/{recipe}/seed{seed}.log",
    benchmark:
        "benchmarks/taxonomy_fit/{recipe}/seed{seed}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("taxonomy_fit")
    resources:
        mem_mb=memory("taxonomy_fit"),
        runtime=minutes("taxonomy_fit"),
    params:
        run=command("taxonomy_fit"),
        depends=depends("taxonomy_fit"),
        files=options("taxonomy_fit"),
        place=place("taxonomy_fit"),
    shell:
        "{params.run} taxonomy fit {params.files} {params.place} --params {params.depends:q} --seed {wildcards.seed} --threads {threads} &> {log}"


# Names and colours of the classes, and the file to edit.
rule taxonomy_names:
    input:
        unpack(inputs("taxonomy_names")),
    output:
        out=path("taxonomy_names"),
        document=path("taxonomy_names", "document"),
    log:
        "logs/taxonomy_names/{recipe}/seed{seed}.log",
    benchmark:
        "benchmarks/taxonomy_names/{recipe}/seed{seed}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("taxonomy_names")
    resources:
        mem_mb=memory("taxonomy_names"),
        runtime=minutes("taxonomy_names"),
    params:
        run=command("taxonomy_names"),
        depends=depends("taxonomy_names"),
        files=options("taxonomy_names"),
    shell:
        "{params.run} taxonomy names {params.files} --params {params.depends:q} --recipe {wildcards.recipe} --seed {wildcards.seed} &> {log}"


# Regions of a shard to classes, for recipes with a cut; paint gives tokens theirs.
rule taxonomy_map:
    input:
        unpack(inputs("taxonomy_map")),
    output:
        out=path("taxonomy_map"),
    log:
        "logs/taxonomy_map/{recipe}/seed{seed}/{shard}.log",
    benchmark:
        "benchmarks/taxonomy_map/{recipe}/seed{seed}/{shard}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("taxonomy_map")
    resources:
        mem_mb=memory("taxonomy_map"),
        runtime=minutes("taxonomy_map"),
    params:
        run=command("taxonomy_map"),
        depends=depends("taxonomy_map"),
        files=options("taxonomy_map"),
    shell:
        "{params.run} taxonomy map {params.files} --params {params.depends:q} &> {log}"
