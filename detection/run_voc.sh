#!/usr/bin/env bash
# Faster R-CNN on Pascal VOC from a checkpoint.  bash detection/run_voc.sh CKPT [options]   (--help lists them)
# No settings live here: the protocol is in detection/voc.py. PYTHON=... chooses another interpreter.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
if ! command -v "$python" >/dev/null; then
    echo "no Python at $python: type  make -C '$root' setup  first, or set PYTHON" >&2
    exit 2
fi
# The root comes first and the caller's folder is left out, so no file there can stand in for a package of ours.
export PYTHONSAFEPATH=1 PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" -m transfer run detection.voc "$@"
