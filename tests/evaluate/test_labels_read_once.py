"""A read-out looks at every label more than once, and decodes it once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskmill.evaluate import readout
from maskmill.store.manifest import Row


@pytest.mark.parametrize(("room", "decoded"), [(1 << 20, 1), (0, 2)])
def test_a_label_is_decoded_once_while_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, decoded: int
) -> None:
    monkeypatch.setattr(readout, "KEPT_BYTES", room)
    wanted = {"a": np.arange(12).reshape(3, 4), "b": 300 * np.arange(12).reshape(4, 3)}
    rows = {}
    for name, label in wanted.items():
        Image.fromarray(label.astype(np.uint16 if name == "b" else np.uint8)).save(tmp_path / f"{name}.png")
        rows[name] = Row(name, name, label.shape[1], label.shape[0], "s0", str(tmp_path / f"{name}.png"))
    calls: list[str] = []
    read = readout.read_label
    monkeypatch.setattr(readout, "read_label", lambda row: calls.append(row.id) or read(row))
    labels = readout.Labels(rows)
    for _ in range(2):
        for name, label in wanted.items():
            found = labels.read(name)
            assert found.dtype == np.int32
            np.testing.assert_array_equal(found, label)
    assert sorted(calls) == sorted([*wanted] * decoded)
