#!/usr/bin/env bash
# snakemake --lint, less the advice to give every rule a container (one Python environment serves all rules).
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(snakemake --lint text 2>&1 || true)
rest=$(printf '%s\n' "$out" | grep -E '^ +\* ' | grep -v -i 'conda environment or container' || true)
if [ -n "$rest" ]; then
    printf '%s\n' "$out"
    exit 1
fi
