"""maskmill: unlabelled images in, semantic pseudo-masks and a trained segmenter out."""

__version__ = "0.1.0"
