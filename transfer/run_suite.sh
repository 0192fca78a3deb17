#!/usr/bin/env bash
# Many tasks for many checkpoints.  bash transfer/run_suite.sh paper|quick|FILE.toml CKPT … [options]   (--help lists them)
source "$(dirname "${BASH_SOURCE[0]}")/entry.sh"
together=(${TORCHRUN:+--processes "$TORCHRUN"})
case "${1:-}" in
    "" | -* | status) exec "$python" -m transfer suite "$@" ;;
    *) exec "$python" -m transfer suite --suite "$1" "${together[@]}" "${@:2}" ;;
esac
