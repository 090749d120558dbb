"""Numerics that several stages share: blocks, sampling, nearest neighbours, principal components, compilation."""
