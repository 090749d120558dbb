"""Stage `rounds`."""
