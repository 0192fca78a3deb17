#!/usr/bin/env bash
# A detector on COCO from a checkpoint.  bash detection/run_coco.sh [c4|fpn|retinanet|fcos|vitdet|vit_fpn|convnext_fpn|swin_fpn] CKPT [options]   (--help lists them)
source "$(dirname "${BASH_SOURCE[0]}")/../transfer/entry.sh"
run_one_of detection.coco "c4 fpn retinanet fcos vitdet vit_fpn convnext_fpn swin_fpn" "$@"
