# evaluate: masks + labels + protocol -> scores, once a recipe, seed and round; segments of a cut once a recipe.
# Without labels these rules never run, but for evaluate_time.
rule evaluate:
    input:
        unpack(inputs("evaluate")),
    output:
        out=report(
            path("evaluate"),
            caption="../report/scores.rst",
            category="Scores",
            labels={"recipe": "{recipe}", "seed": "{seed}", "round": "{round}"},
        ),
    log:
        "logs/evaluate/{recipe}/seed{seed}/round{round}.log",
    benchmark:
        "benchmarks/evaluate/{recipe}/seed{seed}/round{round}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("evaluate")
    resources:
        mem_mb=memory("evaluate"),
        runtime=minutes("evaluate"),
    params:
        run=command("evaluate"),
        depends=depends("evaluate"),
        files=options("evaluate"),
        listing=ASK.watched_instances("evaluate"),
    shell:
        "{params.run} evaluate masks {params.files} --params {params.depends:q} --recipe {wildcards.recipe}"
        " --seed {wildcards.seed} --round {wildcards.round} &> {log}"


# Round 0 by every way to cluster the same tokens: prototypes and k-means.
rule evaluate_candidates:
    input:
        unpack(inputs("evaluate_candidates")),
    output:
        out=path("evaluate_candidates"),
    log:
        "logs/evaluate_candidates/{recipe}/seed{seed}.log",
    benchmark:
        "benchmarks/evaluate_candidates/{recipe}/seed{seed}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("evaluate_candidates")
    resources:
        mem_mb=memory("evaluate_candidates"),
        runtime=minutes("evaluate_candidates"),
    params:
        run=command("evaluate_candidates"),
        depends=depends("evaluate_candidates"),
        files=options("evaluate_candidates"),
    shell:
        "{params.run} evaluate candidates {params.files} --params {params.depends:q} --recipe {wildcards.recipe}"
        " --seed {wildcards.seed} &> {log}"


rule evaluate_objects:
    input:
        unpack(inputs("evaluate_objects")),
    output:
        out=report(
            path("evaluate_objects"),
            caption="../report/objects.rst",
            category="Objects",
            labels={"recipe": "{recipe}"},
        ),
    log:
        "logs/evaluate_objects/{recipe}.log",
    benchmark:
        "benchmarks/evaluate_objects/{recipe}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("evaluate_objects")
    resources:
        mem_mb=memory("evaluate_objects"),
        runtime=minutes("evaluate_objects"),
    params:
        run=command("evaluate_objects"),
        depends=depends("evaluate_objects"),
        files=options("evaluate_objects"),
        listing=ASK.watched_instances("evaluate_objects"),
    shell:
        "{params.run} evaluate objects {params.files} --params {params.depends:q} --recipe {wildcards.recipe} &> {log}"


# A read-out of a feature set: linear_probe, retrieval and the like, one job each.
rule evaluate_probe:
    input:
        unpack(inputs("evaluate_probe")),
    output:
        out=path("evaluate_probe"),
    log:
        "logs/evaluate_probe/{features}/{readout}.log",
    benchmark:
        "benchmarks/evaluate_probe/{features}/{readout}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("evaluate_probe")
    resources:
        mem_mb=memory("evaluate_probe"),
        runtime=minutes("evaluate_probe"),
    params:
        run=command("evaluate_probe"),
        depends=depends("evaluate_probe"),
        files=options("evaluate_probe"),
    shell:
        "{params.run} evaluate probe {params.files} --params {params.depends:q} --readout {wildcards.readout}"
        " --threads {threads} &> {log}"


# The same of what a head has made of a feature set: the codes of one seed.
rule evaluate_codes:
    input:
        unpack(inputs("evaluate_codes")),
    output:
        out=path("evaluate_codes"),
    log:
        "logs/evaluate_codes/{recipe}/seed{seed}/{readout}.log",
    benchmark:
        "benchmarks/evaluate_codes/{recipe}/seed{seed}/{readout}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("evaluate_codes")
    resources:
        mem_mb=memory("evaluate_codes"),
        runtime=minutes("evaluate_codes"),
    params:
        run=command("evaluate_codes"),
        depends=depends("evaluate_codes"),
        files=options("evaluate_codes"),
    shell:
        "{params.run} evaluate probe {params.files} --params {params.depends:q} --readout {wildcards.readout}"
        " --recipe {wildcards.recipe} --seed {wildcards.seed} --threads {threads} &> {log}"


# How far the last masks of frames that follow one another agree; the one that needs no labels.
rule evaluate_time:
    input:
        unpack(inputs("evaluate_time")),
    output:
        out=path("evaluate_time"),
    log:
        "logs/evaluate_time/{recipe}/seed{seed}.log",
    benchmark:
        "benchmarks/evaluate_time/{recipe}/seed{seed}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("evaluate_time")
    resources:
        mem_mb=memory("evaluate_time"),
        runtime=minutes("evaluate_time"),
    params:
        run=command("evaluate_time"),
        depends=depends("evaluate_time"),
        files=options("evaluate_time"),
    shell:
        "{params.run} evaluate time {params.files} --params {params.depends:q} --recipe {wildcards.recipe}"
        " --seed {wildcards.seed} &> {log}"
