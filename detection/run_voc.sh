#!/usr/bin/env bash
# Faster R-CNN on Pascal VOC from a checkpoint.  bash detection/run_voc.sh CKPT [options]   (--help lists them)
source "$(dirname "${BASH_SOURCE[0]}")/../transfer/entry.sh"
run_task detection.voc "$@"
