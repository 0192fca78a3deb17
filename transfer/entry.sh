# Sourced by every run_*.sh: finds the checkout and its Python, and starts a task. No settings live here or there:
# the protocol is in the task's own file. PYTHON=... chooses another interpreter, TORCHRUN=8 that many processes.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-$root/.venv/bin/python}"
if ! command -v "$python" >/dev/null; then
    echo "no Python at $python: type  make -C '$root' setup  first, or set PYTHON" >&2
    exit 2
fi
# The root comes first and the caller's folder is left out, so no file there can stand in for a package of ours.
export PYTHONSAFEPATH=1 PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

run_task() { # TASK [arguments…]
    if [ -n "${TORCHRUN:-}" ]; then
        exec "$python" -m transfer.torchrun --standalone --nproc-per-node "$TORCHRUN" -m transfer run "$@"
    fi
    exec "$python" -m transfer run "$@"
}

run_one_of() { # TASK "first second …" [arguments…]: the word that comes first says which; the first of them if none does
    local task="$1" words="$2" word
    shift 2
    for word in $words; do
        if [ "${1:-}" = "$word" ]; then
            shift
            run_task "${task}_$word" "$@"
        fi
    done
    run_task "${task}_${words%% *}" "$@"
}
