#!/usr/bin/env bash
# A TPU slice on GKE by xpk (pip install xpk): CLUSTER=name ZONE=zone PROJECT=project WORKLOAD=kimnet-fold1 TPU_TYPE=v5litepod-16 \
#   IMAGE=REGION-docker.pkg.dev/PROJECT/REPOSITORY/kimnet:tpu launch/xpk.sh --config configs/sub_jhmdb.py:fold=1 \
#   --workdir gs://bucket/runs/a --config.dataset.data_dir=gs://bucket/data
#
# IMAGE: docker build --build-arg EXTRAS=tpu,gcs -t kimnet:tpu . && docker push ...
# The service account of the nodes must be allowed to list, read, write and delete in the bucket.
#
# All pods start again, and the run goes on from its last checkpoint, when a process or a node is lost or preempted: RESTARTS times at
# most (10). xpk does so after exit statuses of 127 and more, to which 75 is added: another process is gone. An error that would come
# again has status 2 and ends the workload.
set -euo pipefail

: "${CLUSTER:?name of the GKE cluster}" "${ZONE:?its zone}" "${PROJECT:?its project}"
: "${WORKLOAD:?name of the workload}" "${TPU_TYPE:?such as v5litepod-16}" "${IMAGE:?address of the image}"
printf -v flags '%q ' "$@"
xpk workload create --cluster "$CLUSTER" --zone "$ZONE" --project "$PROJECT" --workload "$WORKLOAD" --tpu-type "$TPU_TYPE" \
  --docker-image "$IMAGE" --max-restarts "${RESTARTS:-10}" --restart-on-exit-codes 75 --termination-grace-period-seconds 120 \
  --env "KIMNET_JOIN_SECONDS=${KIMNET_JOIN_SECONDS:-600}" --command "python -m kimnet_jax.train --distributed $flags"
