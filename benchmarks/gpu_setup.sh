# For gpu_session.sh, which sources it: the working directory, Python, and modules from carried wheels.
#
# PYTHON: the interpreter (default: python3). WHEELS: a folder of wheels (gpu_wheels.sh), unpacked where modules are missing.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
python=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
missing() {
  "$python" -c 'import importlib.util as u; print(*(m for m in (
    "absl", "array_record", "cv2", "flax", "grain", "jax", "ml_collections", "optax", "orbax", "safetensors", "scipy",
    "tensorboardX", "tensorflow_datasets", "tqdm") if not u.find_spec(m)))'
}
modules=$(missing) || exit 2
if [[ -n $modules && -n ${WHEELS:-} ]]; then
  site=$(mktemp -d)
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl || exit 2
  export PYTHONPATH=$site:$PYTHONPATH
  modules=$(missing)
fi
if [[ -n $modules ]]; then
  echo "error: not installed: $modules; pip install -e . here, or carry wheels (benchmarks/gpu_wheels.sh) and set WHEELS" >&2
  exit 2
fi
