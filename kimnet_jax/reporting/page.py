"""A report on runs as one HTML page that needs no other file and no network (docs/report.md)."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import markupsafe
import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.metrics import ALPHA, MEAN, NORMALISERS, REPORTED
from kimnet_jax.reporting import plots
from kimnet_jax.reporting.calibration import HEADINGS
from kimnet_jax.reporting.smoothing import SPATIAL_COLUMNS
from kimnet_jax.reporting.tables import MEAN_POSE, RANDOM, SMOOTHNESS, number, percent

_BY = {'torso': 'By torso length', 'person': 'By person size'}
_TRAINING = {  # key of a record -> title; those that a run has
    'loss': 'Loss',
    'pck': f'PCK@{ALPHA} of training batches (%)',
    'learning_rate': 'Learning rate',
    'gradient_norm': 'Norm of the gradient',
    'frames_per_second': 'Frames per second',
}
_LOG = ('loss', 'gradient_norm')
_PERCENT = ('pck',)
_DATA_FREE = ('learning_rate', 'gradient_norm', 'frames_per_second')  # the same thing on any data
_EVALUATED = {  # key of a record -> title, factor
    f'torso/pck/{ALPHA}/{MEAN}': (f'mPCK@{ALPHA} of evaluations (%)', 100),
    'mpjpe': ('MPJPE of evaluations', 1),
}


class Clip(NamedTuple):
    """A clip with predicted and true joints drawn on.

    Attributes:
        name: of the clip.
        action: what is done in it, '' where the data set does not say.
        share: PCK@0.2 by torso length.
        error: mean error of the joints that were found, torso lengths.
        image: JPEG of a few frames.
    """

    name: str
    action: str
    share: float
    error: float
    image: bytes


class Correlation(NamedTuple):
    """Mean W_r of an action.

    Attributes:
        mean: [J, J]; row j holds the weights of the joints of the earlier frame in joint j of the later one.
        steps: that the mean is of.
        clips: that these are from.
    """

    mean: np.ndarray
    steps: int
    clips: int


class Measured(NamedTuple):
    """What was measured clip by clip.

    Attributes:
        actions: action -> (clips, PCK@0.2 by torso length, its 95 % interval), shares of 1.
        errors: [N] of all visible joints, torso lengths.
        worst, best: clips.
        correlation: by action; {} where the network has no KMM.
        joints: names, of the axes of `correlation`.
    """

    actions: Mapping[str, tuple[int, float | None, Sequence[float | None]]]
    errors: np.ndarray
    worst: Sequence[Clip]
    best: Sequence[Clip]
    correlation: Mapping[str, Correlation]
    joints: Sequence[str]


class Run(NamedTuple):
    """A run, as the page shows it.

    Attributes:
        name: what the page calls it.
        facts: heading -> text, of the first table.
        data: what it is trained on; runs on the same are compared.
        config: as in its `config.json`.
        records: of its `metrics.jsonl`.
        evaluation: what `evaluate` wrote; None where there is nothing.
        measured: on its clips; None where there are no predictions of them.
        notes: sentences on what the page lacks, and how to get it.
    """

    name: str
    facts: Mapping[str, str]
    data: str
    config: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    evaluation: Mapping[str, Any] | None = None
    measured: Measured | None = None
    notes: Sequence[str] = ()

    @property
    def clips(self) -> tuple[Any, ...] | None:
        """What its evaluation is of: evaluations of the same are compared."""
        if self.evaluation is None:
            return None
        values = _values(next(iter(self.evaluation['rows'].values())))
        return self.data, self.evaluation['title'], values['clips'], values['frames'], 'torso' in values


class Cell(NamedTuple):
    """Attributes:
    text: of a cell.
    note: smaller, below.
    """

    text: str
    note: str = ''


class Line(NamedTuple):
    """A row of a table.

    Attributes:
        name: its first cell.
        cells: the others.
        run: place of the run in the page; None of a row that is not one.
    """

    name: str
    cells: Sequence[Cell]
    run: int | None = None


class Table(NamedTuple):
    """Attributes:
    title: above it.
    header: of all columns but the first.
    lines: its rows.
    runs: places of the runs in the page whose columns these are; () where they are of something else.
    """

    title: str
    header: Sequence[str]
    lines: Sequence[Line]
    runs: Sequence[int] = ()


class Block(NamedTuple):
    """What stands under a heading, in this order.

    Attributes:
        title: the heading.
        texts: paragraphs.
        plot: SVG; '' for none.
        tables: beneath.
        clips: heading -> clips.
        key: whether to say above the plot which colour is which run's.
    """

    title: str
    texts: Sequence[str] = ()
    plot: str = ''
    tables: Sequence[Table] = ()
    clips: Mapping[str, Sequence[Clip]] = {}
    key: bool = False


def render(runs: Sequence[Run], version: str) -> str:
    """The page, HTML; the same runs give the same text.

    Args:
        runs: in the order of the page.
        version: of this package.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader('kimnet_jax.reporting'),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {'code': _code, 'percent': percent, 'jpeg': lambda image: plots.data_uri(image, 'jpeg')}
    groups = [*_groups(runs, lambda run: run.data)]
    return environment.get_template('report.html.j2').render(
        title=', '.join(run.name for run in runs),
        runs=runs,
        colours=[plots.COLOURS[i % len(plots.COLOURS)] for i in range(len(runs))],
        facts=_facts(runs),
        differences=_differences(runs),
        configs=[json.dumps(run.config, indent=2) for run in runs],
        groups={data: [runs[i].name for i in members] for data, members in groups},
        blocks=[*_training(runs, groups), *_evaluations(runs), *_details(runs)],
        version=version,
    )


