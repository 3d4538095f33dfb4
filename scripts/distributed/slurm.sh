#!/usr/bin/env bash
# Trains on 4 nodes under Slurm:  sbatch scripts/distributed/slurm.sh INPUT OUTPUT
# One rank a node, with all of its cores. The job is put back into the queue when a node fails, and goes on from the last
# checkpoint; run it again to go on after the time limit.
#SBATCH --job-name=microgpt
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
set -euo pipefail

input=$1
output=$2

from=(--preset chat-medium --chat --skip-long --input "$input")
if [ -e "$output/train_state.json" ]; then from=(--resume "$output"); fi

# A shared file system holds input and output; only rank 0 writes. --mpi=pmix is what Open MPI wants, pmi2 suits MPICH:
# `srun --mpi=list` names those that this cluster has.
exec srun --mpi="${MICROGPT_SLURM_MPI:-pmix}" --kill-on-bad-exit=1 \
  microgpt train "${from[@]}" --output "$output" --distributed mpi --grad-accum 16 \
  --threads "$SLURM_CPUS_PER_TASK" --checkpoint-every 500
