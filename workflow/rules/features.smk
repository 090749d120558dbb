# features: one job a shard and feature set. Feature sets are shared by all recipes of the run.
rule weights:
    input:
        unpack(inputs("weights")),
    output:
        out=path("weights"),
    log:
        "logs/weights/{weights}.log",
    benchmark:
        "benchmarks/weights/{weights}.tsv"
    retries: 2
    localrule: True
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("weights")
    resources:
        mem_mb=memory("weights"),
        runtime=minutes("weights"),
    params:
        run=command("weights"),
        depends=ASK.depends_on_weights,
        files=options("weights"),
    shell:
        "{params.run} weights {params.files} --params {params.depends:q} &> {log}"


rule features_pq:
    input:
        unpack(inputs("features_pq")),
    output:
        out=path("features_pq"),
    log:
        "logs/features_pq/{features}.log",
    benchmark:
        "benchmarks/features_pq/{features}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("features_pq")
    resources:
        mem_mb=memory("features_pq"),
        runtime=minutes("features_pq"),
    params:
        run=command("features_pq"),
        depends=depends("features_pq"),
        files=options("features_pq"),
    shell:
        "{params.run} features-pq {params.files} --params {params.depends:q} --threads {threads} &> {log}"


rule features:
    input:
        unpack(inputs("features")),
    output:
        out=directory(path("features")),
    log:
        "logs/features/{features}/{shard}.log",
    benchmark:
        "benchmarks/features/{features}/{shard}.tsv"
    wildcard_constraints:
        features=either(RUN.feature_sets.keys() - RUN.temporary),
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("features")
    resources:
        mem_mb=memory("features"),
        runtime=minutes("features"),
        batch_size=8,
    params:
        run=command("features"),
        depends=depends("features"),
        files=options("features"),
    shell:
        "{params.run} features {params.files} --params {params.depends:q} --shard {wildcards.shard} --batch-size {resources.batch_size}"
        " --threads {threads} &> {log}"


# Feature sets that are not kept: Snakemake deletes a store after its last reader. A module that excludes `features` has no
# rule to inherit from.
if workflow.modifier.avail_rulename("features"):

    use rule features as features_temporary with:
        output:
            out=temp(directory(path("features"))),
        wildcard_constraints:
            features=either(RUN.temporary),
