"""The paper's ablation tables with our numbers beside the printed ones."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from kimnet_jax.reporting import paper, tables

METRIC = 'torso/pck/0.2/mPCK'
Scores = Mapping[str, Mapping[int, float]]  # row -> seed -> mPCK, a share of 1


def comparison(table: str, scores: Scores, *, subject: str, notes: Sequence[str] = ()) -> dict[str, Any]:
    """A table as one dict of plain values, ready for JSON; all numbers in percent.

    Args:
        table: key of `paper.ABLATIONS`.
        scores: of the rows that there are; others may be among them.
        subject: what was trained and evaluated, a sentence.
        notes: sentences under the table.

    Returns:
        For each row `ours` and `gap`, None where no run of it has ended: `mean`, `deviation` (of a sample; None for one seed) and
        the `seeds`. A gap is to the row's reference, over the seeds that both have; the deviation is that of these differences.
    """
    ablation = paper.ABLATIONS[table]
    printed = {row.name: row.mpck for row in ablation.rows}

    def gap_printed(row: paper.AblationRow) -> float | None:
        ours, reference = row.mpck, printed[row.reference] if row.reference else None
        return None if ours is None or reference is None else round(ours - reference, 1)

    def ours(row: str) -> dict[int, float]:
        return {seed: 100 * share for seed, share in scores.get(row, {}).items()}

    def gap(row: paper.AblationRow) -> dict[int, float]:
        reference = ours(row.reference) if row.reference else {}
        return {seed: value - reference[seed] for seed, value in ours(row.name).items() if seed in reference}

    rows = [
        {
            'row': row.name,
            'label': row.label,
            'ours': _spread(ours(row.name)),
            'paper': row.mpck,
            'reference': row.reference,
            'gap': _spread(gap(row)),
            'gap_paper': gap_printed(row),
        }
        for row in ablation.rows
    ]
    return {
        'title': f'Table {ablation.number}: {ablation.subject}',
        'subject': subject,
        'metric': METRIC,
        'gap_to': ablation.gap,
        'rows': rows,
        'notes': list(notes),
        'source': paper.SOURCE,
    }


def render(report: Mapping[str, Any]) -> str:
    """The table as Markdown, aligned."""
    lines = [
        [
            row['label'],
            row['row'],
            _cell(row['ours'], ''),
            str(len(row['ours']['seeds']) if row['ours'] else 0),
            _cell(row['gap'], '+'),
            tables.number(row['paper'], None, '.1f'),
            tables.number(row['gap_paper'], None, '+.1f'),
        ]
        for row in report['rows']
    ]
    header = ['', 'row', 'ours', 'n', 'gap', 'paper', 'gap (paper)']
    about = (
        f'mPCK@0.2 by torso length, percent: mean ± standard deviation over n seeds. Gap: to {report["gap_to"]}, seed by seed. '
        f'Paper: {report["source"]}.'
    )
    return '\n\n'.join([f'# {report["title"]}', report['subject'], tables.table(header, lines), about, *report['notes']]) + '\n'


def _spread(values: Mapping[int, float]) -> dict[str, Any] | None:
    if not values:
        return None
    deviation = statistics.stdev(values.values()) if len(values) > 1 else None
    return {'mean': statistics.fmean(values.values()), 'deviation': deviation, 'seeds': {str(s): v for s, v in values.items()}}


def _cell(spread: Mapping[str, Any] | None, sign: str) -> str:
    if spread is None:
        return '-'
    mean = f'{spread["mean"]:{sign}.1f}'
    return mean if spread['deviation'] is None else f'{mean} ± {spread["deviation"]:.1f}'
