# tracks: regions of the last masks carried through frames and slices. Neighbouring frames are compared shard by shard,
# one job joins them, and their numbers are laid over the masks.
rule tracks_match:
    input:
        unpack(inputs("tracks_match")),
    output:
        out=path("tracks_match"),
        pairs=path("tracks_match", "pairs"),
    log:
        "logs/tracks_match/{recipe}/seed{seed}/{shard}.log",
    benchmark:
        "benchmarks/tracks_match/{recipe}/seed{seed}/{shard}.tsv"
    priority: READER_PRIORITY
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("tracks_match")
    resources:
        mem_mb=memory("tracks_match"),
        runtime=minutes("tracks_match"),
    params:
        run=command("tracks_match"),
        depends=depends("tracks_match"),
        files=options("tracks_match"),
    shell:
        "{params.run} tracks match {params.files} --params {params.depends:q} &> {log}"


rule tracks_join:
    input:
        unpack(inputs("tracks_join")),
    output:
        out=path("tracks_join"),
    log:
        "logs/tracks_join/{recipe}/seed{seed}.log",
    benchmark:
        "benchmarks/tracks_join/{recipe}/seed{seed}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("tracks_join")
    resources:
        mem_mb=memory("tracks_join"),
        runtime=minutes("tracks_join"),
    params:
        run=command("tracks_join"),
        depends=depends("tracks_join"),
        files=options("tracks_join"),
    shell:
        "{params.run} tracks join {params.files} --params {params.depends:q} &> {log}"


rule tracks_map:
    input:
        unpack(inputs("tracks_map")),
    output:
        out=directory(path("tracks_map")),
    log:
        "logs/tracks_map/{recipe}/seed{seed}/{shard}.log",
    benchmark:
        "benchmarks/tracks_map/{recipe}/seed{seed}/{shard}.tsv"
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("tracks_map")
    resources:
        mem_mb=memory("tracks_map"),
        runtime=minutes("tracks_map"),
    params:
        run=command("tracks_map"),
        depends=depends("tracks_map"),
        files=options("tracks_map"),
    shell:
        "{params.run} tracks map {params.files} --params {params.depends:q} &> {log}"
