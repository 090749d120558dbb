# The workflow is workflow/Snakefile; this file is for `snakemake --snakefile` and for whoever looks at the top first.
include: "workflow/Snakefile"


# An included file sets no default target. A module leaves its caller's alone.
if workflow.default_target is None and workflow.is_rule(
    workflow.modifier.modify_rulename("all")
):
    workflow.default_target = workflow.modifier.modify_rulename("all")
