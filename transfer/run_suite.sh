#!/usr/bin/env bash
# Many tasks for many checkpoints in one line.  bash transfer/run_suite.sh paper|quick|FILE.toml CKPT … [options]   (--help lists them)
source "$(dirname "${BASH_SOURCE[0]}")/entry.sh"
case "${1:-}" in
    "" | -*) exec "$python" -m transfer suite "$@" ;;
    status) exec "$python" -m transfer suite "$@" ;;
    *) exec "$python" -m transfer suite --suite "$@" ;;
esac
