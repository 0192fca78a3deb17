#!/usr/bin/env bash
# CUB-200-2011: logistic regression on frozen features, or fine-tuning.  bash finegrained/run_cub200.sh [linear|finetune] CKPT [options]
source "$(dirname "${BASH_SOURCE[0]}")/../transfer/entry.sh"
run_one_of finegrained.cub200 "linear finetune" "$@"