def _code(text: str) -> markupsafe.Markup:
    """A sentence in which what stands between backticks becomes code, as in Markdown."""
    parts = [markupsafe.escape(part) for part in text.split('`')]
    marked = [part if i % 2 == 0 or i == len(parts) - 1 else f'<code>{part}</code>' for i, part in enumerate(parts)]
    return markupsafe.Markup(''.join(marked))


def _groups(runs: Sequence[Run], key: Callable[[Run], Any]) -> Iterator[tuple[Any, list[int]]]:
    """Places of the runs that share a key, by it; those without one (None) are left out."""
    found: dict[Any, list[int]] = {}
    for i, run in enumerate(runs):
        if key(run) is not None:
            found.setdefault(key(run), []).append(i)
    yield from found.items()


def _facts(runs: Sequence[Run]) -> Table:
    headings = dict.fromkeys(heading for run in runs for heading in run.facts)
    lines = [Line(heading, [Cell(run.facts.get(heading, '-')) for run in runs]) for heading in headings]
    return Table('', [run.name for run in runs], lines, range(len(runs)))


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, str]:
    """The fields of a config, `section.field` -> its value as JSON."""
    found: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= flatten(value, f'{prefix}{key}.')
        else:
            found[f'{prefix}{key}'] = json.dumps(value)
    return found


def _differences(runs: Sequence[Run]) -> Table | None:
    """The fields in which the configs differ; None of a single run."""
    if len(runs) == 1:
        return None
    fields = [flatten(run.config) for run in runs]
    names = sorted(dict.fromkeys(name for one in fields for name in one))
    lines = [
        Line(name, [Cell(one.get(name, '-')) for one in fields]) for name in names if len({one.get(name) for one in fields}) > 1
    ]
    return Table(f'Settings that differ: {len(lines)}', [run.name for run in runs], lines, range(len(runs)))


def _series(runs: Sequence[Run], members: Sequence[int], kind: str, key: str, scale: float) -> dict[int, Any]:
    found = {}
    for i in members:
        records = [record for record in runs[i].records if record['kind'] == kind and record.get(key) is not None]
        if records:
            found[i] = [record['step'] for record in records], [scale * record[key] for record in records]
    return found


