#!/usr/bin/env bash
# Engines against PyTorch on this GPU; results in benchmarks/results (OUT). No network.
#   benchmarks/gpu.sh [--dry-run] [--crops FILE.npz] [--teacher FILE.onnx] [--batch N] [--no-library-tactics]
# --crops: what `hygroma validate RECIPE --crops` wrote. --teacher: what `hygroma quantize RECIPE --teacher` wrote; its engines are built,
# timed and held against ONNX Runtime, and its weights timed in PyTorch.
# PYTHON: one with torch and this project's packages (python3). TRT_PYTHON: one with tensorrt, onnx, onnxruntime, numpy, OpenCV
# and, for --crops, scipy, where that is another. RECIPE: also trains this recipe on the GPU, from data to bundle; the full-size
# one is export/recipes/usf-mae.yaml.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}; out=${OUT:-$here/results}; failed=0
rm -f "$out"/gpu-engines.json "$out"/gpu-torch.json "$out"/gpu-train.json  # an earlier run's: the report takes what it finds
"${TRT_PYTHON:-$python}" "$here/gpu.py" --part engines --out "$out" "$@" || failed=1
"$python" "$here/gpu.py" --part torch --out "$out" "$@" || failed=1
[ -z "${RECIPE:-}" ] || "$python" "$here/gpu.py" --part train --recipe "$RECIPE" --out "$out" "$@" || failed=1
"$python" "$here/gpu.py" --part report --out "$out" "$@"
exit "$failed"
