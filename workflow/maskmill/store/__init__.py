"""What lies on disk: atomic artefacts with provenance, the ragged Zarr store, manifest, codebook, run-length masks."""
