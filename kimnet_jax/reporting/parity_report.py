"""Comparisons with PyTorch (`interop.parity.compare`) as Markdown, JSON and plots, and the table of all of them."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import drafts_in, make_folder, write_text
from kimnet_jax.reporting.tables import table

BEGIN, END = '<!-- begin: written by python -m kimnet_jax.parity --all -->', '<!-- end -->'
_SHOWN_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_WORST = 10  # rows of the tables of gradients and statistics


def render(result: Mapping[str, Any]) -> str:
    """The report of one network."""
    title = f'# Parity of {result["model"]} ({result["preset"]}) in {result["dtype"]}'
    versions = ', '.join(f'{name} {version}' for name, version in result['versions'].items())
    shapes = ', '.join(map(str, result['inputs']))
    blocks = [title, f'Weights: {result["weights"]}. Inputs {shapes}. {versions}, {result["device"]}.', verdict(result)]
    blocks += ['## What was compared', _checks(result['checks'])]
    blocks += [
        '## Modules in the order of execution',
        'Relative errors against PyTorch in float64: of the output and the input in the network, of the output given '
        "PyTorch's input, of a normalisation in train mode given a small input; and PyTorch's own in this precision. "
        'Of several calls the worst is shown.',
        _modules(result['modules']),
    ]
    for heading, key in (('Gradients', 'gradients'), ('BatchNorm statistics', 'statistics')):
        if result[key]:
            worst = sorted(result[key], key=lambda entry: -entry['error'])[:_WORST]
            blocks += [f'## {heading}', _shown(len(worst), len(result[key])), _arrays(worst)]
    if result['trajectory']:
        blocks += [
            '## Training',
            'Loss after so many steps of Adam on one batch, and the distance of the parameters from those of PyTorch in float64 '
            'as a share of the way these have gone. Rounding errors grow with every step on either side.',
            _trajectory(result['trajectory']),
        ]
    return '\n\n'.join(blocks) + '\n'


def verdict(result: Mapping[str, Any]) -> str:
    """One sentence that says it all; more where something is wrong."""
    if result['passed']:
        return 'The same as PyTorch within the tolerances.'
    sentences = ['**Outside the tolerances.**']
    first = result['first']
    if first:
        call = f', call {first["call"]}' if first['call'] else ''
        error = 'not comparable' if first['error'] is None else f'{first["error"]:.1e}'
        name = f'`{first["module"]}` (ours: `{first["path"]}`{call})' if first['module'] else 'the network as a whole'
        sentences.append(f'First: {name}: {first["where"]} ({error}, allowed {first["tolerance"]:.1e}).')
        if first['trap']:
            sentences.append(f'**{first["trap"]}**: {first["finding"]}. What to do: {first["advice"]}.')
        else:
            sentences.append('None of the known traps gives these numbers.')
    elif result['first_gradient']:
        sentences.append(
            f'Every module agrees; the first gradient that is off in the backward pass is that of `{result["first_gradient"]}`: '
            'look for a gradient that is stated by hand there or after it'
            + ('.' if result['dtype'] == 'float32' else ', or for a sum that is taken in bfloat16.')
        )
    return ' '.join(sentences)


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """One row for each network and precision."""
    names = {
        'modules': 'module',
        'normalisations in train mode': 'norm',
        'forward': 'forward',
        'loss': 'loss',
        'gradients': 'gradients',
        'BatchNorm statistics': 'statistics',
    }
    lines = []
    for result in results:
        checks = {check['name'].partition(',')[0]: check for check in result['checks']}
        cells = [_cell(checks.get(name)) for name in names]
        last = result['checks'][-1]
        steps = len(result['trajectory']['loss']) if result['trajectory'] else 0
        cells += [f'{_cell(last)} ({steps})' if steps > 1 else '-']
        cells += [first['trap'] or 'no known trap' if (first := result['first']) else 'yes' if result['passed'] else 'no']
        lines.append([f'{result["model"]} ({result["preset"]})', result['dtype'], *cells])
    return table(['network', 'precision', *names.values(), 'trajectory (steps)', 'within tolerance'], lines)


def write(folder: str | os.PathLike[str], name: str, result: Mapping[str, Any]) -> list[pathlib.Path]:
    """Writes `<name>.md`, `.json` and `.png` into the folder, which is made. Raises `InputError` where the folder is a file."""
    folder = pathlib.Path(folder).expanduser()
    with drafts_in(folder) as drafts:
        (drafts / f'{name}.md').write_text(render(result), encoding='utf-8')
        (drafts / f'{name}.json').write_text(json.dumps(_plain(result), indent=1, allow_nan=False) + '\n', encoding='utf-8')
        _plot(result, drafts / f'{name}.png')
    return [folder / f'{name}{suffix}' for suffix in ('.md', '.json', '.png')]


def write_summary(folder: str | os.PathLike[str], results: Sequence[Mapping[str, Any]]) -> list[pathlib.Path]:
    """Puts the table between the markers of `parity.md`, which is made where it is not there, and the numbers into `parity.json`.

    Raises `InputError` where the page has no markers, or the folder is a file.
    """
    folder = pathlib.Path(folder).expanduser()
    make_folder(folder)
    page, numbers = folder / 'parity.md', folder / 'parity.json'
    text = page.read_text(encoding='utf-8') if page.exists() else f'# Parity\n\n{BEGIN}\n{END}\n'
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise InputError(f'{page}: the table goes between the lines {BEGIN!r} and {END!r}, which are not both there')
    versions = ', '.join(f'{name} {version}' for name, version in results[0]['versions'].items())
    block = f'\n{versions}, {results[0]["device"]}.\n\n{summary(results)}\n'
    write_text(page, f'{before}{BEGIN}{block}{END}{after}')
    kept = ('model', 'preset', 'dtype', 'config', 'inputs', 'device', 'versions', 'learning_rate', 'checks', 'first', 'passed')
    plain = [{key: _plain(result[key]) for key in kept} for result in results]
    write_text(numbers, json.dumps(plain, indent=1, allow_nan=False) + '\n')
    return [page, numbers]


def _checks(checks: Sequence[Mapping[str, Any]]) -> str:
    header = ['', 'error', "PyTorch's own", 'allowed', '']
    return table(
        header,
        [
            [check['name'], *(_number(check[key]) for key in ('error', 'torch_error', 'tolerance')), _word(check['passed'])]
            for check in checks
        ],
    )


def _modules(rows: Sequence[Mapping[str, Any]]) -> str:
    called: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        called.setdefault((row['module'], row['path']), []).append(row)
    lines = []
    for (module, path), calls in called.items():
        worst = max(calls, key=lambda row: row['error'] / row['tolerance'])  # not finite where shapes differ
        errors = [worst[key] for key in ('error', 'input_error', 'own_error', 'norm_error', 'torch_error')]
        same = ('=' if path == module else path) + ' (cut elsewhere)' * worst['cut_elsewhere']
        count = str(len(calls)) + (f' (#{worst["call"]})' if len(calls) > 1 else '')
        lines.append([module or '(all)', same if module else '', count, *map(_number, errors)])
    return table(['PyTorch', 'ours', 'calls', 'output', 'input', 'own', 'norm', "PyTorch's own"], lines)


def _arrays(errors: Sequence[Mapping[str, Any]]) -> str:
    lines = [[entry['name'], _number(entry['error']), _number(entry['torch_error'])] for entry in errors]
    return table(['', 'error', "PyTorch's own"], lines)


def _trajectory(path: Mapping[str, Sequence[float]]) -> str:
    steps = len(path['loss'])
    shown = sorted({step for step in _SHOWN_STEPS if step <= steps} | {steps})
    lines = []
    for step in shown:
        losses = [f'{path[key][step - 1]:.6f}' for key in ('loss', 'torch_loss', 'exact_loss')]
        lines.append([str(step), *losses, *(_number(path[key][step - 1]) for key in ('distance', 'torch_distance'))])
    return table(['step', 'loss', 'PyTorch', 'PyTorch float64', 'distance', "PyTorch's own"], lines)


def _plot(result: Mapping[str, Any], file: pathlib.Path) -> None:
    from matplotlib.figure import Figure

    path = result['trajectory']
    if path and len(path['loss']) == 1:  # no line
        path = None
    figure = Figure(figsize=(12, 9 if path else 4.5), layout='constrained')
    axes = figure.subplots(3 if path else 1, 1, squeeze=False)[:, 0]
    rows, calls = result['modules'], range(len(result['modules']))
    axes[0].set_title(f'{result["model"]} ({result["preset"]}) in {result["dtype"]}: error against PyTorch in float64')
    for key, label, style in (
        ('error', 'ours', 'C0-'),
        ('torch_error', "PyTorch's own", 'C1-'),
        ('own_error', "ours, given PyTorch's input", 'C2.'),
        ('tolerance', 'allowed', 'k:'),
    ):
        axes[0].semilogy(calls, [row[key] or float('nan') for row in rows], style, label=label, linewidth=1, markersize=3)
    every = max(1, len(rows) // 60)
    axes[0].set_xticks(calls[::every], [row['module'] or '(all)' for row in rows][::every], rotation=90, fontsize=5)
    if path:
        steps = range(1, len(path['loss']) + 1)
        for key, label, style in (('loss', 'ours', 'C0-'), ('torch_loss', 'PyTorch', 'C1--'), ('exact_loss', 'float64', 'k:')):
            axes[1].plot(steps, path[key], style, label=label)
        axes[1].set_ylabel('loss')
        for key, label, style in (('distance', 'ours', 'C0-'), ('torch_distance', "PyTorch's own", 'C1-')):
            axes[2].semilogy(steps, [value or float('nan') for value in path[key]], style, label=label)
        axes[2].set_ylabel('distance from float64')
        axes[2].set_xlabel('step')
    for plot in axes:
        plot.legend(fontsize=7)
        plot.grid(alpha=0.3)
    figure.savefig(file, dpi=120)


def _shown(count: int, total: int) -> str:
    return f'The worst {count} of {total}.' if count < total else 'All of them.'


def _cell(check: Mapping[str, Any] | None) -> str:
    if check is None:
        return '-'
    own = '' if check['torch_error'] is None else f' / {_number(check["torch_error"])}'
    mark = '' if check['passed'] else ' (!)'
    return f'{_number(check["error"])}{own}{mark}'


def _number(value: float | None) -> str:
    return '-' if value is None else f'{value:.1e}'


def _word(passed: bool) -> str:
    return 'ok' if passed else 'NO'


def _plain(value: Any) -> Any:
    """Without infinities and NaN, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not abs(value) < float('inf') else value
