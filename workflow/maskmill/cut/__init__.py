"""Stage `cut`."""
