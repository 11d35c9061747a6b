"""A whole benchmark: contenders that compute the same are measured case by case; flags, table, JSON."""

import datetime
import json
import math
import pathlib
import platform
import re
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import numpy as np
import sides
from absl import flags
from contenders import MEMORY, OUT_OF_TIME, FailedError, Prepare, Workers
from sides import CHANNELS_LAST, COMPILED, EAGER, JAX, REMAT, Case

from kimnet_jax.core.files import write_text

NAMES = {
    JAX: 'JAX',
    REMAT: 'JAX, remat',
    EAGER: 'PyTorch',
    CHANNELS_LAST: 'PyTorch, channels_last',
    COMPILED: 'PyTorch, torch.compile',
}
PRESETS = ('tiny', 'small', 'medium', 'full')
PRECISIONS = ('float32', 'tf32', 'bf16')
TOLERANCE = {'float32': 1e-3, 'tf32': 2e-2, 'bf16': 1e-1}  # relative, of outputs of whole networks

PRESET = flags.DEFINE_enum('preset', 'small', PRESETS, 'Size of the network and its input.')
PRECISION = flags.DEFINE_list('precision', None, 'float32, tf32, bf16; default: float32 on CPU, on a GPU bf16,tf32,float32.')
CONTENDERS = flags.DEFINE_list('contenders', None, f'Some of {", ".join(NAMES)}; default: all that the script has.')
BATCH = flags.DEFINE_list('batch', None, 'Clips, or windows of poses; default: those of the preset.')
STAGES = flags.DEFINE_list(
    'stages', None, 'What to time, by the names in the table; default: all (train_step on a GPU: the step).'
)
ROUNDS = flags.DEFINE_integer('rounds', 10, 'How often each contender runs.', lower_bound=1)
CORES = flags.DEFINE_integer('cores', None, 'Cores that each may use; default: all.', lower_bound=1)
SECONDS = flags.DEFINE_float('seconds', math.inf, 'When this time is over, what has not run is left out, and named.')
OUT = flags.DEFINE_string('out', str(pathlib.Path(__file__).parent / 'results'), 'Folder for the JSON.')


class DisagreementError(Exception):
    """Two contenders do not compute the same."""


def check_agreement(outputs: dict[str, dict[str, np.ndarray]], precision: str) -> dict[str, float]:
    """The largest error of any contender against JAX, by output; `joints`, in pixels, are compared by their median in float32.

    Raises `DisagreementError` naming contender, output, error and tolerance.
    """
    errors: dict[str, float] = {}
    for contender, theirs in outputs.items():
        for name, reference in outputs[JAX].items():
            found, limit = np.asarray(theirs[name], np.float64), TOLERANCE[precision]
            if found.shape != np.shape(reference):
                raise DisagreementError(f'{name}: {NAMES[contender]} gives {found.shape}, JAX {np.shape(reference)}')
            if name == 'joints':
                error, limit = float(np.median(np.abs(found - reference))), 0.05 if precision == 'float32' else math.inf
            else:
                error = float(np.linalg.norm(found - reference) / max(np.linalg.norm(reference), 1e-30))
            if not error <= limit:
                raise DisagreementError(
                    f'{name}: {NAMES[contender]} is {error:.1e} from JAX in {precision}, tolerance {limit:.0e}'
                )
            errors[name] = max(errors.get(name, 0.0), error)
    return errors


def describe(value: Any) -> Any:
    """Plain values of a case or a config."""
    if hasattr(value, '_asdict'):
        return {key: describe(item) for key, item in value._asdict().items()}
    if hasattr(value, '__dataclass_fields__'):
        return {key: getattr(value, key) for key in value.__dataclass_fields__}
    return list(value) if isinstance(value, tuple) else value


def chosen(known: Sequence[str]) -> list[str]:
    """The contenders asked for, JAX first. Exits on one that the script does not have."""
    names = CONTENDERS.value or list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f'error: --contenders={unknown[0]}: choose some of {", ".join(known)}')
    return [JAX, *(name for name in known if name in names and name != JAX)]


def stages(known: Sequence[str], default: Sequence[str] | None = None) -> tuple[str, ...]:
    """The stages asked for. Exits on one that the script does not have."""
    names = STAGES.value or default or known
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f'error: --stages={unknown[0]}: choose some of {", ".join(known)}')
    return tuple(name for name in known if name in names)


def batches(default: Sequence[int]) -> list[int]:
    """The batch sizes asked for."""
    if BATCH.value and not all(value.isdecimal() and int(value) for value in BATCH.value):
        sys.exit(f'error: --batch={",".join(BATCH.value)}: numbers from 1 on')
    return [int(value) for value in BATCH.value or default]


