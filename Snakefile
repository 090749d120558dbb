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


for stage in STAGES:

    include: f"workflow/rules/{stage.name}.smk"


rule all:
    default_target: True
    input:
        targets(GRAPH),
    localrule: True


onstart:
    guarded(slurm.before_first_job, Path.cwd(), workflow.executor_settings)


onsuccess:
    print(f"Report: {os.path.abspath('results/report.html')}")


onerror:
    print(
        "Something failed. Its log is printed above; finished results are kept. Run the same command to go on."
    )
