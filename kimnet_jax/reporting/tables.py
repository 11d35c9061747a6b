"""Results as the paper's tables: Markdown that is aligned as plain text, and the same numbers as JSON."""

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kimnet_jax.core import paths
from kimnet_jax.core.files import drafts_in
from kimnet_jax.metrics import MEAN, NORMALISERS, PoseMetrics, contrast
from kimnet_jax.reporting import paper

RANDOM, MEAN_POSE = 'random', 'mean pose'  # the rows that every table carries
_LONGEST_NAME = 120  # of a file
SATURATED = 0.9  # a column in which random predictions score this much says nothing
_HEADINGS = {
    'torso': 'Torso length (left shoulder to right hip)',
    'person': 'Person size (longer side of the box)',
}
_SHORT = {'Shoulder': 'Sho', 'Elbow': 'Elb', 'Wrist': 'Wri', 'Ankle': 'Ank'}
_THRESHOLDS = ('0.2', '0.05', 'AUC', '0.1')
SMOOTHNESS = {'acceleration': 'Acceleration error (px)', 'jitter': 'Jitter (px)'}


class Row(NamedTuple):
    """One row of the tables: `PoseMetrics.compute()` and, where there is one, `PoseMetrics.bootstrap()`."""

    values: Mapping[str, Any]
    intervals: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, metrics: PoseMetrics, samples: int = 1000, seed: int = 0) -> 'Row':
        """The row of some metrics, with 95 % intervals by bootstrap over clips."""
        return cls(metrics.compute(), metrics.bootstrap(samples, seed))

    @classmethod
    def difference(cls, metrics: PoseMetrics, other: PoseMetrics) -> 'Row':
        """The first minus the second, over the same clips in each draw of the bootstrap."""
        return cls(*contrast([(1.0, metrics), (-1.0, other)]))


def report(
    title: str,
    rows: Mapping[str, Row],
    *,
    dataset: str | None = None,
    notes: Sequence[str] = (),
    differences: Mapping[str, Row] | None = None,
) -> dict[str, Any]:
    """The results as one dict of plain values, ready for JSON (None where nothing was counted).

    Args:
        title: heading; says what was evaluated.
        rows: name -> row, in the order of the tables; `RANDOM` and `MEAN_POSE` must be among them.
        dataset: name of the data set; one in `paper.KIMNET` gets the paper's row beneath.
        notes: sentences under the heading.
        differences: name -> paired difference of two rows (`Row.difference`), beneath the rows.

    Raises:
        ValueError: a reference row is missing, or the rows are not over the same clips and frames.
    """
    missing = [name for name in (RANDOM, MEAN_POSE) if name not in rows]
    if missing:
        raise ValueError(f'no row {missing[0]!r} among {list(rows)}: without it the numbers cannot be judged')
    sizes = {name: (row.values['clips'], row.values['frames']) for name, row in rows.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f'rows over different (clips, frames) do not compare: {sizes}')
    published = {}
    for key, numbers in paper.KIMNET.get(dataset or '', {}).items():
        published[key] = {
            'KIMNet': dict(zip(paper.COLUMNS, numbers, strict=True)),
            'peers': paper.PEERS[dataset or ''][key],
            'source': paper.SOURCE,
        }
    return {
        'title': title,
        'notes': list(notes),
        'dataset': dataset,
        'rows': _plain_rows(rows),
        'differences': _plain_rows(differences or {}),
        'saturated': {key: _saturated(rows[RANDOM].values[key]) for key in NORMALISERS},
        'paper': published,
    }


def render(report: Mapping[str, Any]) -> str:
    """The tables of a report as Markdown, aligned; shares in percent, [95 % interval] beside them."""
    rows: Mapping[str, Any] = report['rows']
    differences: Mapping[str, Any] = report['differences']
    blocks = [f'# {report["title"]}', *report['notes'], _clips(rows)]
    for key in NORMALISERS:
        if _undefined(rows, key):
            blocks.append(f'No PCK by {key} length: it is defined in none of the frames.')
            continue
        blocks += [
            f'## {_HEADINGS[key]}',
            _threshold_table(rows, differences, key),
            _joint_table(rows, key, report['paper'].get(key)),
        ]
        if key in report['paper']:
            peers = ', '.join(f'{name} {value:.1f}' for name, value in report['paper'][key]['peers'].items())
            blocks.append(f'mPCK@0.2 of others, as printed in {report["paper"][key]["source"]}: {peers}.')
        if report['saturated'][key]:
            blocks.append(_warning(report['saturated'][key]))
        blocks += _skipped(rows, key)
    blocks += ['## Smoothness', _smoothness_table(rows, differences)]
    return '\n\n'.join(blocks) + '\n'


def write_report(
    folder: str | os.PathLike[str], name: str, report: Mapping[str, Any], as_text: Callable[[Mapping[str, Any]], str] = render
) -> tuple[pathlib.Path, pathlib.Path]:
    """Writes `<name>.md` (`as_text` of the report) and `<name>.json` into the folder, which is made.

    Both are complete before either gets its name. A name too long for a file, of a split of many slices, is cut, with a digest.

    Returns:
        The two paths.

    Raises:
        InputError: the folder is a file, or a folder is in the place of one of the files.
    """
    folder = paths.folder(folder)
    name = short_name(name)
    texts = {'.md': as_text(report), '.json': json.dumps(report, indent=2, allow_nan=False) + '\n'}
    with drafts_in(folder) as drafts:
        for suffix, text in texts.items():
            (drafts / f'{name}{suffix}').write_text(text, encoding='utf-8')
    return folder / f'{name}.md', folder / f'{name}.json'


