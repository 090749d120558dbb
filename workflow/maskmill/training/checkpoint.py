"""Checkpoints of a training: its state after a step, in a file named by everything that the result depends on.

A file lies in a hidden folder beside the model that is being trained, which Snakemake does not know and so does not
delete when a job fails. Its name is a hash of parameters, inputs, device type and torch's version: another training
never goes on from it. It is written atomically, holds tensors and JSON only, and is removed when the model is
complete.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from maskmill.errors import StoreError
from maskmill.store.artefact import read_tensors, write_tensors
from maskmill.store.names import remove
from maskmill.store.provenance import Provenance

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # what SLURM sends before it takes a node back


@dataclass(frozen=True)
class Checkpoint:
    """State after `step` steps: tensors by name, and numbers that are no tensors."""

    step: int
    tensors: dict[str, np.ndarray]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Keeper:
    """Writes and reads the checkpoints of one training.

    Attributes:
        path: the file, or None to keep none. every: steps between two of them; 0 writes only when a signal comes.
        stage: whose training this is, for messages and provenance.
    """

    path: Path | None = None
    every: int = 0
    stage: str = "rounds"

    @classmethod
    def beside(cls, out: str | Path, key: str, every: int, stage: str = "rounds") -> Keeper:
        """The keeper of the training whose result is `out`; `key` names all that the result depends on."""
        out = Path(out)
        return cls(out.parent / f".{out.stem}.checkpoint" / f"{key}.safetensors", every, stage)

    def due(self, step: int) -> bool:
        """Whether a checkpoint belongs after this step."""
        return self.path is not None and self.every > 0 and step % self.every == 0

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the file."""
        if self.path is not None:
            body = {"step": checkpoint.step, "key": self.path.stem, **checkpoint.facts}
            write_tensors(self.path, checkpoint.tensors, Provenance.of(self.stage, body))

    def load(self) -> Checkpoint | None:
        """The last checkpoint; None where there is none, or where it can not be read (said on stderr)."""
        if self.path is None or not self.path.exists():
            return None
        try:
            tensors, provenance = read_tensors(self.path)
            facts = dict(provenance["params"])
            if facts.pop("key") != self.path.stem:  # of another training
                raise KeyError(self.path.stem)
            return Checkpoint(int(facts.pop("step")), tensors, facts)
        except (StoreError, KeyError):
            print(f"{self.path}: not a readable checkpoint; training starts from step 0", file=sys.stderr, flush=True)
            return None

    def clear(self) -> None:
        """Remove the folder, with the checkpoints of other parameters: the model is complete."""
        if self.path is not None:
            remove(self.path.parent)


class Signals:
    """Which of SIGTERM and SIGUSR1 has come; the training loop asks after every step."""

    def __init__(self) -> None:
        self.name = ""

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name


@contextlib.contextmanager
def signals_noted() -> Iterator[Signals]:
    """Within: the signals are noted instead of ending the process. Outside the main thread nothing changes."""
    found, before = Signals(), {}
    try:
        for number in SIGNALS:
            before[number] = signal.signal(number, found._note)
    except ValueError:  # not the main thread
        pass
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def pack(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """{group: {name: torch tensor or array}} -> {"group/name": array}."""
    flat = {}
    for group, values in groups.items():
        for name, value in values.items():
            flat[f"{group}/{name}"] = value if isinstance(value, np.ndarray) else value.detach().cpu().numpy()
    return flat


def unpack(tensors: Mapping[str, np.ndarray], group: str) -> dict[str, np.ndarray]:
    """The values of one group of `pack`."""
    prefix = f"{group}/"
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
