"""Does every network compute the same on the accelerator as on the CPU? Outputs and gradients, in each precision.

    python benchmarks/gpu_check.py --preset full --out results

The reference, float32 on the CPU, is computed beside it by a process of its own. An error is the norm of the difference over the
norm of the reference, all outputs or all gradients as one vector. Gradients are those of a random linear functional of the
outputs, in float32 in train mode; in the other precisions with running statistics: BatchNorm over a small batch amplifies their
rounding. In float32 ten times what another rounding of the inputs changes on the CPU is tolerated where that is more. Where there
is no accelerator the CPU is compared with itself. Exit status 1: something is beyond its tolerance or failed.
"""

import concurrent.futures
import dataclasses
import functools
import inspect
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import nnx

from kimnet_jax.interop.networks import NETWORKS
from kimnet_jax.models import MODELS
from kimnet_jax.models.weights import assign, flatten

TOLERANCES = {  # of outputs, of gradients
    'float32': (1e-4, 1e-3),
    'tf32': (1e-2, 5e-2),  # products of 10 bits, sums in float32
    'bf16': (5e-2, 3e-1),  # 7 bits, activations too; on the CPU 2e-2 and 1e-1 at most
}
MATMUL = {'float32': 'highest', 'tf32': 'tensorfloat32', 'bf16': 'default'}
FIRST = ('kimnet', 'hanet', 'pose_resnet')  # the others follow in the order of the registry

