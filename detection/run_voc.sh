#!/usr/bin/env bash
# Faster R-CNN on Pascal VOC from a checkpoint.  bash detection/run_voc.sh [07] CKPT [options]   (--help lists them)
source "$(dirname "${BASH_SOURCE[0]}")/../transfer/entry.sh"
if [ "${1:-}" = 07 ]; then
    shift
    run_task detection.voc_07 "$@"
fi
run_task detection.voc "$@"
