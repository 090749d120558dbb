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
    conda:
        "../../envs/maskmill.yaml"
    threads: 1
    resources:
        mem_mb=3000,
        runtime=60,
    params:
        run=command,
        place=place,
        plan=lambda wc: report_plan(),
    shell:
        "{params.run} report --plan {params.plan:q} --{params.place}results results --{params.place}benchmarks benchmarks --out {output} &> {log}"
