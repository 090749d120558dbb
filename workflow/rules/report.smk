# report: everything above -> one HTML file.
rule report:
    input:
        unpack(inputs("report")),
    output:
        out=report(path("report"), caption="../report/report.rst", category="Report"),
    log:
        "logs/report.log",
    benchmark:
        "benchmarks/report.tsv"
    localrule: True
    conda:
        "../../envs/maskmill.yaml"
    threads: cores("report")
    resources:
        mem_mb=memory("report"),
        runtime=minutes("report"),
    params:
        run=command("report"),
        depends=depends("report"),
        files=options("report"),
        plan=ASK.packed("report"),
        results=lambda wc, output: os.path.dirname(output.out),
    shell:
        "{params.run} report {params.files} --plan {params.plan:q} --results {params.results} --benchmarks {params.results}/../benchmarks &> {log}"
