#!/usr/bin/env bash
# CIFAR-100: logistic regression on frozen features, or fine-tuning.  bash finegrained/run_cifar100.sh [linear|finetune] CKPT [options]
source "$(dirname "${BASH_SOURCE[0]}")/../transfer/entry.sh"
run_one_of finegrained.cifar100 "linear finetune" "$@"
