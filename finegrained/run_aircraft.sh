#!/usr/bin/env bash
# FGVC Aircraft: logistic regression on frozen features, or fine-tuning.  bash finegrained/run_aircraft.sh [linear|finetune] CKPT [options]
source "$(dirname "${BASH_SOURCE[0]}")/../transfer/entry.sh"
run_one_of finegrained.aircraft "linear finetune" "$@"
