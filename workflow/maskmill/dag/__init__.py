"""The workflow's graph of jobs in plain Python: which job reads and writes which files, and what SLURM needs."""
