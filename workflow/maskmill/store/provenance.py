"""What made an artefact: its stage, parameters and inputs, and the hash over these."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
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
