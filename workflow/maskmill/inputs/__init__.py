"""Stage `inputs`."""
