#!/usr/bin/env bash
# Trains through Open MPI:  launch/mpirun.sh NUMBER-OF-RANKS [ARGUMENTS OF TRAIN]
# HOSTFILE=file has one line "host slots=N" for each host; without it all ranks run on this host. Ranks are not bound to cores: each
# uses an equal part of the host's. A lost host is detected after about 10 s; mpirun by itself would wait forever.
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
usage='usage: [HOSTFILE=file] launch/mpirun.sh NUMBER-OF-RANKS [ARGUMENTS OF TRAIN]'
ranks=${1:?$usage}
require_ranks "$usage" "$ranks"
shift
options=(--bind-to none --map-by slot)
options+=(--mca oob_tcp_keepalive_time 5 --mca oob_tcp_keepalive_intvl 2 --mca oob_tcp_keepalive_probes 3)
[ -z "${HOSTFILE:-}" ] || options+=(--hostfile "$HOSTFILE")
# Variables of this shell that the ranks on other hosts need.
for name in PATH LD_LIBRARY_PATH PYTHONPATH "${!OMP_@}" "${!MXNET_@}" "${!HOROVOD_@}" "${!NCCL_@}"; do
    [ -z "${!name:-}" ] || options+=(-x "$name")
done
start mpirun "${options[@]}" -np "$ranks" python -m vggdist.train "$@"