PRESET = flags.DEFINE_enum('preset', 'full', ('tiny', 'full'), 'Size of the networks; their inputs are small in either.')
ONLY = flags.DEFINE_list('only', None, 'Some of the networks; default: all.')
PRECISION = flags.DEFINE_list('precision', None, 'float32, tf32, bf16; default: float32 and bf16, on a GPU tf32 too.')
JOBS = flags.DEFINE_integer('jobs', max(1, (os.cpu_count() or 1) // 4), 'Programs compiled at a time.', lower_bound=1)
SECONDS = flags.DEFINE_float('seconds', 3600, 'What is not begun, or waits for its reference, then is left out, and named.')
OUT = flags.DEFINE_string('out', str(pathlib.Path(__file__).parent / 'results'), 'Folder for the JSON.')
REFERENCE = flags.DEFINE_string('reference', None, 'Of the process that computes the references: where it writes them.')


def cases() -> list[str]:
    """Names of the networks in the order of their importance. Exits on one that there is not."""
    unregistered = set(MODELS) - set(NETWORKS)
    assert not unregistered, f'without an entry in interop.networks: {unregistered}'
    names = ONLY.value or [*FIRST, *(name for name in NETWORKS if name not in FIRST)]
    if unknown := [name for name in names if name not in NETWORKS]:
        sys.exit(f'error: --only={unknown[0]}: choose some of {", ".join(NETWORKS)}')
    return names


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 values, a function of name and shape, the same on every machine."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, np.float32)


def random_weights(state: nnx.State) -> dict[str, np.ndarray]:
    """Values under which no layer is trivial and deep networks keep their scale, by path."""
    weights = {}
    for path, variable in flatten(state).items():
        values, leaf = draw(path, variable.shape), path.rpartition('.')[2]
        if leaf == 'var':
            values = 1 + 0.5 * np.tanh(values)
        elif leaf == 'scale':
            values = 0.55 + 0.2 * np.tanh(values)
        elif values.ndim > 1:
            values *= np.float32(np.sqrt(2 / max(np.prod(values.shape[:-1]), 1)))
        else:
            values *= np.float32(0.1)
        weights[path] = values
    return weights


def floating(outputs) -> list[jax.Array]:
    return [leaf for leaf in jax.tree.leaves(outputs) if jnp.issubdtype(leaf.dtype, jnp.floating)]


def compute(name: str, precision: str, modes: tuple[str, ...], *, twice: bool = False) -> dict[str, np.ndarray] | None:
    """`outputs` of a network in eval mode, and its gradients in each of the modes, each as one vector; None: not in bfloat16.

    `twice`: and as `own_<key>` the error that another rounding of the inputs makes.
    """
    network = NETWORKS[name]
    config = network.presets[PRESET.value]
    if hasattr(config, 'dropout'):
        config = dataclasses.replace(config, dropout=0.0)
    arguments = {}
    if precision == 'bf16':
        build = network.module.__init__ if isinstance(network.module, type) else network.module
        if 'dtype' not in inspect.signature(build).parameters:
            return None
        arguments['dtype'] = jnp.bfloat16
    model = nnx.eval_shape(lambda: network.module(config, rngs=nnx.Rngs(0), **arguments))
    assign(model, random_weights(nnx.state(model, (nnx.Param, nnx.BatchStat))))
    inputs = [0.3 * draw(f'input {i}', shape) for i, shape in enumerate(network.inputs(config))]
    parts = {}
    for mode in ('eval', 'train'):
        getattr(model, mode)()
        graph, parameters, statistics, rest = nnx.split(model, nnx.Param, nnx.BatchStat, ...)
        parts[mode] = graph, rest

    def run(mode: str, parameters, statistics, inputs):
        graph, rest = parts[mode]
        return floating(nnx.merge(graph, parameters, statistics, rest, copy=True)(*inputs))

    def functional(parameters, mode, statistics, inputs):
        outputs = run(mode, parameters, statistics, inputs)
        return sum(jnp.vdot(draw(f'output {i}', leaf.shape), leaf.astype(jnp.float32)) for i, leaf in enumerate(outputs))

    def everything(parameters, statistics, inputs):
        found = {'outputs': run('eval', parameters, statistics, inputs)}
        for mode in modes:
            found[mode] = jax.tree.leaves(jax.grad(functional)(parameters, mode, statistics, inputs))
        return {key: jnp.concatenate([leaf.astype(jnp.float32).ravel() for leaf in leaves]) for key, leaves in found.items()}

    with jax.default_matmul_precision(MATMUL[precision]):
        compiled = jax.jit(everything).lower(parameters, statistics, inputs).compile()
    found = jax.device_get(compiled(parameters, statistics, inputs))
    if twice:
        rounded = [np.nextafter(array, np.sign(draw('rounding', array.shape)) * np.float32(np.inf)) for array in inputs]
        again = jax.device_get(compiled(parameters, statistics, rounded))
        found |= {f'own_{key}': np.asarray(relative_error(again[key], found[key])) for key in again}
    return found


def mode_of(precision: str) -> str:
    return 'train' if precision == 'float32' else 'eval'


def write_references(folder: pathlib.Path, names: list[str], modes: tuple[str, ...]) -> None:
    """A file for each network, which appears when it is whole; of one that fails, the error."""

    def write(name: str) -> None:
        try:
            found = compute(name, 'float32', modes, twice=True)
        except Exception as error:
            found = {'error': np.array(f'{type(error).__name__}: {str(error)[:500]}')}
        temporary = folder / f'{name}.part'
        with temporary.open('wb') as file:
            np.savez(file, **found)
        temporary.rename(folder / f'{name}.npz')

    with concurrent.futures.ThreadPoolExecutor(JOBS.value) as pool:
        list(pool.map(write, names))


def reference_of(name: str, folder: pathlib.Path, process: subprocess.Popen, deadline: float) -> dict[str, np.ndarray]:
    """Waits for it. Raises `TimeoutError`, or `RuntimeError` where there will be none."""
    path = folder / f'{name}.npz'
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError
        ended = process.poll() is not None  # asked before the file is looked for once more
        if ended and not path.exists():
            raise RuntimeError(f'the process of the references ended with status {process.returncode}')
        time.sleep(0.2)
    with np.load(path) as arrays:
        found = dict(arrays)
    if 'error' in found:
        raise RuntimeError(f'on the CPU: {found["error"]}')
    return found


def relative_error(found: np.ndarray, reference: np.ndarray) -> float:
    difference = np.asarray(found, np.float64) - reference
    return float(np.linalg.norm(difference) / max(np.linalg.norm(np.asarray(reference, np.float64)), 1e-30))


def check(name: str, precision: str, folder: pathlib.Path, process: subprocess.Popen, deadline: float) -> dict:
    """The record of a network in a precision."""
    record = {'network': name, 'preset': PRESET.value, 'precision': precision, 'status': 'not reached'}
    if time.monotonic() > deadline:
        return record
    began = time.monotonic()
    try:
        found = compute(name, precision, (mode_of(precision),))
        if found is None:
            return record | {'status': 'has no bfloat16'}
        seconds = time.monotonic() - began
        reference = reference_of(name, folder, process, deadline)
    except TimeoutError:
        return record
    except Exception as error:
        return record | {'status': f'failed: {type(error).__name__}: {str(error)[:500]}'}
    errors, limits = {}, {}
    for what, key, tolerance in zip(
        ('outputs', 'gradients'), ('outputs', mode_of(precision)), TOLERANCES[precision], strict=True
    ):
        errors[what] = relative_error(found[key], reference[key])
        limits[what] = max(tolerance, 10 * float(reference[f'own_{key}'])) if precision == 'float32' else tolerance
    passed = all(errors[key] <= limits[key] for key in errors)  # a NaN does not
    record |= {'status': 'agrees' if passed else 'DISAGREES', 'errors': errors, 'tolerances': limits, 'seconds': seconds}
    print(
        f'{name:18} {precision:8} outputs {errors["outputs"]:.1e} (<= {limits["outputs"]:.0e})  gradients '
        f'{errors["gradients"]:.1e} (<= {limits["gradients"]:.0e})  {seconds:5.1f} s  {record["status"]}',
        flush=True,
    )
    return record


def main(_) -> int:
    names = cases()
    device = jax.devices()[0]
    precisions = PRECISION.value or ['float32', 'bf16', *(['tf32'] if device.platform == 'gpu' else [])]
    if unknown := [precision for precision in precisions if precision not in TOLERANCES]:
        sys.exit(f'error: --precision={unknown[0]}: choose some of {", ".join(TOLERANCES)}')
    modes = tuple(sorted({mode_of(precision) for precision in precisions}))
    if REFERENCE.value:
        write_references(pathlib.Path(REFERENCE.value), names, modes)
        return 0
    began = time.monotonic()
    print(f'{device.device_kind} ({device.platform}) against the CPU, networks of preset {PRESET.value}', flush=True)
    result = {'device': device.device_kind, 'platform': device.platform, 'jax': jax.__version__, 'checks': []}
    out = pathlib.Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f'gpu_check_{PRESET.value}_{device.platform}.json'
    order = sorted(itertools.product(names, precisions), key=lambda pair: (pair[0] != names[0], pair[1] != precisions[0]))
    with tempfile.TemporaryDirectory() as folder:
        options = [f'--{key}={",".join(value)}' for key, value in (('only', names), ('precision', precisions))]
        options += [f'--preset={PRESET.value}', f'--reference={folder}', f'--jobs={JOBS.value}']
        process = subprocess.Popen([sys.executable, __file__, *options], env=os.environ | {'JAX_PLATFORMS': 'cpu'})
        try:
            with concurrent.futures.ThreadPoolExecutor(JOBS.value) as pool:
                work = functools.partial(check, folder=pathlib.Path(folder), process=process, deadline=began + SECONDS.value)
                for future in concurrent.futures.as_completed([pool.submit(work, *pair) for pair in order]):
                    result['checks'].append(future.result())  # written at once: whoever started this may end it
                    path.write_text(json.dumps(result | {'seconds': time.monotonic() - began}, indent=1) + '\n')
        finally:
            process.kill()
            process.wait()
    bad = [record for record in result['checks'] if record['status'] == 'DISAGREES' or record['status'].startswith('failed')]
    left = [record for record in result['checks'] if record['status'] == 'not reached']
    for record in bad:
        print(f'{record["network"]} {record["precision"]}: {record["status"]}')
    if left:
        print('not reached:', ', '.join(f'{record["network"]} {record["precision"]}' for record in left))
    print(f'{len(order) - len(bad) - len(left)} of {len(order)} fine in {time.monotonic() - began:.0f} s; written: {path}')
    return bool(bad)


if __name__ == '__main__':
    app.run(main)