def _training(runs: Sequence[Run], groups: Sequence[tuple[str, list[int]]]) -> Iterator[Block]:
    """Curves: of losses and accuracies for each group of runs on the same data, of the rest for all runs together."""

    def shown(members: Sequence[int], keys: Sequence[str]) -> list[plots.Curve]:
        found = [
            plots.Curve(_TRAINING[key], _series(runs, members, 'train', key, 100 if key in _PERCENT else 1), key in _LOG)
            for key in keys
        ]
        return [curve for curve in found if curve.series]

    together = len(groups) == 1
    for data, members in groups:
        keys = [key for key in _TRAINING if together or key not in _DATA_FREE]
        curves = shown(members, keys)
        evaluated = [
            plots.Curve(title, _series(runs, members, 'eval', key, factor), dots=True)
            for key, (title, factor) in _EVALUATED.items()
        ]
        curves = curves[:1] + [curve for curve in evaluated if curve.series] + curves[1:]
        if curves:
            yield Block('Training' + ('' if together else f' on {data}'), plot=plots.curves(curves), key=True)
    if not together and (curves := shown(range(len(runs)), _DATA_FREE)):
        yield Block('Optimizer and speed', plot=plots.curves(curves), key=True)


def _values(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return row.get('values', row)  # of poses in 3D the row is its values


class _Row(NamedTuple):
    name: str
    row: Mapping[str, Any]
    run: int | None


def _evaluations(runs: Sequence[Run]) -> Iterator[Block]:
    groups = [*_groups(runs, lambda run: run.clips)]
    for (_, title, clips, frames, plane), members in groups:
        where = '' if len(groups) == 1 else f' on {title}'
        rows = [*_rows(runs, members)]
        notes = {i: ' '.join(runs[i].evaluation['notes']) for i in members}  # type: ignore[index]
        alike = len(set(notes.values())) == 1
        texts = [f'{title}: {clips} clips, {frames} frames.']
        texts += [note if alike and len(notes) == 1 else f'{runs[i].name}: {note}' for i, note in notes.items() if note]
        if not plane:
            lines = [
                Line(row.name, [Cell(number(row.row[key], None, '.4g')) for key in SPATIAL_COLUMNS], row.run) for row in rows
            ]
            table = Table('In the unit of the poses', [*SPATIAL_COLUMNS.values()], lines)
            yield Block(f'Evaluation{where}', texts, tables=[table])
            continue
        evaluation: Mapping[str, Any] = runs[members[0]].evaluation or {}
        texts.append('PCK in percent, below it the 95 % interval by bootstrap over clips.')
        yield Block(f'Evaluation{where}', texts, _overview(rows, evaluation['paper']), [*_tables(rows, evaluation['paper'])])
        if calibrated := {i: one for i in members if (one := (runs[i].evaluation or {}).get('calibration'))}:
            yield _calibration(runs, calibrated, where)
        yield Block(f'Joint by joint{where}', tables=[_joints(rows, members, runs)])


def _rows(runs: Sequence[Run], members: Sequence[int]) -> Iterator[_Row]:
    """The networks, then the rows beside them; one that is the same in all reports is there once."""
    others: dict[str, list[tuple[int, Mapping[str, Any]]]] = {}
    for i in members:
        evaluation = runs[i].evaluation or {}
        (ours, first), *rest = evaluation['rows'].items()
        yield _Row(f'{runs[i].name}: {ours}', first, i)
        for name, row in rest:
            others.setdefault(name, []).append((i, row))
    last = (MEAN_POSE, RANDOM)
    for name in sorted(others, key=lambda name: last.index(name) if name in last else -1):
        found = others[name]
        if all(row == found[0][1] for _, row in found):
            yield _Row(name, found[0][1], None)
        else:
            yield from (_Row(f'{name} of {runs[i].name}', row, None) for i, row in found)


def _pick(part: Mapping[str, Any] | None, key: str, column: str) -> Any:
    """A value, or an interval, of `mPCK` at a threshold or of its `AUC`."""
    if part is None:
        return None
    return part[key]['auc'][MEAN] if column == 'AUC' else part[key]['pck'][column][MEAN]


def _known(interval: Sequence[float | None] | None) -> tuple[float, float] | None:
    """An interval with two ends; None where one is not known."""
    low, high = interval or (None, None)
    return None if low is None or high is None else (low, high)


def _share(value: float | None, interval: Sequence[float | None] | None = None) -> Cell:
    ends = None if value is None else _known(interval)
    return Cell(percent(value), f'{100 * ends[0]:.1f} to {100 * ends[1]:.1f}' if ends else '')


def _overview(rows: Sequence[_Row], published: Mapping[str, Any]) -> str:
    key = NORMALISERS[0]
    marks = [
        plots.Interval(row.name, value, _known(_pick(row.row['intervals'], key, ALPHA)), row.run)
        for row in rows
        if (value := _pick(row.row['values'], key, ALPHA)) is not None
    ]
    if key in published:
        marks.append(plots.Interval('KIMNet (paper)', published[key]['KIMNet'][MEAN] / 100))
    return plots.intervals(marks, f'mPCK@{ALPHA} by torso length (%)') if marks else ''


def _tables(rows: Sequence[_Row], published: Mapping[str, Any]) -> Iterator[Table]:
    for key in NORMALISERS:
        columns = (*REPORTED, 'AUC')
        lines = [
            Line(
                row.name,
                [_share(*(_pick(row.row[part], key, name) for part in ('values', 'intervals'))) for name in columns],
                row.run,
            )
            for row in rows
        ]
        printed = published.get(key)
        if printed:
            named = {'KIMNet (paper)': printed['KIMNet'][MEAN]} | {
                f'{name} (paper)': one for name, one in printed['peers'].items()
            }
            lines += [Line(name, [Cell(f'{one:.1f}'), *[Cell('-')] * (len(columns) - 1)]) for name, one in named.items()]
        yield Table(_BY[key], [name if name == 'AUC' else f'{MEAN}@{name}' for name in columns], lines)
        parts = [*rows[0].row['values'][key]['pck'][ALPHA]]
        lines = [
            Line(
                row.name,
                [
                    _share(
                        row.row['values'][key]['pck'][ALPHA][part],
                        row.row['intervals'] and row.row['intervals'][key]['pck'][ALPHA][part],
                    )
                    for part in parts
                ],
                row.run,
            )
            for row in rows
        ]
        if printed:
            lines.append(Line('KIMNet (paper)', [Cell(f'{printed["KIMNet"][part]:.1f}') for part in parts]))
        yield Table(f'{_BY[key]}, PCK@{ALPHA} of each part', parts, lines)
    lines = [
        Line(
            row.name,
            [
                Cell(number(row.row['values'][key]['mean'], row.row['intervals'] and row.row['intervals'][key]['mean'], '.2f'))
                for key in SMOOTHNESS
            ],
            row.run,
        )
        for row in rows
    ]
    yield Table('Smoothness', [*SMOOTHNESS.values()], lines)


def _calibration(runs: Sequence[Run], found: Mapping[int, Mapping[str, Any]], where: str) -> Block:
    """How well scores tell whether a joint is right, before and after they are made probabilities."""
    panels = {title: {i: one[key]['bins'] for i, one in found.items()} for key, title in HEADINGS.items()}
    lines = [
        Line(f'{runs[i].name}: {title.lower()}', [Cell(f'{one[key]["ece"]:.3f}'), Cell(f'{one[key]["brier"]:.3f}')], i)
        for i, one in found.items()
        for key, title in HEADINGS.items()
    ]
    texts = [
        f'How often a joint lies within {ALPHA} torso lengths of its true place, by its score. ECE is the mean gap between what '
        'is expected and what is observed, the Brier score a mean squared error; both are best at 0.'
    ]
    for i, one in found.items():
        others = '{clips} other clips of {data}, split {split}'.format(**one['fitted_on'])
        texts.append(f'{runs[i].name}: the probabilities were fitted on {others}.')
    return Block(
        f'Calibration of the scores{where}', texts, plots.reliability(panels), [Table('', ['ECE', 'Brier score'], lines)]
    )


def _joints(rows: Sequence[_Row], members: Sequence[int], runs: Sequence[Run]) -> Table:
    key = NORMALISERS[0]
    ours = [row.row for row in rows if row.run is not None]
    lines = [
        Line(
            joint,
            [
                _share(row['values'][key]['joints'][joint], row['intervals'] and row['intervals'][key]['joints'][joint])
                for row in ours
            ],
        )
        for joint in ours[0]['values'][key]['joints']
    ]
    return Table(f'PCK@{ALPHA} {_BY[key].lower()}', [runs[i].name for i in members], lines, members)


def _details(runs: Sequence[Run]) -> Iterator[Block]:
    """What takes the predictions of the single clips."""
    measured = {i: run.measured for i, run in enumerate(runs) if run.measured is not None}
    groups = [*_groups(runs, lambda run: run.clips if run.measured is not None else None)]
    for (_, title, *_), members in groups:
        where = '' if len(groups) == 1 else f' on {title}'
        of = {i: measured[i] for i in members}
        actions = dict.fromkeys(action for one in of.values() for action in one.actions)
        if len(actions) > 1:
            yield Block(f'Action by action{where}', tables=[_actions(runs, of)])
        yield Block(
            f'Errors{where}',
            ['How far predicted joints lie from the true ones, all visible joints of all frames.'],
            plots.histogram({i: one.errors for i, one in of.items()}, {i: runs[i].name for i in of}),
        )
    for i, one in measured.items():
        name = f': {runs[i].name}' if len(runs) > 1 else ''
        explained = 'White crosses are the true joints; white lines lead from them to the predicted ones. '
        explained += 'Left limbs are orange, right ones blue.'
        yield Block(f'Worst and best clips{name}', [explained], clips={'Worst': one.worst, 'Best': one.best})
        if one.correlation:
            matrices = {f'{action}, {part.steps} steps': part.mean for action, part in one.correlation.items()}
            most = max(part.clips for part in one.correlation.values())
            text = f'W_r of the KMM, averaged over the steps of at most {most} clips of each action. Each row sums to 1.'
            yield Block(f'Temporal correlation{name}', [text], plots.correlations(matrices, one.joints))


def _actions(runs: Sequence[Run], measured: Mapping[int, Measured]) -> Table:
    one = next(iter(measured.values()))
    lines = []
    for action in sorted(one.actions, key=lambda action: (one.actions[action][1] or 0.0, action)):
        clips = one.actions[action][0]  # one says nothing of others: no interval
        cells = [_share(part.actions[action][1], part.actions[action][2] if clips > 1 else None) for part in measured.values()]
        lines.append(Line(f'{action}, {clips} clip{"s" * (clips > 1)}', cells))
    title = f'{MEAN}@{ALPHA} by torso length, the hardest for {runs[next(iter(measured))].name} first'
    return Table(title, [runs[i].name for i in measured], lines, [*measured])


def check_evaluation(evaluation: Any, source: str) -> None:
    """Raises `InputError` naming `source` where a report lacks what the page shows of it."""
    try:
        for block in _evaluations([Run('', {}, '', {}, [], evaluation)]):
            assert block.tables
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError, StopIteration, RuntimeError) as error:
        raise InputError(f'{source}: not a report that evaluate writes ({error!r}); evaluate again') from error
