# rounds: train a student on the masks of the round before, predict the masks of this round. Rounds are unrolled:
# round 0 is paint, round r reads round r - 1.
rule rounds_train:
    input:
        unpack(rounds_inputs),
        manifest=ancient("results/inputs/manifest.parquet"),
        codebook="results/recipes/{recipe}/seed{seed}/cluster/codebook.safetensors",
    output:
        student="results/recipes/{recipe}/seed{seed}/round{round}/student.safetensors",
        timing="results/recipes/{recipe}/seed{seed}/round{round}/training.json",
    log:
        "logs/rounds_train/{recipe}/seed{seed}/round{round}.log",
    benchmark:
        "benchmarks/rounds_train/{recipe}/seed{seed}/round{round}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: lambda wc: 8 if RUN.recipes[wc.recipe].photos(int(wc.round)) else 2
    resources:
        mem_mb=lambda wc, attempt: (
            16000 if RUN.recipes[wc.recipe].photos(int(wc.round)) else 8000
        )
        * attempt,
        runtime=lambda wc, attempt: 240 * attempt,
        gpu=0,
        checkpoint_steps=lambda wc: (
            RUN.recipes[wc.recipe].rounds.settings.checkpoint_steps
        ),
    params:
        run=command,
        rounds=rounds_params,
        sources=placed(rounds_sources),
    shell:
        "{params.run} rounds train {params.sources} --manifest {input.manifest} --codebook {input.codebook}"
        " --params {params.rounds:q} --round {wildcards.round} --seed {wildcards.seed}"
        " --out {output.student} --timing {output.timing} --checkpoint-steps {resources.checkpoint_steps}"
        " --gpus {resources.gpu} --threads {threads} &> {log}"


# The masks of a round are complete: no cell is ignore. How sure each cell is lies beside them, for `rounds.confidence`.
rule rounds_predict:
    input:
        unpack(predict_inputs),
        manifest=ancient("results/inputs/manifest.parquet"),
        student="results/recipes/{recipe}/seed{seed}/round{round}/student.safetensors",
    output:
        masks=directory(
            "results/recipes/{recipe}/seed{seed}/round{round}/masks/{shard}.zarr"
        ),
        confidence=directory(
            "results/recipes/{recipe}/seed{seed}/round{round}/confidence/{shard}.zarr"
        ),
    log:
        "logs/rounds_predict/{recipe}/seed{seed}/round{round}/{shard}.log",
    benchmark:
        "benchmarks/rounds_predict/{recipe}/seed{seed}/round{round}/{shard}.tsv"
    wildcard_constraints:
        round=r"[1-9]\d*",
    priority: SOON
    conda:
        "../../envs/maskmill.yaml"
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: 4000 * attempt,
        runtime=lambda wc, attempt: 60 * attempt,
    params:
        run=command,
        rounds=predict_params,
        sources=placed(predict_sources),
    shell:
        "{params.run} rounds predict {params.sources} --manifest {input.manifest} --params {params.rounds:q} --shard {wildcards.shard} --student {input.student}"
        " --out {output.masks} --confidence {output.confidence} --threads {threads} &> {log}"


# Students of instances: what they predict may overlap, so it is stored beside the masks, which are painted from it.
rule rounds_detect:
    input:
        manifest=ancient("results/inputs/manifest.parquet"),
        student="results/recipes/{recipe}/seed{seed}/round{round}/student.safetensors",
    output:
        directory(
            "results/recipes/{recipe}/seed{seed}/round{round}/instances/{shard}.zarr"
        ),
    log:
        "logs/rounds_detect/{recipe}/seed{seed}/round{round}/{shard}.log",
    benchmark:
        "benchmarks/rounds_detect/{recipe}/seed{seed}/round{round}/{shard}.tsv"
    wildcard_constraints:
        round=r"[1-9]\d*",
    conda:
        "../../envs/maskmill.yaml"
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: 4000 * attempt,
        runtime=lambda wc, attempt: 120 * attempt,
    params:
        run=command,
        version=keys("rounds", {}),
    shell:
        "{params.run} rounds detect --manifest {input.manifest} --shard {wildcards.shard} --student {input.student}"
        " --out {output} --threads {threads} &> {log}"


# Round r >= 2 learns from the sure predictions of round r - 1, and from what round r - 1 learnt from where none is.
rule rounds_teach:
    input:
        unpack(teach_inputs),
    output:
        directory(
            "results/recipes/{recipe}/seed{seed}/round{round}/taught/{shard}.zarr"
        ),
    log:
        "logs/rounds_teach/{recipe}/seed{seed}/round{round}/{shard}.log",
    benchmark:
        "benchmarks/rounds_teach/{recipe}/seed{seed}/round{round}/{shard}.tsv"
    wildcard_constraints:
        round=r"[1-9]\d*",
    conda:
        "../../envs/maskmill.yaml"
    threads: 1
    resources:
        mem_mb=lambda wc, attempt: 3000 * attempt,
        runtime=lambda wc, attempt: 60 * attempt,
    params:
        run=command,
        rounds=teach_params,
    shell:
        "{params.run} rounds teach --taught {input.taught} --predicted {input.predicted} --params {params.rounds:q}"
        " --round {wildcards.round} --out {output} &> {log}"
