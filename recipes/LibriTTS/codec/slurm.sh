#!/usr/bin/env bash
# Training on several nodes of a Slurm cluster. Stages 0-2 first, on one machine: bash run.sh --stop-stage 2 ...
#
#   sbatch --nodes 2 --gpus-per-node 4 slurm.sh conf/pscodec_base.yaml exp/pscodec_base_libritts \
#       --train_dir data/libritts/train --dev_dir data/libritts/dev
#
# Anything after the experiment's folder is for train.py. A job that is preempted or out of time gets SIGTERM, saves a
# checkpoint and is queued again, going on where it stopped. batch_size is over all GPUs.

#SBATCH --job-name=pscodec
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append

set -uo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")}"
. ../../../tools/env.sh
[ $# -ge 2 ] || { echo "usage: sbatch slurm.sh CONFIG EXP [option of train.py ...]" >&2; exit 1; }
config=$1 exp=$2; shift 2
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=1 "$PYTHON" -m torch.distributed.run \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node "${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d --rdzv_endpoint "$head:${PORT:-29500}" \
    train.py "$config" --exp "$exp" "$@"
status=$?
# the codec's own status for SIGTERM; Slurm requeues preempted jobs by itself, those that ran out of time it does not
[ $status -ne 143 ] || scontrol requeue "$SLURM_JOB_ID"
exit $status
