# pretrain: a backbone learns on the photos of all shards, once for all recipes that ask for the same; then its features are
# compared with those of the weights that it started from, without labels.
rule pretrain_fit:
    input:
        unpack(inputs("pretrain_fit")),
    output:
        out=path("pretrain_fit"),
        monitor=path("pretrain_fit", "monitor"),
        timing=path("pretrain_fit", "timing"),
    log:
        "logs/pretrain_fit/{pretrained}.log",
    benchmark:
        "benchmarks/pretrain_fit/{pretrained}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("pretrain_fit")
    resources:
        mem_mb=memory("pretrain_fit"),
        runtime=minutes("pretrain_fit"),
        gpu=0,
        checkpoint_steps=ASK.pretraining("checkpoint_steps"),
        cache_mib=ASK.pretraining("cache_mib"),
    params:
        run=command("pretrain_fit"),
        depends=depends("pretrain_fit"),
        files=options("pretrain_fit"),
    shell:
        "{params.run} pretrain fit {params.files} --params {params.depends:q}"
        " --checkpoint-steps {resources.checkpoint_steps} --cache-mib {resources.cache_mib}"
        " --gpus {resources.gpu} --threads {threads} &> {log}"


rule pretrain_accept:
    input:
        unpack(inputs("pretrain_accept")),
    output:
        out=path("pretrain_accept"),
        report=path("pretrain_accept", "report"),
    log:
        "logs/pretrain_accept/{pretrained}.log",
    benchmark:
        "benchmarks/pretrain_accept/{pretrained}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("pretrain_accept")
    resources:
        mem_mb=memory("pretrain_accept"),
        runtime=minutes("pretrain_accept"),
        gpu=0,
    params:
        run=command("pretrain_accept"),
        depends=depends("pretrain_accept"),
        files=options("pretrain_accept"),
    shell:
        "{params.run} pretrain accept {params.files} --params {params.depends:q} --threads {threads} &> {log}"
