# maskmill: unlabelled images in, pseudo-masks and a trained segmenter out.
#
#   snakemake --cores all                                  the embedded demo
#   snakemake --cores all --config images=/path/to/folder  your own images
#
# One stage = one file below = one section of config.yaml = one folder of workflow/maskmill = one verb of `maskmill`.
import os

from snakemake.utils import min_version

min_version("9.19")


configfile: "config.yaml" if os.path.exists("config.yaml") else workflow.source_path("config.yaml")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/common/adapt.smk"
include: "workflow/rules/common/masks.smk"
include: "workflow/rules/common/rounds.smk"
include: "workflow/rules/common/results.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/adapt.smk"
include: "workflow/rules/cut.smk"
include: "workflow/rules/regions.smk"
include: "workflow/rules/reduce.smk"
include: "workflow/rules/foreground.smk"
include: "workflow/rules/cluster.smk"
include: "workflow/rules/paint.smk"
include: "workflow/rules/rounds.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/export.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        report="results/report.html",
        exports=expand(
            "results/recipes/{recipe}/seed{seed}/export",
            recipe=RUN.recipes,
            seed=RUN.config.seeds[:1],
        ),
    localrule: True


onstart:
    guarded(slurm.before_first_job, Path.cwd(), workflow.executor_settings)


onsuccess:
    print(f"Report: {os.path.abspath('results/report.html')}")


onerror:
    print(
        "Something failed. Its log is printed above; finished results are kept. Run the same command to go on."
    )
