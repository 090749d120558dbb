"""Stage `regions`."""
