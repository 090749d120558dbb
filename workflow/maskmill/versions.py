"""One integer a stage. Bump it when the stage's results change, and only that stage and what follows run again.

Snakemake does not see changes inside imported modules, so each rule carries its stage's version in `params`.
"""

from __future__ import annotations

STAGE_VERSION: dict[str, int] = {
    "inputs": 5,
    "pretrain": 1,
    "features": 5,
    "adapt": 3,
    "cut": 5,
    "regions": 2,
    "reduce": 3,
    "foreground": 5,
    "cluster": 6,
    "taxonomy": 1,
    "paint": 3,
    "rounds": 3,
    "tracks": 1,
    "evaluate": 5,
    "export": 4,
    "report": 2,
}
