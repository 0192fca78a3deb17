#!/usr/bin/env bash
# Faster R-CNN on Pascal VOC from a checkpoint.  bash detection/run_voc.sh [07|fpn|vitdet|vit_fpn|convnext_fpn|swin_fpn] CKPT [options]   (--help lists them)
source "$(dirname "${BASH_SOURCE[0]}")/../transfer/entry.sh"
case "${1:-}" in
    07 | fpn | vitdet | vit_fpn | convnext_fpn | swin_fpn) run_task "detection.voc_$1" "${@:2}" ;;
    *) run_task detection.voc "$@" ;;
esac
