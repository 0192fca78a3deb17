#!/usr/bin/env bash
# SUN397: logistic regression on frozen features, or fine-tuning.  bash finegrained/run_sun397.sh [linear|finetune] CKPT [options]
source "$(dirname "${BASH_SOURCE[0]}")/../transfer/entry.sh"
run_one_of finegrained.sun397 "linear finetune" "$@"
