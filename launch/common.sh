# shellcheck shell=bash
# Sourced by the other scripts. `start COMMAND` runs a launcher and returns the exit code of train; launchers by themselves return
# 1 for every failure. It repeats the message of train below the traceback that horovodrun prints.
set -euo pipefail

# mpirun, also below horovodrun: after Ctrl-C, or when a job fails, the ranks have twice this number of seconds to save (default 1).
export OMPI_MCA_odls_base_sigkill_timeout=${OMPI_MCA_odls_base_sigkill_timeout:-10}

require_ranks() { # USAGE NUMBER...
    local usage=$1 number
    for number in "${@:2}"; do
        [[ $number =~ ^[1-9][0-9]*$ ]] || { echo "'$number' is not a number of ranks; $usage" >&2; exit 2; }
    done
}

start() {
    local outcome job code=0
    outcome=$(mktemp)
    set -m # a separate process group, in which SIGINT is not ignored
    VGGDIST_OUTCOME=$outcome "$@" &
    job=$!
    set +m
    trap 'kill -TERM -- "-$job" 2>/dev/null' TERM
    trap 'kill -TERM -- "-$job" 2>/dev/null' HUP # the terminal is closed; under nohup this has no effect
    trap 'kill -INT -- "-$job" 2>/dev/null' INT
    while kill -0 "$job" 2>/dev/null; do # a signal ends the wait, not the job
        code=0
        wait "$job" || code=$?
    done
    if [ -s "$outcome" ]; then
        code=$(head -n 1 "$outcome")
        [ "$code" = 0 ] || echo "vggdist: $(tail -n +2 "$outcome" | head -n 1)" >&2
    fi
    rm -f "$outcome"
    return "$code"
}
