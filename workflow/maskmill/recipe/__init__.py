"""The configuration: typed sections, the table of stages, recipes and how they are resolved into one run."""
