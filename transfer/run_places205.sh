#!/usr/bin/env bash
# Places205, a linear classifier.  bash transfer/run_places205.sh CKPT [options]   (--help lists them)
source "$(dirname "${BASH_SOURCE[0]}")/entry.sh"
run_task transfer.places205_linear "$@"
