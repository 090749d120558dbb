"""Trainings that a signal interrupts, and the checkpoints that they leave."""

from __future__ import annotations

import os
import signal
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
