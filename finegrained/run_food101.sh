#!/usr/bin/env bash
# Food-101: logistic regression on frozen features, or fine-tuning.  bash finegrained/run_food101.sh [linear|finetune] CKPT [options]
source "$(dirname "${BASH_SOURCE[0]}")/../transfer/entry.sh"
run_one_of finegrained.food101 "linear finetune" "$@"