def precisions(device: str) -> list[str]:
    """Those asked for. Exits on one that there is not."""
    names = PRECISION.value or (['float32'] if device == 'cpu' else ['bf16', 'tf32', 'float32'])
    unknown = [name for name in names if name not in PRECISIONS or (name == 'tf32' and device == 'cpu')]
    if unknown:
        sys.exit(f'error: --precision={unknown[0]}: choose some of {", ".join(PRECISIONS)}; tf32 on a GPU only')
    return names


Measure = Callable[[Workers, Sequence[str], Case], dict[str, Any]]  # (processes, contenders, case) -> a record


def run(
    script: str,
    prepare: Prepare,
    known: Sequence[str],
    cases: Callable[[str, str], list[Case]],
    measure: Measure,
    show: Callable[[dict[str, Any]], None],
    conclude: Callable[[dict[str, Any]], dict[str, Any]] = lambda result: {},
) -> int:
    """A whole benchmark: measures and prints every case in every precision, writes the JSON.

    Args:
        script: its name.
        prepare: see `contenders.Prepared`.
        known: the contenders that it has.
        cases: (device, precision) -> what to measure.
        measure: gives a record: `case`, `stages` (those of which JAX has a result), `failed` (contender -> why), `not_run`.
        show: prints a record.
        conclude: more entries for the JSON.

    Returns:
        The exit status: 1 where JAX has no result, a contender failed that only had to run (not to compile, nor in time), or two
        do not compute the same; in this last case nothing is written.
    """
    names, records, not_run = chosen(known), [], []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of the end of the `with`, which ends all processes
    with Workers(prepare, CORES.value, SECONDS.value) as workers:
        for name in names:
            workers.start(name)
        try:
            device = workers.ask(JAX, 'call', sides.device_of)
            for precision in precisions(device['backend']):
                for case in cases(device['backend'], precision):
                    if workers.left <= 0:
                        not_run.append(describe(case))
                        continue
                    print(title(case))
                    records.append(measure(workers, names, case))
                    show(records[-1])
        except (DisagreementError, FailedError) as error:
            print(f'error: {error}', file=sys.stderr)
            return 1
        result = about(workers, device, script)
    for left_out in not_run:
        print(f'not run, {OUT_OF_TIME}: {left_out["model"]}, {left_out["shape"]}, {left_out["precision"]}')
    result |= {'cases': records, 'not_run': not_run}
    write(result | conclude(result))
    return status(records)


def title(case: Case) -> str:
    """A line that says what is compared."""
    kinds = ('clips', 'frames', 'pixels') if len(case.shape) > 1 else ('windows',)
    sizes = ', '.join(f'{size} {kind}' for size, kind in zip(case.shape, kinds, strict=True))
    return f'\n{case.model}, {sizes}, {case.precision}, {case.device}'


def about(workers: Workers, device: dict[str, Any], script: str) -> dict[str, Any]:
    """The head of the JSON."""
    return {
        'date': datetime.date.today().isoformat(),
        'benchmark': script,
        'preset': PRESET.value,
        'rounds': ROUNDS.value,
        'cores': len(workers.cores),
        'machine': f'{platform.system()} {platform.machine()}',
        'device': device,
        'versions': {name: metadata.version(name) for name in ('jax', 'flax', 'torch')},
    }


def print_notes(record: dict[str, Any]) -> None:
    """What failed, what was left out, how far the numbers are apart."""
    for name, reason in record['failed'].items():
        print(f'  {NAMES[name]}: {reason}')
    for stage in record['not_run']:
        print(f'  {stage}: not run, {OUT_OF_TIME}')
    if record['errors']:
        print('  largest error against JAX: ' + ', '.join(f'{name} {error:.1e}' for name, error in record['errors'].items()))
    sys.stdout.flush()


def write(result: dict[str, Any]) -> None:
    """Writes the JSON under its dated name, and prints the path."""
    folder = pathlib.Path(OUT.value)
    parts = [result['benchmark'], result['preset'], result['device']['backend'], *(PRECISION.value or []), result['date']]
    path = folder / f'{"_".join(parts)}.json'
    write_text(path, json.dumps(result, indent=1, allow_nan=False) + '\n')
    print(path)


def status(records: Sequence[dict[str, Any]]) -> int:
    """The exit status: 1 where JAX has no time, or a contender failed that only had to run (not to compile, nor in time)."""
    if not any(record['stages'] for record in records):
        return 1
    excused = re.compile(f'{OUT_OF_TIME}|{MEMORY}|RESOURCE_EXHAUSTED|OutOfMemory')
    reasons = [(name, reason) for record in records for name, reason in record['failed'].items()]
    return int(any(name != COMPILED and not excused.search(reason) for name, reason in reasons))
