#!/usr/bin/env bash
# A Cloud TPU slice: TPU=name ZONE=zone launch/tpu_pod.sh --config configs/sub_jhmdb.py:fold=1 --workdir /mnt/shared/runs/a \
#   --config.dataset.data_dir=/mnt/shared/data
#
# Clones branch REF (default main) of REPOSITORY on every worker, installs it and trains. The folder of the run and the data set must
# be on a file system that all workers mount (Filestore, Hyperdisk ML, Cloud Storage FUSE). The same command again goes on.
set -euo pipefail

: "${TPU:?name of the TPU VM}" "${ZONE:?zone of the TPU VM}" "${REPOSITORY:?git address of this project}"
printf -v flags '%q ' "$@"
gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all --command "
  set -e
  test -d kimnet_jax || git clone --quiet --branch '${REF:-main}' '$REPOSITORY' kimnet_jax
  cd kimnet_jax
  test -d .venv || python3 -m venv .venv
  .venv/bin/python -m pip install --quiet --editable '.[tpu]'
  .venv/bin/python -m kimnet_jax.train --distributed $flags
"
