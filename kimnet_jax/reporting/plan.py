"""What a training will need (`tasks.plan.plan`) as tables, and the page of many such results."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kimnet_jax.reporting.tables import table

_GIB, _MIB = 2**30, 2**20
_BACKWARD = ' (backward)'


def render(result: Mapping[str, Any]) -> str:
    """One result for the terminal; Markdown."""
    data, memory = result['data'], result['memory']
    versions = ', '.join(f'{name} {version}' for name, version in result['versions'].items())
    blocks = [
        f'# {_title(result)}',
        f'{result["parameters"] / 1e6:.2f} M parameters, {result["dtype"]}, {result["batch_per_chip"]} clips of {data["frames"]} '
        f'frames of {data["input_size"]} x {data["input_size"]} a chip, statistics of BatchNorm: {result["batch_norm"]}, '
        f'{"remat" if result["remat"] else "no remat"}. {versions}.',
        _memory(result),
    ]
    if memory['fits']:
        blocks += [_collectives(result)]
        blocks += [_cycles(result)] if result['cycles'] else []
        blocks += [_roofline(result), _scaling(result)]
    if 'largest' in result:
        blocks += [_largest(result)]
    return '\n\n'.join(blocks) + '\n'


def page(results: Iterable[Mapping[str, Any]]) -> str:
    """The tables of docs/pods.md."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault((result['network'], result['preset']), []).append(result)
    blocks = []
    for (network, preset), found in sorted(groups.items()):
        ordered = sorted(found, key=lambda result: (result['chip'], result['chips'], result['batch_per_chip'], result['remat']))
        data = ordered[0]['data']
        size = f'{data["frames"]} frames of {data["input_size"]} x {data["input_size"]}'
        blocks += [f'### {network}, preset `{preset}` ({size})', _overview(ordered)]
        fitting = [result for result in ordered if result['memory']['fits']]
        if fitting:
            blocks += ['Frames/s per chip, predicted, with the same batch per chip on more chips:', _scaling_of(fitting)]
        estimated = [result for result in fitting if result['cycles']]
        if estimated:
            blocks += ["The compiler's estimate, ms of a step, on the fewest chips:", _parts_of(_fewest_chips(estimated))]
        if any('largest' in result for result in ordered):
            blocks += ['The largest batch per chip:', _largest_of([result for result in ordered if 'largest' in result])]
    return '\n\n'.join(blocks) + '\n'


def _title(result: Mapping[str, Any]) -> str:
    return f'{result["network"]} ({result["preset"]}) on {result["topology"]}: {result["chips"]} x {result["chip"]}'


def _size(number: float) -> str:
    return f'{number / _GIB:.2f} GiB' if number >= 0.1 * _GIB else f'{number / _MIB:.2f} MiB'


def _count(number: float) -> str:
    return f'{number:,.0f}'


def _ms(milliseconds: float) -> str:
    return f'{milliseconds:.3g} ms' if milliseconds < 100 else f'{milliseconds:.0f} ms'


def _fits(memory: Mapping[str, Any]) -> str:
    beyond = memory['needed'] - memory['available']
    return 'fits' if memory['fits'] else f'does not fit, by {_size(beyond)}'


def _memory(result: Mapping[str, Any]) -> str:
    memory = result['memory']
    lines = [[name, _size(size)] for name, size in (memory['parts'] or {}).items()]
    lines += [['needed', _size(memory['needed'])], ['available', _size(memory['available'])]]
    told = (
        f'Compiled in {result["seconds"]:.0f} s' if memory['parts'] else f'The compiler gave up after {result["seconds"]:.0f} s'
    )
    text = f'## Memory of a chip\n\n{told}. The step {_fits(memory)}.\n\n{table(["", "a chip"], lines)}'
    if 'H100' in result['chip']:
        text += '\n\nAvailable is three quarters of the memory, which JAX takes; `XLA_PYTHON_CLIENT_MEM_FRACTION` changes that.'
    return text


