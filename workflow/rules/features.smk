# features: one job a shard and feature set. Feature sets are shared by all recipes of the run.
rule weights:
    output:
        "resources/weights/{weights}.safetensors",
    log:
        "logs/weights/{weights}.log",
    benchmark:
        "benchmarks/weights/{weights}.tsv"
    retries: 2
    localrule: True
    conda:
        "../../envs/maskmill.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        run=command,
        backbone=weights_params,
    shell:
        "{params.run} weights --params {params.backbone:q} --out {output} &> {log}"


rule features:
    input:
        manifest=ancient("results/inputs/manifest.parquet"),
        weights=weights_file,
    output:
        directory("results/features/{features}/{shard}.zarr"),
    log:
        "logs/features/{features}/{shard}.log",
    benchmark:
        "benchmarks/features/{features}/{shard}.tsv"
    wildcard_constraints:
        features=either(RUN.feature_sets.keys() - RUN.temporary),
    conda:
        "../../envs/maskmill.yaml"
    threads: 2
    resources:
        mem_mb=lambda wc, attempt: 6000 * attempt,
        runtime=lambda wc, attempt: 120 * attempt,
        batch_size=8,
    params:
        run=command,
        features=lambda wc: keys(
            "features", RUN.feature_sets[wc.features].model_dump(mode="json")
        ),
    shell:
        "{params.run} features --manifest {input.manifest} --shard {wildcards.shard} --params {params.features:q}"
        " --weights {input.weights} --out {output} --batch-size {resources.batch_size} --threads {threads} &> {log}"


# Feature sets that are not kept: Snakemake deletes a store after its last reader.
use rule features as features_temporary with:
    output:
        temp(directory("results/features/{features}/{shard}.zarr")),
    wildcard_constraints:
        features=either(RUN.temporary),
