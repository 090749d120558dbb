# rounds: train a student on the masks of the round before, predict the masks of this round. Rounds are unrolled:
# round 0 is paint, round r reads round r - 1.
rule rounds_train:
    input:
        unpack(inputs("rounds_train")),
    output:
        out=path("rounds_train"),
        timing=path("rounds_train", "timing"),
    log:
        "logs/rounds_train/{recipe}/seed{seed}/round{round}.log",
    benchmark:
        "benchmarks/rounds_train/{recipe}/seed{seed}/round{round}.tsv"
    wildcard_constraints:
        round=TRAINED,
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("rounds_train")
    resources:
        mem_mb=memory("rounds_train"),
        runtime=minutes("rounds_train"),
        gpu=0,
        checkpoint_steps=setting("rounds", "checkpoint_steps"),
    params:
        run=command("rounds_train"),
        depends=depends("rounds_train"),
        files=options("rounds_train"),
    shell:
        "{params.run} rounds train {params.files} --params {params.depends:q} --round {wildcards.round} --seed {wildcards.seed}"
        " --checkpoint-steps {resources.checkpoint_steps} --gpus {resources.gpu} --threads {threads} &> {log}"


# The masks of a round are complete: no cell is ignore. How sure each cell is lies beside them, for `rounds.confidence`.
rule rounds_predict:
    input:
        unpack(inputs("rounds_predict")),
    output:
        out=directory(path("rounds_predict")),
        confidence=directory(path("rounds_predict", "confidence")),
    log:
        "logs/rounds_predict/{recipe}/seed{seed}/round{round}/{shard}.log",
    benchmark:
        "benchmarks/rounds_predict/{recipe}/seed{seed}/round{round}/{shard}.tsv"
    wildcard_constraints:
        round=TRAINED,
    priority: READER_PRIORITY
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("rounds_predict")
    resources:
        mem_mb=memory("rounds_predict"),
        runtime=minutes("rounds_predict"),
    params:
        run=command("rounds_predict"),
        depends=depends("rounds_predict"),
        files=options("rounds_predict"),
    shell:
        "{params.run} rounds predict {params.files} --params {params.depends:q} --shard {wildcards.shard}"
        " --threads {threads} &> {log}"


# Students of instances: what they predict may overlap, so it is stored beside the masks, which are painted from it.
rule rounds_detect:
    input:
        unpack(inputs("rounds_detect")),
    output:
        out=directory(path("rounds_detect")),
    log:
        "logs/rounds_detect/{recipe}/seed{seed}/round{round}/{shard}.log",
    benchmark:
        "benchmarks/rounds_detect/{recipe}/seed{seed}/round{round}/{shard}.tsv"
    wildcard_constraints:
        round=TRAINED,
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("rounds_detect")
    resources:
        mem_mb=memory("rounds_detect"),
        runtime=minutes("rounds_detect"),
    params:
        run=command("rounds_detect"),
        depends=depends("rounds_detect"),
        files=options("rounds_detect"),
    shell:
        "{params.run} rounds detect {params.files} --shard {wildcards.shard} --threads {threads} &> {log}"


# Round r >= 2 learns from the sure predictions of round r - 1, and from what round r - 1 learnt from where none is.
rule rounds_teach:
    input:
        unpack(inputs("rounds_teach")),
    output:
        out=directory(path("rounds_teach")),
    log:
        "logs/rounds_teach/{recipe}/seed{seed}/round{round}/{shard}.log",
    benchmark:
        "benchmarks/rounds_teach/{recipe}/seed{seed}/round{round}/{shard}.tsv"
    wildcard_constraints:
        round=TRAINED,
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("rounds_teach")
    resources:
        mem_mb=memory("rounds_teach"),
        runtime=minutes("rounds_teach"),
    params:
        run=command("rounds_teach"),
        depends=depends("rounds_teach"),
        files=options("rounds_teach"),
    shell:
        "{params.run} rounds teach {params.files} --params {params.depends:q} --round {wildcards.round} &> {log}"
