#!/usr/bin/env bash
# A Cloud TPU slice: TPU=name ZONE=zone launch/tpu_pod.sh --config configs/sub_jhmdb.py:fold=1 --workdir gs://bucket/runs/a \
#   --config.dataset.data_dir=gs://bucket/data
#
# Clones branch REF (default main) of REPOSITORY on every worker, installs it and trains. The service account of the TPU VM must be
# allowed to list, read, write and delete in the bucket. The same command again goes on.
set -euo pipefail

: "${TPU:?name of the TPU VM}" "${ZONE:?zone of the TPU VM}" "${REPOSITORY:?git address of this project}"
printf -v flags '%q ' "$@"
gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all --command "
  set -e
  test -d kimnet_jax || git clone --quiet --branch '${REF:-main}' '$REPOSITORY' kimnet_jax
  cd kimnet_jax
  test -d .venv || python3 -m venv .venv
  .venv/bin/python -m pip install --quiet --editable '.[tpu,gcs]'
  .venv/bin/python -m kimnet_jax.train --distributed $flags
"
