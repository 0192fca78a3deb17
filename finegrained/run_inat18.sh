#!/usr/bin/env bash
# iNaturalist 2018, a linear classifier.  bash finegrained/run_inat18.sh CKPT [options]   (--help lists them)
source "$(dirname "${BASH_SOURCE[0]}")/../transfer/entry.sh"
run_task finegrained.inat18_linear "$@"
