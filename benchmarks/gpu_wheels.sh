#!/usr/bin/env bash
# benchmarks/gpu_wheels.sh FOLDER: the wheels that a machine with JAX, Flax, Optax, Orbax, OpenCV and PyTorch may still lack.
#
# For Python 3.12 on Linux x86-64, where nothing can be downloaded; gpu_session.sh unpacks them (WHEELS=FOLDER).
set -euo pipefail
if [[ $# -ne 1 ]]; then
  echo "usage: $0 FOLDER" >&2
  exit 2
fi
python=${PYTHON:-python3}
platforms=()
for version in 2_28 2_27 2_24 2_17 2014 1; do
  [[ $version == *_* ]] && tag=manylinux_$version || tag=manylinux$version
  platforms+=(--platform "${tag}_x86_64")
done
"$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp "${platforms[@]}" \
  --dest "$1" array_record dm-tree docstring-parser googleapis-common-protos grain immutabledict importlib_resources \
  ml-collections portpicker simple-parsing tensorboardX tensorflow-datasets tensorflow-metadata termcolor toml
"$python" -m pip wheel --quiet --no-deps --wheel-dir "$1" promise  # released as source only
du -ch --apparent-size "$1"/*.whl
