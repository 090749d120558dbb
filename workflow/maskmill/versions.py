"""One integer a stage. Bump it when the stage's results change, and only that stage and what follows run again.

Snakemake does not see changes inside imported modules, so each rule carries its stage's version in `params`.
"""

from __future__ import annotations

STAGE_VERSION: dict[str, int] = {
    "inputs": 2,
    "features": 3,
    "adapt": 2,
    "cut": 4,
    "regions": 1,
    "reduce": 2,
    "foreground": 3,
    "cluster": 4,
    "paint": 2,
    "rounds": 2,
    "evaluate": 4,
    "export": 3,
    "report": 1,
}
