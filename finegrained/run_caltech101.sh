#!/usr/bin/env bash
# Caltech-101: logistic regression on frozen features, or fine-tuning.  bash finegrained/run_caltech101.sh [linear|finetune] CKPT [options]
source "$(dirname "${BASH_SOURCE[0]}")/../transfer/entry.sh"
run_one_of finegrained.caltech101 "linear finetune" "$@"
