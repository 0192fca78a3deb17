#!/usr/bin/env bash
# Own images: logistic regression on frozen features, or fine-tuning.  bash finegrained/run_own.sh [linear|finetune] CKPT --dataset DIR | --image-folder DIR | --csv FILE [options]
source "$(dirname "${BASH_SOURCE[0]}")/../transfer/entry.sh"
run_one_of finegrained.own "linear finetune" "$@"
