"""One integer a stage. Bump it when the stage's results change, and only that stage and what follows run again.

Snakemake does not see changes inside imported modules, so each rule carries its stage's version in `params`.
"""

from __future__ import annotations

STAGE_VERSION: dict[str, int] = {
    "inputs": 2,
    "features": 3,
    "adapt": 1,
    "cut": 3,
    "regions": 1,
    "reduce": 2,
    "foreground": 2,
    "cluster": 3,
    "paint": 1,
    "rounds": 1,
    "evaluate": 4,
    "export": 3,
    "report": 1,
}
