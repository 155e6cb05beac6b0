#!/bin/sh
# One phase on a machine that is rented, from a bare checkout with the pack's folder in it: sh benchmarks/gpu_gate/run.sh A
# Results go to $OUT where it is set. What follows the phase are options of python -m benchmarks.gpu_gate.
cd "$(dirname "$0")/../.." || exit 2
phase=${1:-A}
[ $# -gt 0 ] && shift
exec "${PYTHON:-python3}" -m benchmarks.gpu_gate --phase "$phase" "$@"
