#!/usr/bin/env bash
# VOC07 classification: linear SVMs on all images or on 1 to 96 of a class, logistic regressions, or fine-tuning.
#   bash transfer/run_voc07.sh [svm|lowshot|logistic|finetune] CKPT [options]
source "$(dirname "${BASH_SOURCE[0]}")/entry.sh"
run_one_of transfer.voc07 "svm lowshot logistic finetune" "$@"
