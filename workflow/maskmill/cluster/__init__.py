"""Stage `cluster`."""
