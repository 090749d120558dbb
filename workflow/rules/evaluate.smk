# evaluate: masks + labels + protocol -> scores, once a recipe, seed and round; segments of a cut once a recipe.
# Without labels these rules never run.
rule evaluate:
    input:
        instances=round_instances,
        manifest="results/inputs/manifest.parquet",
        masks=every_shard(
            "results/recipes/{recipe}/seed{seed}/round{round}/masks/{shard}.zarr"
        ),
    output:
        report(
            "results/recipes/{recipe}/seed{seed}/round{round}/scores.json",
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
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: 3000 * attempt,
        runtime=lambda wc, attempt: 120 * attempt,
    params:
        run=command,
        place=place,
        evaluate=evaluate_masks_keys,
        listing=lambda wc: instances_listing("evaluate", wc),
        instances=placed(lambda wc: instances_option(wc.recipe, wc.seed, wc.round)),
    shell:
        "{params.run} evaluate masks --manifest {input.manifest} --params {params.evaluate:q}"
        " --masks {params.place}results/recipes/{wildcards.recipe}/seed{wildcards.seed}/round{wildcards.round}/masks {params.instances}"
        " --recipe {wildcards.recipe} --seed {wildcards.seed} --round {wildcards.round} --out {output} &> {log}"


rule evaluate_objects:
    input:
        manifest="results/inputs/manifest.parquet",
        cut=every_shard("results/recipes/{recipe}/cut/{shard}.zarr"),
    output:
        report(
            "results/recipes/{recipe}/objects.json",
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
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: 3000 * attempt,
        runtime=lambda wc, attempt: 120 * attempt,
    params:
        run=command,
        place=place,
        evaluate=lambda wc: evaluate_keys(objects=True),
        listing=lambda wc: instances_listing("evaluate_objects", wc),
    shell:
        "{params.run} evaluate objects --manifest {input.manifest} --params {params.evaluate:q}"
        " --cut {params.place}results/recipes/{wildcards.recipe}/cut --recipe {wildcards.recipe} --out {output} &> {log}"


rule evaluate_probe:
    input:
        manifest="results/inputs/manifest.parquet",
        features=every_shard("results/features/{features}/{shard}.zarr"),
    output:
        "results/evaluate/probe/{features}.json",
    log:
        "logs/evaluate_probe/{features}.log",
    benchmark:
        "benchmarks/evaluate_probe/{features}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: 2
    resources:
        mem_mb=lambda wc, attempt: 6000 * attempt,
        runtime=lambda wc, attempt: 120 * attempt,
    params:
        run=command,
        place=place,
        evaluate=lambda wc: evaluate_keys(objects=False),
    shell:
        "{params.run} evaluate probe --manifest {input.manifest} --features {params.place}results/features/{wildcards.features}"
        " --params {params.evaluate:q} --out {output} --threads {threads} &> {log}"


# The same of what a head has made of a feature set: the codes of one seed.
rule evaluate_codes:
    input:
        manifest="results/inputs/manifest.parquet",
        codes=every_shard("results/recipes/{recipe}/seed{seed}/adapt/{shard}.zarr"),
    output:
        "results/recipes/{recipe}/seed{seed}/adapt_probe.json",
    log:
        "logs/evaluate_codes/{recipe}/seed{seed}.log",
    benchmark:
        "benchmarks/evaluate_codes/{recipe}/seed{seed}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: 2
    resources:
        mem_mb=lambda wc, attempt: 6000 * attempt,
        runtime=lambda wc, attempt: 120 * attempt,
    params:
        run=command,
        place=place,
        evaluate=lambda wc: evaluate_keys(objects=False),
    shell:
        "{params.run} evaluate probe --manifest {input.manifest} --params {params.evaluate:q}"
        " --features {params.place}results/recipes/{wildcards.recipe}/seed{wildcards.seed}/adapt --recipe {wildcards.recipe}"
        " --seed {wildcards.seed} --out {output} --threads {threads} &> {log}"
