"""Stage `paint`."""
