#!/usr/bin/env bash
# Training on several nodes of a Slurm cluster. Stages 0-2 first, on one machine: bash run.sh --stop-stage 2 ...
#
#   sbatch --nodes 2 --gpus-per-node 4 slurm.sh conf/pscodec_base.yaml exp/pscodec_base_libritts \
#       --train_dir data/libritts/train --dev_dir data/libritts/dev
#
# Anything after the experiment's folder is for train.py; batch_size is over all GPUs. SIGTERM, with which Slurm takes
# machines back, saves a checkpoint; the job that is queued again, or handed in again, goes on there. Not yet tried on a
# cluster.

#SBATCH --job-name=pscodec
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")}"
. ../../../tools/env.sh
[ $# -ge 2 ] || { echo "usage: sbatch slurm.sh CONFIG EXP [option of train.py ...]" >&2; exit 1; }
config=$1 exp=$2; shift 2
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
exec srun --kill-on-bad-exit=1 "$PYTHON" -m torch.distributed.run \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node "${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d --rdzv_endpoint "$head:${PORT:-29500}" \
    train.py "$config" --exp "$exp" "$@"
