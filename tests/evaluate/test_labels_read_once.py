"""The linear probe looks at every label more than once, and decodes it once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskmill.evaluate import linear_probe
from maskmill.store.manifest import Row


@pytest.mark.parametrize(("room", "decoded"), [(1 << 20, 1), (0, 2)])
def test_a_label_is_decoded_once_while_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, decoded: int
) -> None:
    monkeypatch.setattr(linear_probe, "KEPT_BYTES", room)
    wanted = {"a": np.arange(12).reshape(3, 4), "b": 300 * np.arange(12).reshape(4, 3)}
    rows = {}
    for name, label in wanted.items():
        Image.fromarray(label.astype(np.uint16 if name == "b" else np.uint8)).save(tmp_path / f"{name}.png")
        rows[name] = Row(name, name, label.shape[1], label.shape[0], "s0", str(tmp_path / f"{name}.png"))
    calls: list[str] = []
    read = linear_probe.read_label
    monkeypatch.setattr(linear_probe, "read_label", lambda row: calls.append(row.id) or read(row))
    labels = linear_probe._Labels(rows)
    for _ in range(2):
        for name, label in wanted.items():
            found = labels.read(name)
            assert found.dtype == np.int32
            np.testing.assert_array_equal(found, label)
    assert sorted(calls) == sorted([*wanted] * decoded)
