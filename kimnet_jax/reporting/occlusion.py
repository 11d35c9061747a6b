"""Poses under occlusion as tables: mPCK against what was masked, and paired differences (KIMNet Sec. IV-E, Fig. 9)."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.types import Array, Example
from kimnet_jax.metrics import ALPHA, MEAN, NORMALISERS, PoseMetrics, contrast
from kimnet_jax.reporting.tables import number, table

LAST_SEEN = 'last seen'
GROUPS = {  # of joints and frames, by heading
    'occluded': 'occluded joints',
    'unmasked': 'the same joints and frames without masks',
    'drop': 'occluded joints, with masks minus without',
    'visible': 'joints that are not occluded',
    'all': 'all joints',
}
_SIGNED = ('drop',)
_PLOTTED = ('occluded', 'visible', 'all')
_HEADINGS = {'torso': 'by torso length', 'person': 'by person size'}
_COUNTED = {
    'temporal': 'masks on one frame',
    'spatial': 'masks that stay',
    'joints': 'occluded joints',
    'length': 'frames in a row',
}

Poses = Mapping[int, Sequence[np.ndarray]]  # count -> [T, J, 2] pixels of each clip
Groups = dict[str, PoseMetrics]


def measure(
    poses: Poses, clips: Sequence[Example], occluded: Mapping[int, Sequence[Array]], skeleton: Skeleton
) -> dict[int, Groups]:
    """Metrics of each group of joints and frames, of all of them for a count of 0.

    Args:
        poses: predictions; of count 0 those on frames without masks.
        clips: `joints`, `visible` and `boxes` of each.
        occluded: count -> bool [T, J] of each clip.
        skeleton: of the poses.
    """

    def metrics(predictions: Sequence[np.ndarray], counted: Sequence[Array] | None) -> PoseMetrics:
        result = PoseMetrics(skeleton, len(clips))
        for i, (clip, prediction) in enumerate(zip(clips, predictions, strict=True)):
            truth = clip['joints'], clip['visible'], clip['boxes']
            result.update(i, prediction, *truth, counted=None if counted is None else counted[i])
        return result

    found: dict[int, Groups] = {}
    for count, predictions in poses.items():
        found[count] = {'all': metrics(predictions, None)}
        if count:
            hidden = occluded[count]
            found[count]['occluded'] = metrics(predictions, hidden)
            found[count]['unmasked'] = metrics(poses[0], hidden)
            found[count]['visible'] = metrics(predictions, [~part for part in hidden])
    return found


def report(
    title: str,
    rows: Mapping[str, Mapping[int, Groups]],
    differences: Sequence[tuple[str, str]],
    *,
    study: str,
    occluded: Mapping[int, Sequence[Array]],
    notes: Sequence[str],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """The results as one dict of plain values, ready for JSON; shares of 1, None where nothing counts.

    Args:
        title: heading.
        rows: name -> what `measure` gives.
        differences: pairs of names, the first minus the second.
        study: `temporal`, `spatial`, `joints` or `length`.
        occluded: as of `measure`.
        notes: sentences under the heading.
        about: further values to keep.
    """
    counts = [*next(iter(rows.values()))]
    some = next(iter(rows.values()))[counts[0]]['all'].counts['frames']
    hidden = {count: [part.sum() for part in occluded[count]] for count in counts if count}
    frames = {count: sum(part.any(-1).sum() for part in occluded[count]) for count in hidden}
    return {
        'title': title,
        'notes': list(notes),
        'study': study,
        **about,
        'clips': len(some),
        'frames': int(some.sum()),
        'occluded': {str(count): {'joints': int(sum(parts)), 'frames': int(frames[count])} for count, parts in hidden.items()},
        'rows': {name: _values([(1.0, row)]) for name, row in rows.items()},
        'differences': {f'{a} - {b}': _values([(1.0, rows[a]), (-1.0, rows[b])]) for a, b in differences},
    }


def render(report: Mapping[str, Any]) -> str:
    """The tables as Markdown, aligned; in percent."""
    lines = [f'# {report["title"]}', *report['notes']]
    lines.append(f'{report["clips"]} clips, {report["frames"]} frames. In brackets 95 % intervals by bootstrap over clips.')
    parts = [f'{count}: {part["joints"]} joints in {part["frames"]} frames' for count, part in report['occluded'].items()]
    if parts:
        lines.append(f'Occluded, by number of {_COUNTED[report["study"]]}: {"; ".join(parts)}.')
    for key in NORMALISERS:
        for group, heading in GROUPS.items():
            cells = [
                [name, *(_cell(values[group], key, signed) for values in row.values())]
                for part, signed in (('rows', group in _SIGNED), ('differences', True))
                for name, row in report[part].items()
            ]
            counts = [*next(iter(report['rows'].values()))]
            kept = [i for i in range(len(counts)) if group == 'all' or counts[i] != '0']
            if kept:
                lines.append(f'## {MEAN}@{ALPHA} {_HEADINGS[key]}: {heading}')
                header = [_COUNTED[report['study']], *(counts[i] for i in kept)]
                lines.append(table(header, [[line[0], *(line[1 + i] for i in kept)] for line in cells]))
    return '\n\n'.join(lines) + '\n'


def plot(report: Mapping[str, Any]) -> bytes:
    """The curves of the paper's Fig. 9 as a PNG file: mPCK by torso length against what was masked, with the intervals.

    A panel each for occluded joints, the others and all. Raises `ImportError` without Matplotlib.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.5), layout='constrained')
    panels = figure.subplots(1, len(_PLOTTED), sharey=True)
    counts = [*next(iter(report['rows'].values()))]
    colours = {name: f'C{i}' for i, name in enumerate(name for name in report['rows'] if not name.endswith(f', {LAST_SEEN}'))}
    for axes, group in zip(panels, _PLOTTED, strict=True):
        for number_of_row, (name, row) in enumerate(report['rows'].items()):
            found = [(int(count), row[count][group]['torso']) for count in counts if row[count][group]]
            points = [(count, cell['value'], *cell['interval']) for count, cell in found if None not in cell['interval']]
            x, y, low, high = np.array(points, np.float64).reshape(-1, 4).T
            network = name.removesuffix(f', {LAST_SEEN}')
            axes.errorbar(
                x + 0.04 * number_of_row,  # beside each other, not on top
                100 * y,
                100 * np.abs([y - low, high - y]),
                color=colours[network],
                linestyle='-' if network == name else '--',
                marker='o',
                markersize=3,
                linewidth=1,
                capsize=2,
                label=name,
            )
        axes.set(title=GROUPS[group], xlabel=_COUNTED[report['study']], ylim=(0, 100))
        axes.set_xticks([int(count) for count in counts])
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(f'{MEAN}@{ALPHA} by torso length, %')
    figure.legend(*panels[-1].get_legend_handles_labels(), loc='outside lower center', ncols=3, fontsize=8)
    figure.suptitle(report['title'])
    file = io.BytesIO()
    figure.savefig(file, format='png', dpi=120)
    return file.getvalue()


