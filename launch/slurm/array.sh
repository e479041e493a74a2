#!/usr/bin/env bash
# Several configurations, each in a separate job:  sbatch launch/slurm/array.sh  (from the project's folder, on a shared disk)
# Each needs its own run.name. Without GPUs, give --ntasks-per-node=N in place of the three lines with gpu.
#SBATCH --account=ACCOUNT
#SBATCH --partition=PARTITION
#SBATCH --time=12:00:00
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4
#SBATCH --ntasks-per-gpu=1
#SBATCH --cpus-per-gpu=4
#SBATCH --signal=B:USR1@120
#SBATCH --array=0-1
configs=(configs/quickstart.yaml configs/cifar10_vgg11bn.yaml)

. launch/slurm/common.sh
launch python -m vggdist.train --config "${configs[$SLURM_ARRAY_TASK_ID]}" "$@"
