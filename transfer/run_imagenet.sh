#!/usr/bin/env bash
# ImageNet: a linear classifier, or fine-tuning on 1 %, 10 % or all of it.  bash transfer/run_imagenet.sh [linear|semi_1|semi_10|finetune] CKPT [options]
source "$(dirname "${BASH_SOURCE[0]}")/entry.sh"
run_one_of transfer.imagenet "linear semi_1 semi_10 finetune" "$@"