def _collectives(result: Mapping[str, Any]) -> str:
    lines = [
        [kind, _count(found['number']), _count(found['asynchronous']), _size(found['bytes'])]
        for kind, found in result['collectives'].items()
    ]
    text = '## Collectives of a step\n\n'
    if not lines:
        return f'{text}None.'
    return (
        f'{text}{table(["kind", "number", "asynchronous", "bytes"], lines)}\n\nThe longest chain in which each needs the one '
        f'before has {result["dependent_collectives"]}; the step waits {result["waits"]} times.'
    )


def _by_part(cycles: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Part -> (forward, backward), the largest first."""
    parts = dict.fromkeys(name.removesuffix(_BACKWARD) for name in cycles)
    found = {name: (cycles.get(name, 0), cycles.get(f'{name}{_BACKWARD}', 0)) for name in parts}
    return dict(sorted(found.items(), key=lambda entry: -sum(entry[1])))


def _cycles(result: Mapping[str, Any]) -> str:
    total = sum(result['cycles'].values())
    to_ms = 1e3 / result['clock']
    lines = [
        [name, _count(ahead + back), _ms(ahead * to_ms), _ms(back * to_ms), f'{100 * (ahead + back) / total:.1f} %']
        for name, (ahead, back) in _by_part(result['cycles']).items()
    ]
    lines.append(['all', _count(total), '', _ms(total * to_ms), '100.0 %'])
    return (
        "## The compiler's estimate\n\n"
        f'{table(["part", "cycles", "forward", "backward", "share"], lines)}\n\n'
        f'At {result["clock"] / 1e9:.2f} GHz. Collectives and asynchronous copies have no estimate. A fusion of several parts '
        'counts for the one that the compiler names.'
    )


def _roofline(result: Mapping[str, Any]) -> str:
    roof = result['roofline']
    lines = [
        ['arithmetic', f'{roof["flops"] / 1e9:,.1f} GFLOP', f'{roof["peak"] / 1e12:,.0f} TFLOP/s', _ms(roof['compute_ms'])],
        ['memory', f'{roof["bytes"] / 1e6:,.1f} MB', f'{roof["bandwidth"] / 1e9:,.0f} GB/s', _ms(roof['memory_ms'])],
    ]
    text = f'## Roofline of a chip\n\n{table(["", "a step", "peak", "at least"], lines)}'
    if result['estimate_of'] == 'compiler':
        share = 100 * roof['compute_ms'] / result['compute_ms']
        return f'{text}\n\nBy the estimate, the step reaches {share:.1f} % of the peak.'
    return f'{text}\n\nThe compiler for GPUs has no estimate of its own: what follows is the roofline, which no program reaches.'


def _scaling(result: Mapping[str, Any]) -> str:
    header = ['chips', 'step', 'of this, communication', 'frames/s a chip', 'frames/s', 'efficiency']
    here = [] if result['here']['chips'] in [row['chips'] for row in result['scaling']] else [result['here']]
    lines = [
        [
            str(row['chips']),
            _ms(row['step_ms']),
            _ms(row['communication_ms']),
            _count(row['frames_per_s_per_chip']),
            _count(row['frames_per_s']),
            f'{100 * row["efficiency"]:.0f} %',
        ]
        for row in [*here, *result['scaling']]
    ]
    what = "the compiler's estimate" if result['estimate_of'] == 'compiler' else 'the roofline'
    bound = '' if result['estimate_of'] == 'compiler' else ' Both the speed and the share of communication are upper bounds.'
    return (
        f'## Prediction: the same batch per chip on more chips\n\n{table(header, lines)}\n\n'
        f'The step is {what} and the communication, one after the other. Communication is the latency of an all-reduce of very '
        f'little for each of the {result["waits"]} waits, and all bytes at the full bandwidth of all links, as if the program '
        f'were the one compiled for {result["chips"]} chips. Reading the data, evaluations and checkpoints are not in it.{bound}'
    )


def _largest(result: Mapping[str, Any]) -> str:
    return (
        f'## Largest batch per chip\n\n{_largest_of([result])}\n\n'
        'Extrapolated: memory is taken to grow by the same number of bytes for every clip.'
    )


def _largest_of(results: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for result in results:
        for setting, found in result['largest'].items():
            verified = found['verified']
            checked = '' if verified is None else 'yes' if verified['fits'] else f'no: {_size(verified["needed"])} needed'
            compiled = ', '.join(map(str, found['compiled'])) or 'none that fits'
            lines.append([f'{result["topology"]}, {setting}', _count(found['batch_per_chip']), compiled, checked])
    return table(['', 'clips a chip', 'compiled', 'verified'], lines)


def _overview(results: Sequence[Mapping[str, Any]]) -> str:
    header = [
        '',
        'clips a chip',
        'memory',
        'of',
        'collectives',
        'waits',
        'step',
        'frames/s a chip',
        'share of peak',
    ]
    lines = []
    for result in results:
        memory = result['memory']
        line = [_name(result), str(result['batch_per_chip']), _size(memory['needed']), _size(memory['available'])]
        if not memory['fits']:
            lines.append([*line, '', '', _fits(memory), '', ''])
            continue
        here, number = result['here'], sum(found['number'] for found in result['collectives'].values())
        share = 100 * result['roofline']['compute_ms'] / here['step_ms']
        roof = result['estimate_of'] == 'roofline'
        lines.append(
            [
                *line,
                _count(number),
                _count(result['waits']),
                f'{"> " if roof else ""}{_ms(here["step_ms"])}',
                f'{"< " if roof else ""}{_count(here["frames_per_s_per_chip"])}',
                f'{"< " if roof else ""}{share:.1f} %',
            ]
        )
    return table(header, lines)


def _name(result: Mapping[str, Any]) -> str:
    extra = [f'BatchNorm {result["batch_norm"]}'] if result['batch_norm'] != 'global' else []
    extra += ['remat'] if result['remat'] else []
    return ', '.join([result['topology'], *extra])


def _scaling_of(results: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for result in results:
        bound = result['estimate_of'] == 'roofline'
        cells = [_count(row['frames_per_s_per_chip']) for row in result['scaling']]
        shares = ['' if bound else f' ({100 * row["efficiency"]:.0f} %)' for row in result['scaling']]
        lines.append(
            [
                _name(result),
                str(result['batch_per_chip']),
                *(f'{"< " if bound else ""}{cell}{share}' for cell, share in zip(cells, shares, strict=True)),
            ]
        )
    return table(['compiled for', 'clips a chip', *(f'{row["chips"]} chips' for row in results[0]['scaling'])], lines)


def _fewest_chips(results: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of each kind of chip, batch and setting one result: the estimates hardly depend on the number of chips."""
    found: dict[tuple[Any, ...], Mapping[str, Any]] = {}
    for result in results:  # ordered by chips
        found.setdefault(tuple(result[key] for key in ('chip', 'batch_per_chip', 'batch_norm', 'remat')), result)
    return [*found.values()]


def _parts_of(results: Sequence[Mapping[str, Any]]) -> str:
    parts: dict[str, None] = {}
    for result in results:
        parts |= dict.fromkeys(_by_part(result['cycles']))
    lines = []
    for name in parts:
        found = [1e3 / result['clock'] * sum(_by_part(result['cycles']).get(name, (0, 0))) for result in results]
        lines.append([name, *(f'{milliseconds:.2f}' for milliseconds in found)])
    lines.append(['all', *(f'{result["compute_ms"]:.2f}' for result in results)])
    return table(['', *(f'{_name(result)}, {result["batch_per_chip"]} clips' for result in results)], lines)