def _values(terms: Sequence[tuple[float, Mapping[int, Groups]]]) -> dict[str, Any]:
    """Count -> group -> normaliser -> value and interval, of a sum of rows."""
    result: dict[str, Any] = {}
    for count in terms[0][1]:
        parts = [(factor, row[count]) for factor, row in terms]
        result[str(count)] = {group: _summed(parts, group) for group in GROUPS}
    return result


def _summed(parts: Sequence[tuple[float, Groups]], group: str) -> dict[str, Any] | None:
    if group == 'drop':
        sums = [(sign * factor, name, groups) for factor, groups in parts for sign, name in ((1, 'occluded'), (-1, 'unmasked'))]
    else:
        sums = [(factor, group, groups) for factor, groups in parts]
    if any(name not in groups for _, name, groups in sums):
        return None
    values, intervals = contrast([(factor, groups[name]) for factor, name, groups in sums])

    def plain(value: float) -> float | None:
        return value if np.isfinite(value) else None

    return {
        key: {
            'value': plain(values[key]['pck'][ALPHA][MEAN]),
            'interval': [plain(end) for end in intervals[key]['pck'][ALPHA][MEAN]],
        }
        for key in NORMALISERS
    }


def _cell(values: Mapping[str, Any] | None, key: str, signed: bool) -> str:
    if values is None or values[key]['value'] is None:
        return '-'
    value, interval = values[key]['value'], values[key]['interval']
    return number(100 * value, [100 * end for end in interval], '+.1f' if signed else '.1f')
