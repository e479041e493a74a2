#!/usr/bin/env bash
# A job that may be interrupted:  sbatch launch/slurm/preemptible.sh  (from the project's folder, on a shared disk)
# 120 s before its time limit, or when it is preempted, it saves a checkpoint and is requeued, to continue at the next step.
# Without GPUs, give --ntasks-per-node=N in place of the three lines with gpu.
#SBATCH --account=ACCOUNT
#SBATCH --partition=PARTITION
#SBATCH --time=12:00:00
#SBATCH --nodes=2
#SBATCH --gpus-per-node=4
#SBATCH --ntasks-per-gpu=1
#SBATCH --cpus-per-gpu=4
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
config=configs/quickstart.yaml

. launch/slurm/common.sh
code=0
launch python -m vggdist.train --config "$config" "$@" || code=$?
# A partition with a GraceTime sends the ranks SIGTERM, and does not requeue a job that ends before that time is over. It also ends
# mpirun's daemons, and mpirun then hides the ranks' exit code.
preempted() { scontrol show job "$SLURM_JOB_ID" | grep -q 'PreemptTime=[0-9]'; }
if { [ "$code" -eq 75 ] && [ "$signalled" = yes ]; } || { [ "$code" -ne 0 ] && preempted; }; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
