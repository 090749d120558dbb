"""An exported segmenter, applied to new images."""
