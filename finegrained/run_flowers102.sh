#!/usr/bin/env bash
# Oxford 102 Flowers: logistic regression on frozen features, or fine-tuning.  bash finegrained/run_flowers102.sh [linear|finetune] CKPT [options]
source "$(dirname "${BASH_SOURCE[0]}")/../transfer/entry.sh"
run_one_of finegrained.flowers102 "linear finetune" "$@"
