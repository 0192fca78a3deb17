#!/usr/bin/env bash
# Nearest neighbours on frozen features.  bash transfer/run_knn.sh CKPT [options]   (--help lists them)
source "$(dirname "${BASH_SOURCE[0]}")/entry.sh"
run_task transfer.knn "$@"
