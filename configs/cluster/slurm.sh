#!/usr/bin/env bash
# One task per GPU through SLURM; set what your cluster needs in the lines below, then
#   sbatch configs/cluster/slurm.sh fit -c configs/lewm.yaml
# Two minutes before its time is up, Lightning saves a checkpoint and puts the job back into the queue, where it goes on.
#SBATCH --job-name=jepakit
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=SIGUSR1@120
#SBATCH --requeue
set -euo pipefail
strategy=${STRATEGY-ddp}
exec srun lightning "$@" ${strategy:+--trainer.strategy="$strategy"} --trainer.num_nodes "$SLURM_NNODES" \
  --trainer.devices "$SLURM_NTASKS_PER_NODE"
