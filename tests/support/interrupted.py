"""Trainings that a signal interrupts, and the checkpoints that they leave."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from maskmill.training import loop


def checkpoints(folder: Path) -> list[Path]:
    return list(folder.glob(".*.checkpoint/*"))


def stop_at(monkeypatch: pytest.MonkeyPatch, *steps: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Send a real signal to this process within the given steps (counted from 0)."""
    move = loop._move

    def then_signal(average: Any, task: Any, step: int) -> None:
        move(average, task, step)
        if step in steps:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(loop, "_move", then_signal)


def ends_the_same(
    monkeypatch: pytest.MonkeyPatch, fit: Callable[[Path], Any], folder: Path, names: Sequence[str], step: int
) -> None:
    """A training that writes files of these names to a folder ends in the same bytes when it stops after a step."""
    fit(folder / "whole")
    with monkeypatch.context() as patch:
        stop_at(patch, step - 1)
        with pytest.raises(loop.StoppedError, match=f"after step {step} of"):
            fit(folder / "parts")
    fit(folder / "parts")
    for name in names:
        assert (folder / "parts" / name).read_bytes() == (folder / "whole" / name).read_bytes(), name
