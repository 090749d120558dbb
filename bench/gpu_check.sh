#!/usr/bin/env bash
# Does maskmill compute on this GPU what it computes on the CPU, and how fast? Under ten minutes, without a network.
#
#   bench/gpu_check.sh TABLE.md [--device cuda:0] [--seconds 540] [--skip tests,heads] [--cpu-rehearsal]
#
# Writes a Markdown table. Exit status: 0, all agrees; 1, something does not (the table says what); 3, no GPU is visible.
# --cpu-rehearsal runs the same script on a CPU with tiny sizes: it shows that the script works, its figures mean
# nothing.
# PYTHON names the interpreter in whose environment maskmill's requirements are; default: python.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$root/workflow${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python}" "$root/bench/_gpu_check.py" "$@"
