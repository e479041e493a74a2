#!/usr/bin/env bash
# One rank on each GPU of one node:  sbatch launch/slurm/one_node.sh  (from the project's folder)
# Without GPUs, give --ntasks-per-node=N in place of the three lines with gpu.
#SBATCH --account=ACCOUNT
#SBATCH --partition=PARTITION
#SBATCH --time=12:00:00
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4
#SBATCH --ntasks-per-gpu=1
#SBATCH --cpus-per-gpu=4
#SBATCH --signal=B:USR1@120
config=configs/quickstart.yaml

. launch/slurm/common.sh
launch python -m vggdist.train --config "$config" "$@"
