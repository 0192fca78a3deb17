#!/usr/bin/env bash
# A fine-grained set, iNaturalist 2018 or own images: a linear classifier on frozen features, or fine-tuning.
#   bash finegrained/run.sh SET [linear|finetune] CKPT [options]   (--help lists the sets)
if [ "$(basename "$0")" != run.sh ]; then # the scripts of single sets are links to this one
    name="$(basename "$0" .sh)"
    typed="$([ $# -eq 0 ] || printf ' %q' "$@")"
    echo "error: one script runs all sets: type  bash $(dirname "$0")/run.sh ${name#run_}$typed" >&2
    exit 2
fi
source "$(dirname "${BASH_SOURCE[0]}")/../transfer/entry.sh"
case "${1:-}" in
"" | -*)
    echo "usage: bash finegrained/run.sh SET [linear|finetune] CKPT [options]   (SET --help lists the options)"
    "$python" -m transfer tasks | sed -n 's/^finegrained\.\([^ ]*\)_\([a-z]*\) /  \1 \2 /p'
    [ "${1:-}" = -h ] || [ "${1:-}" = --help ] || exit 2
    ;;
*) run_one_of "finegrained.$1" "linear finetune" "${@:2}" ;;
esac
