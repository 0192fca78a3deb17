#!/usr/bin/env bash
# Mask R-CNN on COCO from a checkpoint.  bash segmentation/run_coco.sh [c4|fpn|vitdet|vit_fpn|convnext_fpn|swin_fpn] CKPT [options]   (--help lists them)
source "$(dirname "${BASH_SOURCE[0]}")/../transfer/entry.sh"
run_one_of segmentation.coco "c4 fpn vitdet vit_fpn convnext_fpn swin_fpn" "$@"
