"""The file of a backbone's weights: safetensors, with facts about them and checksums of both.

The facts are those that `maskmill.backbones.weights` finds: architecture, mean, std, about, source, embedded. `sha256`
is that of the tensors and says what the weights are, wherever they came from; `asked` is what the configuration asked
of the job that wrote them; `checksum` covers all facts. Both checksums are compared whenever the file is read, so a
changed bit is an error and no other result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskmill.errors import WeightsError
from maskmill.store import expected
from maskmill.store.artefact import OLDER
from maskmill.store.atomic import atomic
from maskmill.store.seal import CHECKSUM, fits_checksum, system_errors, with_checksum

if TYPE_CHECKING:
    import torch

AGAIN = "delete it and run snakemake again (in an exported segmenter: copy the folder again)"


def write(out: Path, state: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> None:
    """Write the tensors of a timm state dict; `facts` must have the architecture, and mean and std of a network."""
    from safetensors.torch import save_file

    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in sorted(state.items())}
    about = with_checksum({**facts, "sha256": digest(tensors), "asked": expected.asked()})
    with atomic(out) as temporary, system_errors():
        save_file(tensors, str(temporary), metadata={"maskmill": json.dumps(about)})


def read(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of a file of `write`, by name, and the facts.

    Raises:
        WeightsError: absent, truncated, damaged, or not a file of `write`; names the file and the way out. StoreError:
            not the weights that the configuration asks for.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            facts = json.loads((file.metadata() or {})["maskmill"])
            state = {key: file.get_tensor(key) for key in sorted(file.keys())}
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file; run snakemake, its rule `weights` makes it") from None
    except (SafetensorError, OSError, LookupError, ValueError, TypeError) as error:
        raise WeightsError(f"{path}: not a weights file of maskmill ({error}); {AGAIN}") from None
    if not isinstance(facts, dict) or CHECKSUM not in facts:
        raise WeightsError(f"{path}: {OLDER}; {AGAIN}")
    if not fits_checksum(facts) or facts["sha256"] != digest(state):
        raise WeightsError(f"{path}: damaged (its checksum does not fit its content); {AGAIN}")
    expected.check(path, facts)
    return state, facts


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 of names, shapes and numbers, in the order of the names."""
    import torch

    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
