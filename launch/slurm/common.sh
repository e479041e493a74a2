# shellcheck shell=bash
# Sourced by the scripts beside it: `launch COMMAND` starts the job's ranks and returns their exit code.
#
# VGGDIST_LAUNCH chooses how they find each other:
#   gloo    (default) srun starts them, Horovod's rendezvous runs here: needs neither MPI nor ssh
#   pmix    srun starts them, through PMIx: needs Horovod on an MPI with PMIx (Open MPI 4 has it)
#   mpirun  mpirun starts them inside the allocation: needs Horovod on Open MPI
set -euo pipefail

if [ -f .venv/bin/activate ]; then
    # shellcheck disable=SC1091
    . .venv/bin/activate
fi

# yes once SLURM has announced the end of the job's time; for the scripts
# shellcheck disable=SC2034
signalled=no

# Each rank shall see all GPUs of its node, as NCCL needs it, and take that of its local rank. With this variable srun would show
# it only one, and the srun of mpirun would refuse to start.
unset SLURM_NTASKS_PER_GPU

# mpirun: after scancel the ranks have twice so many seconds to save (as has the end of a job that failed); a host that is lost is
# noticed after about 10 s.
export OMPI_MCA_odls_base_sigkill_timeout=${OMPI_MCA_odls_base_sigkill_timeout:-10}
export OMPI_MCA_oob_tcp_keepalive_time=5 OMPI_MCA_oob_tcp_keepalive_intvl=2 OMPI_MCA_oob_tcp_keepalive_probes=3

# What one rank's end means is left to the ranks, which tell each other and all end with the true code; srun, which would give the
# code of those that it killed, waits for them 30 s.
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
    # Never SIGTERM: srun would kill the ranks before they have saved.
    trap 'signalled=yes; kill -USR1 $ranks' USR1
    trap : TERM # SLURM has sent it to the ranks as well: wait until they have saved
    while kill -0 "$ranks" 2>/dev/null; do # a signal ends the wait, not the ranks
        code=0
        wait "$ranks" || code=$?
    done
    return "$code"
}
