"""Times of contenders in turn, beside the least that the device allows.

Times are medians over the rounds, in ms; a ratio is the median over the rounds of JAX's time by the other's (below 1: JAX is
faster). A stage is compiled and run before its first round; the seconds to its first result stand apart. MFU is the share of the
device's measured FLOP/s that the network's convolutions and products make up, `x floor` the time by the least possible: for each
of these the longer of its arithmetic and its traffic, at the ceilings that are measured in the same run.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import costs
import harness
from contenders import FailedError, Prepare, Workers
from harness import NAMES
from sides import CHANNELS_LAST, COMPILED, EAGER, JAX, Case

TURN = {'cpu': 1.0, 'gpu': 0.4}  # seconds that a stage runs in a round; one call at least


class Target(NamedTuple):
    """What is aimed at on one H200 with the full preset: at least so much of `field` (of `median_ms`: at most)."""

    name: str
    precision: str
    stage: str
    field: str
    value: float


RATIO = 1.3  # and so many times as fast as PyTorch, compiled


def run(
    script: str,
    prepare: Prepare,
    known: Sequence[str],
    cases: Callable[[str, str], list[Case]],
    targets: Sequence[Target] = (),
) -> int:
    """Times all cases, see `harness.run`; `targets` stand beside the results of a GPU."""
    ceilings: dict[str, dict[str, Any]] = {}

    def compare_case(workers: Workers, names: Sequence[str], case: Case) -> dict[str, Any]:
        if case.precision not in ceilings:
            ceilings[case.precision] = _ceilings(workers, names, case)
        return compare(workers, names, case, ceilings[case.precision])

    def conclude(result: dict[str, Any]) -> dict[str, Any]:
        reached = []
        if result['device']['backend'] == 'gpu' and result['preset'] == 'full':
            reached = [found for target in targets for found in _reached(target, result['cases'])]
        for found in reached:
            print('target: {name}, {wanted}: measured {measured:.2f}, {verdict}'.format(**found))
        return {'ceilings': ceilings, 'targets': reached}

    return harness.run(script, prepare, known, cases, compare_case, print_record, conclude)


def _ceilings(workers: Workers, names: Sequence[str], case: Case) -> dict[str, Any]:
    """Of the device, by JAX and by one PyTorch contender."""
    measured = {}
    for name in (JAX, *(name for name in names if name in (EAGER, CHANNELS_LAST)))[:2]:
        try:
            measured[name] = workers.ask(name, 'call', costs.ceilings, case.device, case.precision)
        except FailedError as error:
            if name == JAX:
                raise
            print(f'ceilings by {NAMES[name]}: {error}')
    found = costs.merge(measured)
    print(f'ceilings, {case.precision}: {found["flops_per_s"] / 1e9:.0f} GFLOP/s, {found["bytes_per_s"] / 1e9:.0f} GB/s')
    return found


def compare(workers: Workers, contenders: Sequence[str], case: Case, ceilings: dict[str, Any]) -> dict[str, Any]:
    """Prepares a case, checks that all compute the same, and times its stages.

    Args:
        workers: the processes.
        contenders: JAX first.
        case: what to run.
        ceilings: of the device in that precision, see `costs.merge`.

    Returns:
        A record for JSON.
    """
    answers = workers.ask_all([JAX], 'prepare', case)
    others = [name for name in contenders if name != JAX]
    # a GPU's host has the cores to let all compile at once
    groups = [others] if case.device == 'gpu' else [[name] for name in others]
    for group in groups:
        answers |= workers.ask_all(group, 'prepare', case, limit=workers.left / 2)
    failed = {name: str(answer) for name, answer in answers.items() if isinstance(answer, FailedError)}
    ready = {name: answer for name, answer in answers.items() if name not in failed}
    record: dict[str, Any] = {'case': harness.describe(case), 'errors': {}, 'failed': failed, 'stages': {}, 'not_run': []}
    if JAX not in ready:
        return record
    record['errors'] = harness.check_agreement({name: outputs for name, (outputs, *_) in ready.items()}, case.precision)
    costs = ready[JAX][2]
    for stage in ready[JAX][3]:
        if workers.left <= 0:
            record['not_run'].append(stage)
            continue
        runners = [name for name, (*_, stages) in ready.items() if stage in stages and name not in failed]
        times = _rounds(workers, runners, stage, TURN[case.device], failed)
        if not times.get(JAX):
            record['not_run'].append(stage)
            continue
        rows = {
            name: _row(values, times[JAX], case.frames, costs.get(stage), ceilings) | {'compile_s': ready[name][1].get(stage)}
            for name, values in times.items()
            if values
        }
        record['stages'][stage] = {'contenders': rows, 'costs': costs.get(stage) and floor(costs[stage], ceilings)}
    return record


def _rounds(workers: Workers, names: list[str], stage: str, seconds: float, failed: dict[str, str]) -> dict[str, list[float]]:
    """ms of each contender in each round that all of them ran; one that fails leaves."""
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(harness.ROUNDS.value):
        fresh = {}
        for name in list(times):
            try:
                fresh[name] = workers.ask(name, 'run', stage, seconds)
            except FailedError as error:
                if workers.left <= 0:
                    return times
                failed[name] = str(error)
                del times[name]
        for name, value in fresh.items():
            times[name].append(value)
    return times


def _row(values: list[float], ours: list[float], frames: int, costs: dict | None, ceilings: dict[str, Any]) -> dict[str, Any]:
    median = statistics.median(values)
    row = {
        'median_ms': median,
        'shortest_ms': min(values),
        'rounds': len(values),
        'frames_per_s': 1e3 * frames / median,
        'ratio': statistics.median(a / b for a, b in zip(ours, values, strict=False)),
    }
    if costs:
        row['flops_per_s'] = 1e3 * costs['flops'] / median
        row['utilisation'] = row['flops_per_s'] / ceilings['flops_per_s']
        row['times_floor'] = median / floor(costs, ceilings)['floor_ms']
    return row


def floor(costs: dict[str, Any], ceilings: dict[str, Any]) -> dict[str, Any]:
    """The costs with the least time that they allow: of each convolution and product the longer of arithmetic and traffic."""
    peak, bandwidth = ceilings['flops_per_s'], ceilings['bytes_per_s']
    arithmetic = sum(count * flops / peak for flops, _, count in costs['work'])
    seconds = sum(count * max(flops / peak, moved / bandwidth) for flops, moved, count in costs['work'])
    rest = {key: value for key, value in costs.items() if key != 'work'}
    return rest | {'floor_ms': 1e3 * seconds, 'arithmetic_share_of_floor': arithmetic / seconds}


def _reached(target: Target, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best of the cases in the target's precision, beside it."""
    rows = [
        record['stages'][target.stage]['contenders']
        for record in records
        if record['case']['precision'] == target.precision and target.stage in record['stages']
    ]
    if not rows:
        return []
    least = target.field == 'median_ms'
    row = (min if least else max)(rows, key=lambda row: row[JAX][target.field])
    value = row[JAX][target.field]
    met = value <= target.value if least else value >= target.value
    wanted = f'{"<=" if least else ">="} {target.value:g} {target.field}'
    found = [{'name': target.name, 'wanted': wanted, 'measured': value, 'verdict': 'met' if met else 'not met'}]
    if COMPILED in row:
        times = 1 / row[COMPILED]['ratio']
        verdict = 'met' if times >= RATIO else 'not met'
        wanted = f'>= {RATIO} times as fast as {NAMES[COMPILED]}'
        found.append({'name': target.name, 'wanted': wanted, 'measured': times, 'verdict': verdict})
    return found


def print_record(record: dict[str, Any]) -> None:
    """A case's table: a line for each contender of each stage."""
    for stage, row in record['stages'].items():
        costs = row['costs']
        print(f'{stage:<30}{"median ms":>10}{"frames/s":>10}{"JAX / it":>9}{"MFU":>6}{"x floor":>8}{"compile s":>10}')
        for name, found in row['contenders'].items():
            shares = f'{100 * found["utilisation"]:>5.0f}%{found["times_floor"]:>8.1f}' if costs else ' ' * 14
            compile_s = f'{found["compile_s"]:>10.1f}' if found['compile_s'] is not None else ''
            rate = f'{found["median_ms"]:>10.2f}{found["frames_per_s"]:>10.0f}{found["ratio"]:>9.2f}'
            print(f'  {NAMES[name]:<28}{rate}{shares}{compile_s}')
        if costs:
            moved = costs['compiled_bytes']
            print(
                f'  {costs["flops"] / 1e9:.3g} GFLOP, {"?" if moved is None else f"{moved / 1e9:.3g}"} GB moved by the program; '
                f'floor {costs["floor_ms"]:.2f} ms, {100 * costs["arithmetic_share_of_floor"]:.0f}% of it arithmetic'
            )
    harness.print_notes(record)