def short_name(name: str) -> str:
    """The name, or, where it is too long for a file, its beginning with a digest."""
    if len(name) <= _LONGEST_NAME:
        return name
    return f'{name[: _LONGEST_NAME - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}'


def _threshold_table(rows: Mapping[str, Any], differences: Mapping[str, Any], key: str) -> str:
    def cells(row: Mapping[str, Any], form: str) -> list[str]:
        def pick(part: Mapping[str, Any] | None, name: str) -> Any:
            if part is None:
                return None
            return part[key]['auc'][MEAN] if name == 'AUC' else part[key]['pck'][name][MEAN]

        return [percent(pick(row['values'], name), pick(row['intervals'], name), form) for name in _THRESHOLDS]

    header = [name if name == 'AUC' else f'{MEAN}@{name}' for name in _THRESHOLDS]
    lines = [[name, *cells(row, form)] for part, form in ((rows, '.1f'), (differences, '+.1f')) for name, row in part.items()]
    return table(['', *header], lines)


def _joint_table(rows: Mapping[str, Any], key: str, published: Mapping[str, Any] | None) -> str:
    shares = {name: row['values'][key]['pck']['0.2'] for name, row in rows.items()}
    columns = list(next(iter(shares.values())))
    lines = [[name, *(percent(share[column]) for column in columns)] for name, share in shares.items()]
    if published:
        lines.append(['KIMNet (paper)', *(f'{published["KIMNet"][column]:.1f}' for column in columns)])
    return table(['PCK@0.2', *(_SHORT.get(column, column) for column in columns)], lines)


def _smoothness_table(rows: Mapping[str, Any], differences: Mapping[str, Any]) -> str:
    def cells(row: Mapping[str, Any], form: str) -> list[str]:
        return [
            number(row['values'][key]['mean'], row['intervals'] and row['intervals'][key]['mean'], form) for key in SMOOTHNESS
        ]

    lines = [[name, *cells(row, form)] for part, form in ((rows, '.2f'), (differences, '+.2f')) for name, row in part.items()]
    return table(['', *SMOOTHNESS.values()], lines)


def _clips(rows: Mapping[str, Any]) -> str:
    values = next(iter(rows.values()))['values']
    text = f'{values["clips"]} clips, {values["frames"]} frames. PCK in percent; '
    text += 'in brackets 95 % intervals by bootstrap over clips.'
    for name, row in rows.items():
        if row['values']['missing']:
            text += f' {name}: {row["values"]["missing"]} predictions are not finite: misses, and left out of smoothness.'
    return text


def _undefined(rows: Mapping[str, Any], key: str) -> bool:
    values = next(iter(rows.values()))['values']
    return 0 < values['frames'] == values['skipped'][key]


def _skipped(rows: Mapping[str, Any], key: str) -> list[str]:
    values = next(iter(rows.values()))['values']
    skipped, frames = values['skipped'][key], values['frames']
    return [f'Left out: {skipped} of {frames} frames, whose {key} length is not defined.'] if skipped else []


def _saturated(values: Mapping[str, Any]) -> list[str]:
    shares = {f'{column}@0.2': share for column, share in values['pck']['0.2'].items()}
    shares |= {f'{MEAN}@{alpha}': values['pck'][alpha][MEAN] for alpha in ('0.05', '0.1')} | {'AUC': values['auc'][MEAN]}
    return [column for column, share in shares.items() if share >= SATURATED]


def _warning(columns: Sequence[str]) -> str:
    what = 'this column cannot' if len(columns) == 1 else 'these columns cannot'
    return f'**Random predictions score {SATURATED:.0%} or more in {", ".join(columns)}: {what} tell models apart.**'


def percent(share: float | None, interval: Sequence[float] | None = None, form: str = '.1f') -> str:
    """A share of 1 and its interval as a cell."""
    return number(
        None if share is None else 100 * share,
        None if interval is None or None in interval else [100 * end for end in interval],
        form,
    )


def number(value: float | None, interval: Sequence[float] | None, form: str) -> str:
    """A number and its interval as a cell; `-` for none."""
    if value is None:
        return '-'
    if interval is None or None in interval:
        return f'{value:{form}}'
    return f'{value:{form}} [{interval[0]:{form}}, {interval[1]:{form}}]'


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    widths = [max(3, *(len(line[i]) for line in (header, *lines))) for i in range(len(header))]
    rule = ['-' * widths[0], *('-' * (width - 1) + ':' for width in widths[1:])]

    def joined(line: Sequence[str]) -> str:
        numbers = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        return f'| {" | ".join([line[0].ljust(widths[0]), *numbers])} |'

    return '\n'.join(joined(line) for line in (header, rule, *lines))


def _plain_rows(rows: Mapping[str, Row]) -> dict[str, Any]:
    return {name: {'values': _plain(row.values), 'intervals': _plain(row.intervals)} for name, row in rows.items()}


def _plain(value: Any) -> Any:
    """Nested values without NaN, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
