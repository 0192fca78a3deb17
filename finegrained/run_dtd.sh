#!/usr/bin/env bash
# Describable Textures: logistic regression on frozen features, or fine-tuning.  bash finegrained/run_dtd.sh [linear|finetune] CKPT [options]
source "$(dirname "${BASH_SOURCE[0]}")/../transfer/entry.sh"
run_one_of finegrained.dtd "linear finetune" "$@"
