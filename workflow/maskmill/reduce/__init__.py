"""Stage `reduce`."""
