#!/bin/bash
# On every machine: HEAD=first-machine NODES=4 configs/cluster/torchrun.sh --config configs/pretrain_mbs.yaml --data.manifest clips.jsonl
# For models that fill a GPU: STRATEGY=sharded.
exec torchrun --nnodes "${NODES:-1}" --nproc-per-node "${GPUS:-8}" --rdzv-backend c10d --rdzv-endpoint "${HEAD:-localhost}:29500" \
    --no-python vatt pretrain fit "$@" --trainer.num_nodes "${NODES:-1}" --trainer.devices "${GPUS:-8}" \
    --trainer.strategy "${STRATEGY:-ddp}" --ckpt_path auto
