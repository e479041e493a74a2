# shellcheck shell=bash
# Sourced by the other scripts. `start COMMAND` runs a launcher and returns the exit code of train; launchers by themselves return
# 1 for every failure. It repeats the message of train below the traceback that horovodrun prints. A signal goes to the ranks on this
# host, because launchers kill their ranks some seconds later; one rank is enough, for all ranks agree on a stop.
set -euo pipefail

# mpirun, also below horovodrun: when a job fails, or Ctrl-C reaches mpirun itself, the ranks have twice this number of seconds to save
# (default 1).
export OMPI_MCA_odls_base_sigkill_timeout=${OMPI_MCA_odls_base_sigkill_timeout:-10}

require_ranks() { # USAGE NUMBER...
    local usage=$1 number
    for number in "${@:2}"; do
        [[ $number =~ ^[1-9][0-9]*$ ]] || { echo "'$number' is not a number of ranks; $usage" >&2; exit 2; }
    done
}

# Sends a signal to the ranks on this host, or another to the launcher if no rank has started.
stop() { # SIGNAL FOR-THE-LAUNCHER
    local process words pids=()
    for process in /proc/[0-9]*; do
        mapfile -d '' -t words <"$process/cmdline" || continue
        [ "${words[*]:1:2}" = '-m vggdist.train' ] || continue # launchers and shells have these words further right
        ! grep -qzx "VGGDIST_OUTCOME=$outcome" "$process/environ" || pids+=("${process##*/}")
    done 2>/dev/null
    if [ ${#pids[@]} -gt 0 ]; then
        kill -s "$1" "${pids[@]}" 2>/dev/null || true
    else
        kill -s "$2" -- "-$job" 2>/dev/null || true
    fi
}

start() {
    local outcome job code=0
    outcome=$(mktemp)
    set -m # a separate process group, in which SIGINT is not ignored
    VGGDIST_OUTCOME=$outcome "$@" &
    job=$!
    set +m
    trap 'stop INT INT' INT
    trap 'stop USR1 TERM' USR1
    trap 'stop TERM TERM' TERM HUP # HUP: the terminal is closed; it is ignored under nohup
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
