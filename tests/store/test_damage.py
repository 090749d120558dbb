"""Every kind of artefact, damaged in every way: refused with its name, or without effect. The long form is a script."""

from __future__ import annotations

from pathlib import Path

import damage_matrix


def test_damage_is_refused_or_without_effect(tmp_path: Path) -> None:
    found = damage_matrix.matrix(tmp_path, trials=2, seed=1)
    assert damage_matrix.faults(found) == []
    refused = {key for key, counts in found.items() if counts["refused"] or counts["made again"]}
    for kind in damage_matrix.KINDS:
        for how in ("truncated", "deleted", "foreign"):
            assert not found[kind.name, how] or (kind.name, how) in refused, (kind.name, how)
