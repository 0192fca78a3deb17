#!/usr/bin/env bash
# iNaturalist 2018: a linear classifier, or fine-tuning.  bash finegrained/run_inat18.sh [linear|finetune] CKPT [options]   (--help lists them)
source "$(dirname "${BASH_SOURCE[0]}")/../transfer/entry.sh"
run_one_of finegrained.inat18 "linear finetune" "$@"
