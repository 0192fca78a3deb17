#!/usr/bin/env bash
# Birdsnap: logistic regression on frozen features, or fine-tuning.  bash finegrained/run_birdsnap.sh [linear|finetune] CKPT [options]
source "$(dirname "${BASH_SOURCE[0]}")/../transfer/entry.sh"
run_one_of finegrained.birdsnap "linear finetune" "$@"
