"""What made an artefact: its stage, parameters and inputs, and the hash over these."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from maskmill import __version__
from maskmill.store import expected
from maskmill.store.hashing import json_hash
from maskmill.versions import STAGE_VERSION


@dataclass(frozen=True)
class Provenance:
    """What made an artefact: stage, its code version, its parameters, the hashes of its inputs.

    Attributes:
        hash: over stage, version, params and inputs. asked: the hash of what the configuration asked of the job that
            wrote it, with all that comes before (`maskmill.dag.asked`); empty where no workflow asked.
    """

    stage: str
    params: Mapping[str, Any]
    inputs: Sequence[str] = ()
    version: int = 0
    maskmill: str = __version__
    hash: str = field(default="")
    asked: str = field(default="")

    @classmethod
    def of(cls, stage: str, params: Mapping[str, Any], inputs: Sequence[str] = ()) -> Provenance:
        """Provenance with its hash filled in; `inputs` are the hashes of the artefacts that were read."""
        version = STAGE_VERSION[stage]
        digest = json_hash([stage, version, params, list(inputs)])
        return cls(stage, dict(params), tuple(inputs), version, __version__, digest, expected.asked())

    def as_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return json.loads(json.dumps(asdict(self)))


def read_provenance(path: str | Path) -> Mapping[str, Any] | None:
    """What an artefact says of its maker, read without the rest of it and without its checksums.

    Empty for a damaged file, which says nothing; its reader says what is wrong. None where the format carries none.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix)
    if reader is None:
        return None
    try:
        found = reader(path)
    except Exception:  # a damaged header may raise anything
        return {}
    return found if isinstance(found, Mapping) else {}


def _of_store(path: Path) -> Any:
    return json.loads((path / "zarr.json").read_text())["attributes"]["provenance"]


def _of_json(path: Path) -> Any:
    return json.loads(path.read_text())["provenance"]


def _of_tensors(path: Path) -> Any:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > path.stat().st_size:
            raise ValueError("the header is longer than the file")
        return json.loads(json.loads(file.read(size))["__metadata__"]["maskmill"])


def _of_table(path: Path) -> Any:
    import pyarrow.parquet as pq

    return json.loads(pq.read_metadata(path).metadata[b"maskmill"])


_READERS: Mapping[str, Callable[[Path], Any]] = {
    ".zarr": _of_store,
    ".json": _of_json,
    ".safetensors": _of_tensors,
    ".parquet": _of_table,
}
