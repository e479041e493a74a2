#!/usr/bin/env bash
# Trains through Open MPI:  launch/mpirun.sh NUMBER-OF-RANKS [ARGUMENTS OF TRAIN]
# HOSTFILE=file names the hosts, one "host slots=N" a line; without it all ranks run here. Ranks are not bound to cores: each
# takes its share of the host's. A host that is lost is noticed after about 10 s, where mpirun alone would wait for ever.
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
ranks=${1:?usage: [HOSTFILE=file] launch/mpirun.sh NUMBER-OF-RANKS [ARGUMENTS OF TRAIN]}
shift
options=(--bind-to none --map-by slot)
options+=(--mca oob_tcp_keepalive_time 5 --mca oob_tcp_keepalive_intvl 2 --mca oob_tcp_keepalive_probes 3)
[ -z "${HOSTFILE:-}" ] || options+=(--hostfile "$HOSTFILE")
# What the ranks on other hosts need of this shell's environment.
for name in PATH LD_LIBRARY_PATH PYTHONPATH "${!OMP_@}" "${!MXNET_@}" "${!HOROVOD_@}" "${!NCCL_@}"; do
    [ -z "${!name:-}" ] || options+=(-x "$name")
done
start mpirun "${options[@]}" -np "$ranks" python -m vggdist.train "$@"
