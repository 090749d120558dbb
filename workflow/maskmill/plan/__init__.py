"""plan: what a run would take, computed before anything runs. Pure functions; `run.py` reads files, `text.py` prints."""
