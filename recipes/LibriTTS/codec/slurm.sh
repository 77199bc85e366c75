#!/usr/bin/env bash
# Stages 2 to 6 on several nodes of a Slurm cluster that share a file system: a program and its options, as run.sh gives
# them to it. Stages 0 and 1 first, on one machine: bash run.sh --corpus libritts --stop-stage 1
#
#   on() { sbatch --nodes 2 --gpus-per-node 4 --wait slurm.sh "$@"; }
#   exp=exp/pscodec_base_libritts data=data/libritts campplus=downloads/campplus/campplus_cn_en_common.pt
#   on -m pscodec.bin.extract_features --nj 4 --campplus $campplus --data-dir $data/train $data/dev $data/test_clean
#   on train.py conf/pscodec_base.yaml --exp $exp --train_dir $data/train --dev_dir $data/dev --campplus $campplus
#   on -m pscodec.bin.decode --exp $exp --data $data --splits test_clean
#   on -m pscodec.bin.evaluate --exp $exp --data $data --splits test_clean --campplus $campplus --nj 4
#
# There is one process a GPU, and --nj counts for each of them; batch_size is over all GPUs. SIGTERM, with which Slurm
# takes machines back, saves a checkpoint of a training; the job that is queued again, or handed in again, goes on
# there, and so do features and scores. Not yet tried on a cluster.

#SBATCH --job-name=pscodec
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")}"
. ../../../tools/env.sh
[ $# -ge 1 ] || { echo "usage: sbatch slurm.sh PROGRAM [option ...], PROGRAM being train.py or -m MODULE" >&2; exit 1; }
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
exec srun --kill-on-bad-exit=1 "$PYTHON" -m torch.distributed.run \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node "${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d --rdzv_endpoint "$head:${PORT:-29500}" \
    "$@"
