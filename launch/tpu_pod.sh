#!/usr/bin/env bash
# A Cloud TPU slice: TPU=name ZONE=zone launch/tpu_pod.sh --config configs/sub_jhmdb.py:fold=1 --workdir gs://bucket/runs/a \
#   --config.dataset.data_dir=gs://bucket/data
#
# Trains on every worker, with IMAGE=REGION-docker.pkg.dev/PROJECT/REPOSITORY/kimnet:tpu in a container of that image
# (docker build --build-arg EXTRAS=tpu,gcs -t kimnet:tpu .), or with REPOSITORY=git-address in a clone of its branch REF (main).
# The service account of the TPU VM must be allowed to list, read, write and delete in the bucket, and to read the image.
#
# When a process is lost, the others end within a minute, and all workers start again, RESTARTS times at most (20). SIGTERM ends the
# run for good; the same command goes on. A preempted TPU VM has to be created anew; see launch/README.md.
set -euo pipefail

: "${TPU:?name of the TPU VM}" "${ZONE:?zone of the TPU VM}"
printf -v flags '%q ' "$@"
if [[ -n ${IMAGE:-} ]]; then
  printf -v image '%q' "$IMAGE"
  prepare="sudo docker pull --quiet $image"
  train="sudo --preserve-env=KIMNET_JOIN_SECONDS docker run --rm --privileged --net=host --env KIMNET_JOIN_SECONDS --entrypoint python $image"
else
  printf -v repository '%q' "${REPOSITORY:?git address of this project, or IMAGE}"
  printf -v ref '%q' "${REF:-main}"
  prepare="
  test -d kimnet_jax || git clone --quiet --branch $ref $repository kimnet_jax
  cd kimnet_jax
  test -d .venv || python3 -m venv .venv
  .venv/bin/python -m pip install --quiet --editable '.[tpu,gcs]'"
  train=.venv/bin/python
fi
gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all --command "
  set -e
  export KIMNET_JOIN_SECONDS=${KIMNET_JOIN_SECONDS:-600}
  $prepare
  for ((restarts = ${RESTARTS:-20}; ; restarts--)); do
    status=0
    $train -m kimnet_jax.train --distributed $flags || status=\$?
    # done; an error that would come again; stopped on purpose
    case \$status in 0 | 2 | 130 | 143) exit \$status ;; esac
    ((restarts > 0)) || exit \$status
    sleep 10
  done
"
