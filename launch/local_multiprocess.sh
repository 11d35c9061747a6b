#!/usr/bin/env bash
# Several processes on this machine, as on a cluster: launch/local_multiprocess.sh PROCESSES DEVICES TRAIN_FLAGS...
#
# DEVICES: virtual CPU devices of each process; 0: process i takes GPU i.
# Ends with the status of the first failure; Ctrl-C and SIGTERM reach all processes, which save and stop.
set -euo pipefail

if [[ $# -lt 3 || ! $1 =~ ^[1-9][0-9]*$ || ! $2 =~ ^[0-9]+$ ]]; then
  echo "usage: $0 PROCESSES DEVICES --config configs/<name>.py --workdir RUN ..." >&2
  exit 2
fi
processes=$1 devices=$2
shift 2
python=${PYTHON:-python}
if ((devices)); then
  export JAX_PLATFORMS=cpu XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"
fi

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
export JAX_COORDINATOR_ADDRESS=localhost:$port JAX_NUM_PROCESSES=$processes

pids=() killer=
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' INT TERM
for ((i = 0; i < processes; i++)); do
  ((devices)) || export JAX_LOCAL_DEVICE_IDS=$i
  JAX_PROCESS_ID=$i "$python" -m kimnet_jax.train --distributed "$@" &
  pids+=($!)
done
status=0
for ((left = processes; left > 0; left--)); do
  code=0
  wait -n || code=$?
  if ((code && !status)); then
    status=$code
    # the others end by themselves, unless they are waiting for one that never came
    (sleep 15 && kill -TERM "${pids[@]}") >/dev/null 2>&1 &
    killer=$!
    disown "$killer"
  fi
done
wait
[[ -z $killer ]] || kill "$killer" 2>/dev/null || true
exit "$status"
