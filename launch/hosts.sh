#!/usr/bin/env bash
# Trains on several hosts through ssh, without MPI:  launch/hosts.sh HOST1:SLOTS,HOST2:SLOTS [ARGUMENTS OF TRAIN]
# The project, its environment and the run directory are at the same path on each host, and ssh asks for no password.
# INTERFACE=eth0 selects the network interface for connections and gradients; it must have this name on every host. Without it
# Horovod looks for one.
# shellcheck source=launch/common.sh
. "$(dirname "$0")/common.sh"
usage='usage: [INTERFACE=name] launch/hosts.sh HOST1:SLOTS,HOST2:SLOTS [ARGUMENTS OF TRAIN]'
hosts=${1:?$usage}
shift
ranks=0
IFS=, read -ra each <<<"$hosts"
require_ranks "$usage" "${each[@]##*:}"
for host in "${each[@]}"; do ranks=$((ranks + ${host##*:})); done
options=(--gloo -H "$hosts" -np "$ranks")
[ -z "${INTERFACE:-}" ] || options+=(--network-interfaces "$INTERFACE")
start horovodrun "${options[@]}" python -m vggdist.train "$@"
