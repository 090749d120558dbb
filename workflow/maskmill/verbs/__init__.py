"""The verbs of stages that have several: one group of `maskmill` a stage."""
