#!/usr/bin/env bash
# Oxford-IIIT Pets: logistic regression on frozen features, or fine-tuning.  bash finegrained/run_pets.sh [linear|finetune] CKPT [options]
source "$(dirname "${BASH_SOURCE[0]}")/../transfer/entry.sh"
run_one_of finegrained.pets "linear finetune" "$@"
