#!/usr/bin/env bash
# CIFAR-10: logistic regression on frozen features, or fine-tuning.  bash finegrained/run_cifar10.sh [linear|finetune] CKPT [options]
source "$(dirname "${BASH_SOURCE[0]}")/../transfer/entry.sh"
run_one_of finegrained.cifar10 "linear finetune" "$@"
