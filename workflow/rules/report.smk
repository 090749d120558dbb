# report: everything above -> one HTML file.
rule report:
    input:
        unpack(report_inputs),
        manifest="results/inputs/manifest.parquet",
        rejected="results/inputs/rejected.csv",
    output:
        report("results/report.html", caption="../report/report.rst", category="Report"),
    log:
        "logs/report.log",
    benchmark:
        "benchmarks/report.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=3000,
        runtime=60,
    params:
        plan=lambda wc: report_plan(),
    shell:
        "maskmill report --plan {params.plan:q} --results results --benchmarks benchmarks --out {output} &> {log}"
