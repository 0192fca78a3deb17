#!/usr/bin/env bash
# Stanford Cars: logistic regression on frozen features, or fine-tuning.  bash finegrained/run_cars196.sh [linear|finetune] CKPT [options]
source "$(dirname "${BASH_SOURCE[0]}")/../transfer/entry.sh"
run_one_of finegrained.cars196 "linear finetune" "$@"
