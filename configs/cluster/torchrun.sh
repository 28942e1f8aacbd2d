#!/usr/bin/env bash
# One process per GPU through torchrun. Start it on every node with the same NODES and HEAD, the first node's name:
#   NODES=2 HEAD=node-1 bash configs/cluster/torchrun.sh fit -c configs/lewm.yaml
# Data must be at hand on every node, or on a file system that they share: the first process of the run generates them.
set -euo pipefail
nodes=${NODES:-1} processes=${PROCESSES:-gpu} strategy=${STRATEGY-ddp}
if [ "$processes" = gpu ]; then
  processes=$(nvidia-smi --list-gpus | wc -l)
fi
exec torchrun --nnodes "$nodes" --nproc-per-node "$processes" \
  --rdzv-backend c10d --rdzv-endpoint "${HEAD:-localhost}:${PORT:-29400}" --rdzv-id "${RUN:-jepakit}" \
  --no-python lightning "$@" ${strategy:+--trainer.strategy="$strategy"} --trainer.num_nodes "$nodes" --trainer.devices "$processes"
