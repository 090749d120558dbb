# evaluate: masks + labels + protocol -> scores, once a recipe, seed and round; segments of a cut once a recipe.
# Without labels these rules never run.
def instances_listing(of, wildcards):
    """Changes with the instance images, where there are any for this recipe."""
    objects = RUN.config.evaluate.objects
    if not GRAPH.recipe(wildcards).background or objects is None:
        return ""
    return watched(of, objects.instances, None) if objects.instances else ""


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
    threads: cores("evaluate")
    resources:
        mem_mb=memory("evaluate"),
        runtime=minutes("evaluate"),
    params:
        depends=depends("evaluate"),
        files=options("evaluate"),
        listing=lambda wc: instances_listing("evaluate", wc),
    shell:
        "maskmill evaluate masks {params.files} --params {params.depends:q} --recipe {wildcards.recipe}"
        " --seed {wildcards.seed} --round {wildcards.round} &> {log}"


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
    threads: cores("evaluate_objects")
    resources:
        mem_mb=memory("evaluate_objects"),
        runtime=minutes("evaluate_objects"),
    params:
        depends=depends("evaluate_objects"),
        files=options("evaluate_objects"),
        listing=lambda wc: instances_listing("evaluate_objects", wc),
    shell:
        "maskmill evaluate objects {params.files} --params {params.depends:q} --recipe {wildcards.recipe} &> {log}"


rule evaluate_probe:
    input:
        unpack(inputs("evaluate_probe")),
    output:
        out=path("evaluate_probe"),
    log:
        "logs/evaluate_probe/{features}.log",
    benchmark:
        "benchmarks/evaluate_probe/{features}.tsv"
    threads: cores("evaluate_probe")
    resources:
        mem_mb=memory("evaluate_probe"),
        runtime=minutes("evaluate_probe"),
    params:
        depends=depends("evaluate_probe"),
        files=options("evaluate_probe"),
    shell:
        "maskmill evaluate probe {params.files} --params {params.depends:q} --threads {threads} &> {log}"


# The same of what a head has made of a feature set: the codes of one seed.
rule evaluate_codes:
    input:
        unpack(inputs("evaluate_codes")),
    output:
        out=path("evaluate_codes"),
    log:
        "logs/evaluate_codes/{recipe}/seed{seed}.log",
    benchmark:
        "benchmarks/evaluate_codes/{recipe}/seed{seed}.tsv"
    threads: cores("evaluate_codes")
    resources:
        mem_mb=memory("evaluate_codes"),
        runtime=minutes("evaluate_codes"),
    params:
        depends=depends("evaluate_codes"),
        files=options("evaluate_codes"),
    shell:
        "maskmill evaluate probe {params.files} --params {params.depends:q} --recipe {wildcards.recipe}"
        " --seed {wildcards.seed} --threads {threads} &> {log}"
