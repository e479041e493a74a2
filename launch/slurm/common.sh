# shellcheck shell=bash
# Sourced by the other scripts. `launch COMMAND` starts the job's ranks and returns their exit code.
#
# VGGDIST_LAUNCH selects how they connect:
#   gloo    (default) srun starts them, Horovod's rendezvous runs here: needs neither MPI nor ssh
#   pmix    srun starts them, through PMIx: needs Horovod on an MPI with PMIx (Open MPI 4 has it)
#   mpirun  mpirun starts them inside the allocation: needs Horovod on Open MPI
set -euo pipefail

if [ -f .venv/bin/activate ]; then
    # shellcheck disable=SC1091
    . .venv/bin/activate
fi

# yes after SLURM has announced the end of the job's time; read by the scripts
# shellcheck disable=SC2034
signalled=no

# Each rank must see all GPUs of its node, as NCCL requires, and uses the one of its local rank. With this variable srun would show it
# only one, and the srun of mpirun would refuse to start.
unset SLURM_NTASKS_PER_GPU

# mpirun: after scancel, or when a job fails, the ranks have twice this number of seconds to save. A lost host is detected after
# about 10 s.
export OMPI_MCA_odls_base_sigkill_timeout=${OMPI_MCA_odls_base_sigkill_timeout:-10}
export OMPI_MCA_oob_tcp_keepalive_time=5 OMPI_MCA_oob_tcp_keepalive_intvl=2 OMPI_MCA_oob_tcp_keepalive_probes=3

# The ranks detect the end of a rank by themselves and all exit with the true code. So srun waits 30 s for them: if it killed them, it
# would return the code of the killed ones.
launch() {
    local srun=(srun --kill-on-bad-exit=0 --wait=30)
    case ${VGGDIST_LAUNCH:-gloo} in
    gloo) set -- python -m vggdist.rendezvous -- "${srun[@]}" --mpi=none "$@" ;;
    pmix) set -- "${srun[@]}" --mpi=pmix "$@" ;;
    mpirun) set -- mpirun --bind-to none "$@" ;;
    *)
        echo "VGGDIST_LAUNCH is '$VGGDIST_LAUNCH'; expected gloo, pmix or mpirun" >&2
        return 2
        ;;
    esac
    "$@" &
    local ranks=$! code=0
    # Not SIGTERM: srun would kill the ranks before they have saved.
    trap 'signalled=yes; kill -USR1 $ranks' USR1
    trap : TERM # SLURM has also sent it to the ranks: wait until they have saved
    while kill -0 "$ranks" 2>/dev/null; do # a signal ends the wait, not the ranks
        code=0
        wait "$ranks" || code=$?
    done
    return "$code"
}
