#!/usr/bin/env bash
# Trains on this machine:  launch/local.sh NUMBER-OF-RANKS [ARGUMENTS OF TRAIN]
# VGGDIST_LAUNCH=gloo (default) needs no MPI; VGGDIST_LAUNCH=mpi uses MPI, with which Horovod must be built.
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
usage='usage: launch/local.sh NUMBER-OF-RANKS [ARGUMENTS OF TRAIN]'
ranks=${1:?$usage}
require_ranks "$usage" "$ranks"
shift
case ${VGGDIST_LAUNCH:-gloo} in
gloo | mpi) start horovodrun "--${VGGDIST_LAUNCH:-gloo}" -np "$ranks" python -m vggdist.train "$@" ;;
*)
    echo "VGGDIST_LAUNCH is '$VGGDIST_LAUNCH'; expected gloo or mpi" >&2
    exit 2
    ;;
esac
