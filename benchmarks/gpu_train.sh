#!/usr/bin/env bash
# Trains KIMNet on real clips in slices and evaluates it: benchmarks/gpu_train.sh CLIPS WORK [kmm|none]
#
# CLIPS: the --data_dir of a built sub_jhmdb, a compact copy (`data_pipelines.compact`) will do. WORK: the folder that keeps the runs
# between slices, one for each variant. Third argument: with the KMM (default), or without anything between the frames.
# The same command goes on until the run is done; each slice ends with an evaluation. Exit status: 0 done, 75 go on, else an error.
#
# In $OUT (default: out), in a folder named after the variant: the tables of the evaluation, the poses, the curves, the config and
# the logs; the weights stay in WORK.
# SLICE: seconds of training in a slice (default: 400). EPOCHS: of the whole run (default: 400). PRESET: full (default), small, tiny.
# FOLD: 1 (default), 2, 3. PYTHON, WHEELS: see gpu_setup.sh. What follows the variant goes to kimnet_jax.train (--config.seed=1).
set -uo pipefail
if [[ $# -lt 2 || ! ${3:-kmm} =~ ^(kmm|none)$ ]]; then
  echo "usage: $0 CLIPS WORK [kmm|none] [--config.FIELD=VALUE ...]" >&2
  exit 2
fi
clips=$(realpath -- "$1") variant=${3:-kmm} || exit 2
run=$(realpath -m -- "$2")/$variant out=$(realpath -m -- "${OUT:-out}")/$variant
[[ -z ${WHEELS:-} ]] || WHEELS=$(realpath -- "$WHEELS") || exit 2
shift $(($# < 3 ? $# : 3))
. "$(dirname "${BASH_SOURCE[0]}")/gpu_setup.sh"
epochs=${EPOCHS:-400} cores=$(nproc)
workers=$((cores > 4 ? cores - 4 : 0)) # fewer cores than that are better used by threads
[[ $variant == none ]] && row=kimnet_none || row=kimnet
mkdir -p "$run" "$out"

timeout -s TERM -k 90 "${SLICE:-400}" "$python" -m kimnet_jax.train --workdir "$run" \
  --config "configs/sub_jhmdb.py:fold=${FOLD:-1},preset=${PRESET:-full},row=$row" --config.dataset.data_dir="$clips" \
  --config.train.epochs="$epochs" --config.train.save_every="$epochs" --config.train.eval_every="$epochs" \
  --config.loader.workers=$workers "$@" 2>&1 |
  tee -a "$run/train.log"
status=${PIPESTATUS[0]}
case $status in
  0) ;;
  124) status=75 ;; # the slice is over, the run was told to save
  *) exit "$status" ;;
esac
"$python" -m kimnet_jax.evaluate --workdir "$run" --checkpoint last --data_dir "$clips" --predictions "$run/poses.npz" 2>&1 |
  tee "$run/evaluate.log"
evaluated=${PIPESTATUS[0]}
newest=$(ls -t "$run"/evaluation/*.json 2>/dev/null | head -n 1)
rm -f "$out"/*_step*.{md,json} # of an earlier slice
cp "$run"/{config.json,metrics.jsonl,poses.npz,train.log} "$newest" "${newest%.json}.md" "$out"
((evaluated)) && exit "$evaluated"
((status)) && echo "not done: the same command goes on with $run"
exit "$status"
