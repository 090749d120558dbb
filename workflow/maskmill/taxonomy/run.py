"""Files of the stage taxonomy: where the clusters lie, what classes they become, and the classes of regions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from maskmill.errors import StoreError
from maskmill.progress import track
from maskmill.store import codebook as books
from maskmill.store.provenance import Provenance
from maskmill.store.ragged import Ragged, RaggedWriter
from maskmill.taxonomy._survey import ShardVectors, maps, sampled


def survey(
    shards: Sequence[ShardVectors],
    codebook: str | Path,
    manifest: str | Path,
    gallery: int,
    out: str | Path,
    margins: str | Path,
    foreground: str | Path | None = None,
) -> None:
    """Write where the clusters lie in a sample of the images.

    Args:
        shards: of the run. gallery: images that the report shows; they are in the sample.
        out, margins: Ragged to write, "masks" of mask values and "confidence" of margins on the grid of the tokens (see
            `maskmill.taxonomy._survey.maps`).
        foreground: codebook of background and foreground.
    """
    import torch

    torch.set_num_threads(1)
    book, ground = books.read(codebook), books.read(foreground) if foreground is not None else None
    chosen, at = sampled(manifest, gallery), {shard.vectors.stem: shard for shard in shards}
    if missing := sorted(set(chosen) - set(at)):
        raise StoreError(f"--vectors: nothing for shard {missing[0]!r}; run snakemake again to make it")
    used = [at[shard] for shard in chosen]
    inputs = [book.hash, *(Ragged(each.vectors).hash for each in used)] + ([ground.hash] if ground else [])
    made = Provenance.of("taxonomy", {"gallery": gallery}, inputs)
    dtype = "uint8" if len(book) <= 254 else "uint16"
    attrs = {"clusters": len(book), "codebook": books.fingerprint(book)}
    with (
        RaggedWriter(out, "masks", dtype=dtype, attrs=attrs, provenance=made) as clusters,
        RaggedWriter(margins, "confidence", dtype="uint8", provenance=made) as sure,
    ):
        for shard, ids in track(list(chosen.items()), len(chosen), "taxonomy"):
            for image_id, values, margin in maps(at[shard], book, ids, ground):
                clusters.append(image_id, values)
                sure.append(image_id, margin)
