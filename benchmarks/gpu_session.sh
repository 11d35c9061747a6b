#!/usr/bin/env bash
# One command for a machine with a GPU, 9 minutes: benchmarks/gpu_session.sh [CLIPS]
#
# Every network on the GPU against the CPU, the benchmarks, and, where CLIPS is the --data_dir of a built sub_jhmdb (a compact copy
# will do), a short training. In $OUT (default: out): summary.json, how each stage ended, and session.tar.gz, all logs and results.
# Both are whole after every stage. A stage that fails stops no other; the exit status is 1 then.
#
# PRESET: full, small or tiny (default: full on a GPU, else small). SESSION_SECONDS: for everything (default: 540), in fixed shares.
# STAGES: the names of those to run (default: all). CHECK: networks, as --only of gpu_check.py; CHECK_PRESET: their size, tiny
# (default) or full. FOLD: of the clips (default: 1).
# PYTHON, WHEELS: see gpu_setup.sh.
set -uo pipefail
clips=${1:-${CLIPS:-}}
[[ -z $clips ]] || clips=$(realpath -- "$clips") || exit 2
out=$(realpath -m -- "${OUT:-out}")
[[ -z ${WHEELS:-} ]] || WHEELS=$(realpath -- "$WHEELS") || exit 2
. "$(dirname "${BASH_SOURCE[0]}")/gpu_setup.sh"
total=${SESSION_SECONDS:-540}
deadline=$((SECONDS + total))
device=$("$python" -c 'import jax; print(jax.devices()[0].platform, jax.devices()[0].device_kind, sep=":")') || exit 2
[[ $device == cpu:* ]] && preset=${PRESET:-small} || preset=${PRESET:-full}
case $preset in
  full) rounds=5 steps=150 options=() precision=(--precision bf16) ;; # the others: by hand
  small) rounds=3 steps=20 options=() precision=() ;;
  tiny) rounds=1 steps=2 options=(--config.train.batch_size=2 --config.eval.batch_size=2) precision=() ;;
  *) echo "error: PRESET=$preset: choose full, small or tiny" >&2; exit 2 ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$out" "$work/logs" "$work/results"
stages=() failed=0

# stage NAME SECONDS COMMAND...: at most so many of 540 s, and no longer than the session; its log, and how it ended
stage() {
  local name=$1 limit=$(($2 * total / 540)) left=$((deadline - SECONDS)) began=$SECONDS rc=0
  shift 2
  [[ -z ${STAGES:-} || " $STAGES " == *" $name "* ]] || return 0
  if ((left < 10)); then
    failed=1
    stages+=("{\"stage\": \"$name\", \"rc\": null, \"seconds\": 0}")
    echo "== $name: not run, the time is up"
  else
    timeout -s TERM -k 10 $((limit < left ? limit : left)) "$@" >"$work/logs/$name.log" 2>&1 || rc=$?
    ((rc)) && failed=1
    stages+=("{\"stage\": \"$name\", \"rc\": $rc, \"seconds\": $((SECONDS - began))}")
    echo "== $name: status $rc, $((SECONDS - began)) s"
    tail -n 20 "$work/logs/$name.log"
  fi
  local IFS=,
  printf '{"device": "%s", "preset": "%s", "stages": [%s]}\n' "$device" "$preset" "${stages[*]}" >"$work/summary.json"
  cp "$work"/run/metrics.jsonl "$work"/run/evaluation/* "$work/results" 2>/dev/null
  tar -czf "$out/session.tar.gz.part" -C "$work" logs results summary.json
  mv "$out/session.tar.gz.part" "$out/session.tar.gz"
  cp "$work/summary.json" "$out/summary.json.part"
  mv "$out/summary.json.part" "$out/summary.json"
}

results=(--out "$work/results")
benchmark=("${results[@]}" --preset "$preset")
stage environment 10 bash -c '"$0" -VV; "$0" -m pip list; nproc; nvidia-smi; true' "$python"
stage check 110 "$python" benchmarks/gpu_check.py "${results[@]}" --preset "${CHECK_PRESET:-tiny}" ${CHECK:+--only "$CHECK"} --seconds $((total * 100 / 540))
stage inference 110 "$python" benchmarks/inference.py "${benchmark[@]}" "${precision[@]}" --rounds $rounds --seconds $((total * 100 / 540))
stage train_step 110 "$python" benchmarks/train_step.py "${benchmark[@]}" "${precision[@]}" --rounds $rounds --seconds $((total * 100 / 540))
if [[ -n $clips ]]; then
  stage train 90 "$python" -m kimnet_jax.train --config "configs/sub_jhmdb.py:fold=${FOLD:-1},preset=$preset" \
    --workdir "$work/run" --config.dataset.data_dir="$clips" --config.train.steps=$steps "${options[@]}"
  stage evaluate 40 "$python" -m kimnet_jax.evaluate --workdir "$work/run" --checkpoint last
fi
stage hanet 30 "$python" benchmarks/hanet.py "${benchmark[@]}" --rounds $rounds --seconds $((total * 25 / 540))
stage memory 45 "$python" benchmarks/memory.py "${benchmark[@]}" --rounds $rounds --seconds $((total * 40 / 540))
stage loader 45 "$python" benchmarks/loader.py "${results[@]}" --rounds $rounds --seconds 1 --memory_seconds 1
cat "$out/summary.json"
exit $failed
