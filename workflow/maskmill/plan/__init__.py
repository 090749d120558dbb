"""plan: what a run would take, said before it starts. Pure functions; `run.py` reads files, `text.py` prints."""
