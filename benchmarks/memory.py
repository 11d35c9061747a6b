"""How much memory do training and inference take beside PyTorch? The same weights, batch and precision, a process for each.

    python benchmarks/memory.py --preset small

On a GPU: the most that was allocated on the device while the stage ran (of JAX: since the process began, with what its compiler
tried out). On CPU: the most resident memory of the process while the stage ran, above what it had when all libraries were loaded;
`before`: what of it was there before the stage ran. `program` is what JAX's compiler says that arguments, results and temporary
arrays take. `jax_remat` recomputes the residual blocks in the backward pass. KIMNet, or for inference the network of `--model`.
"""

import ctypes
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Any

import harness
import inference
import jax
import torch
import train_step
from absl import app
from contenders import FailedError, Prepared, Workers
from harness import NAMES
from sides import COMPILED, EAGER, JAX, REMAT, Case

CONTENDERS = (JAX, REMAT, EAGER, COMPILED)
CALLS = 3


def prepare(contender: str, case: Case) -> Prepared:
    """Ready for the case's stage."""
    return (train_step if case.stages == (train_step.STEP,) else inference).prepare(contender, case)


def resident(field: str) -> int:
    """Bytes of this process: `VmRSS` now, `VmHWM` at most."""
    status = pathlib.Path('/proc/self/status').read_text()
    return 1024 * int(re.search(rf'^{field}:\s+(\d+) kB', status, re.MULTILINE)[1])  # type: ignore[index]


def now(contender: str, _: Any) -> int:
    """Bytes that the process holds before it gets ready."""
    del contender
    return resident('VmRSS')


def peak(contender: str, prepared: Prepared, stage: str, before: int) -> dict[str, int | None]:
    """Bytes: `peak_bytes` at most while the stage runs, `ready_bytes` of these before it does (on CPU)."""
    on_gpu = jax.default_backend() == 'gpu' if contender in (JAX, REMAT) else torch.cuda.is_available()
    if on_gpu and contender not in (JAX, REMAT):
        torch.cuda.reset_peak_memory_stats()
    if not on_gpu:
        ctypes.CDLL(None).malloc_trim(0)  # what getting ready has left behind
        ready = resident('VmRSS') - before
        pathlib.Path('/proc/self/clear_refs').write_text('5')  # VmHWM begins anew
    start, wait = prepared.stages[stage]
    for _ in range(CALLS):
        result = start()
        if wait is not None:
            wait(result)
    if not on_gpu:
        return {'peak_bytes': resident('VmHWM') - before, 'ready_bytes': ready}
    if contender in (JAX, REMAT):
        return {'peak_bytes': jax.devices()[0].memory_stats()['peak_bytes_in_use'], 'ready_bytes': None}
    return {'peak_bytes': torch.cuda.max_memory_allocated(), 'ready_bytes': None}


def measure(workers: Workers, names: Sequence[str], case: Case) -> dict[str, Any]:
    """Each contender by itself; a record for JSON."""
    (stage,) = case.stages
    outputs, rows, failed = {}, {}, {}
    for name in names:
        try:
            before = workers.ask(name, 'call', now)
            found, _, costs, _ = workers.ask(name, 'prepare', case, limit=workers.left if name == JAX else workers.left / 2)
            program = costs[stage]['program_bytes'] if costs else None
            rows[name] = workers.ask(name, 'call', peak, stage, before) | {'program_bytes': program}
            outputs[name] = found
        except FailedError as error:
            failed[name] = str(error)
        workers.stop(name)
    errors = harness.check_agreement(outputs, case.precision) if JAX in outputs else {}
    for row in rows.values():
        row['ratio'] = rows[JAX]['peak_bytes'] / row['peak_bytes'] if JAX in rows else None
    stages = {stage: {'contenders': rows}} if JAX in rows else {}
    return {'case': harness.describe(case), 'errors': errors, 'failed': failed, 'stages': stages, 'not_run': []}


def print_record(record: dict[str, Any]) -> None:
    """A line for each contender."""
    for stage, found in record['stages'].items():
        print(f'{stage:<30}{"peak MB":>10}{"JAX / it":>10}{"before MB":>11}{"program MB":>12}')
        for name, row in found['contenders'].items():
            before, program = ('' if row[key] is None else f'{row[key] / 1e6:.0f}' for key in ('ready_bytes', 'program_bytes'))
            print(f'  {NAMES[name]:<28}{row["peak_bytes"] / 1e6:>10.0f}{row["ratio"]:>10.2f}{before:>11}{program:>12}')
    harness.print_notes(record)


def cases(device: str, precision: str) -> list[Case]:
    """Training, and batches of clips."""
    preset, stages = harness.PRESET.value, harness.stages((train_step.STEP, inference.CLIPS))
    found = []
    if train_step.STEP in stages:
        found += train_step.make_cases(preset, device, precision, (train_step.STEP,), harness.batches(()))
    if inference.CLIPS in stages:
        batches = harness.batches(inference.own_batches(preset, device)[:1])
        found += inference.make_cases(inference.MODEL.value, preset, device, precision, (inference.CLIPS,), batches)
    return found


def main(argv: list[str]) -> None:
    del argv
    sys.exit(harness.run('memory', prepare, CONTENDERS, cases, measure, print_record))


if __name__ == '__main__':
    app.run(main)
