"""Plots of a report, by Matplotlib, as SVG to be set into an HTML page: they take over the colour of its text."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from kimnet_jax.core.types import Array

COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#B8860B', '#56B4E9')  # after Okabe and Ito; legible on white and black
OTHER = '#8A8A8A'  # of rows that are not runs
BIN, LAST = 0.02, 0.6  # torso lengths: width of a bin of the histogram, end of the last one
MOST_POINTS = 400  # of a curve
_LINES = ('-', (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
_INK = '#010203'  # becomes the colour of the page's text
_SETTINGS: Any = {
    'font.size': 8,
    'axes.titlesize': 9,
    'axes.linewidth': 0.6,
    'svg.fonttype': 'none',
    'svg.hashsalt': 'kimnet',
    'font.family': 'sans-serif',
    'text.parse_math': False,  # names of runs and clips are no formulas
    **dict.fromkeys(('text.color', 'axes.labelcolor', 'axes.edgecolor', 'xtick.color', 'ytick.color', 'grid.color'), _INK),
    **dict.fromkeys(('figure.facecolor', 'axes.facecolor', 'savefig.facecolor'), 'none'),
    'grid.alpha': 0.15,
    'grid.linewidth': 0.6,
    'axes.spines.top': False,
    'axes.spines.right': False,
}


class _PlainLogFormatter(LogFormatter):
    """0.02, not 2e-02."""

    def _num_to_string(self, x: float, *_: float) -> str:
        return f'{x:g}'


class Curve(NamedTuple):
    """One quantity against the step.

    Attributes:
        title: what it is, and its unit.
        series: place of the run in the page -> (steps [N], values [N]).
        log: whether the axis is logarithmic.
        dots: mark the single values.
    """

    title: str
    series: Mapping[int, tuple[Array, Array]]
    log: bool = False
    dots: bool = False


class Interval(NamedTuple):
    """A value with its interval.

    Attributes:
        label: of the row.
        value: a share of 1.
        interval: its ends; None where there is none.
        run: place of the run in the page; None of a row that is not one.
    """

    label: str
    value: float
    interval: tuple[float, float] | None = None
    run: int | None = None


def style(run: int) -> dict[str, Any]:
    """Colour and kind of line of a run, by its place in the page."""
    return {'color': COLOURS[run % len(COLOURS)], 'linestyle': _LINES[run // len(COLOURS) % len(_LINES)]}


def curves(shown: Sequence[Curve]) -> str:
    """Curves beside each other, as SVG."""
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(3.1 * columns, 2.1 * rows), layout='constrained')
        for axes, curve in zip(figure.subplots(rows, columns, squeeze=False).flat, shown, strict=False):
            for run, (steps, values) in curve.series.items():
                x, y = thin(steps, values)
                marks = {'marker': 'o', 'markersize': 2.5} if curve.dots or len(x) == 1 else {}
                axes.plot(x, y, linewidth=1.3, **marks, **style(run))
            if curve.log and all((np.asarray(values) > 0).any() for _, values in curve.series.values()):
                axes.set_yscale('log')
                axes.yaxis.set_major_formatter('{x:g}')
                axes.yaxis.set_minor_formatter(_PlainLogFormatter(minor_thresholds=(1.5, 0.4)))
            axes.set_title(curve.title, loc='left')
            axes.set_xlabel('step')
            axes.grid(True)
        for axes in list(figure.axes)[len(shown) :]:
            axes.set_axis_off()
        return _svg(figure, ', '.join(curve.title for curve in shown))


def thin(steps: Array, values: Array) -> tuple[np.ndarray, np.ndarray]:
    """A curve of at most `MOST_POINTS` points, means of consecutive values; those that are not finite drop out."""
    steps, values = np.asarray(steps, float), np.asarray(values, float)
    steps, values = steps[np.isfinite(values)], values[np.isfinite(values)]
    every = -(-len(values) // MOST_POINTS)
    if every <= 1:
        return steps, values
    starts = np.arange(0, len(values), every)
    counts = np.diff([*starts, len(values)])
    return np.add.reduceat(steps, starts) / counts, np.add.reduceat(values, starts) / counts


def intervals(rows: Sequence[Interval], title: str) -> str:
    """Values with their intervals, one below the other, as SVG."""
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(6.4, 0.55 + 0.24 * len(rows)), layout='constrained')
        axes = figure.subplots()
        for y, row in enumerate(rows):
            colour = OTHER if row.run is None else COLOURS[row.run % len(COLOURS)]
            if row.interval is not None:
                axes.plot([100 * end for end in row.interval], [y, y], color=colour, linewidth=2.2, solid_capstyle='butt')
            filled = colour if row.interval is not None else 'none'
            axes.plot([100 * row.value], [y], 'o', markersize=5, markerfacecolor=filled, markeredgecolor=colour)
        axes.set_yticks(range(len(rows)), [row.label for row in rows])
        axes.set(ylim=(len(rows) - 0.5, -0.5), xlim=(0, 102))
        axes.set_xlabel(title)
        axes.grid(True, axis='x')
        axes.tick_params(axis='y', length=0)
        return _svg(figure, title)


def error_shares(errors: Array) -> tuple[np.ndarray, float]:
    """(share of the errors in each bin of `BIN` up to `LAST`, share beyond); all 0 where there is no error.

    Args:
        errors: [N] torso lengths; those that are not finite lie beyond.
    """
    errors = np.asarray(errors, float)
    edges = np.linspace(0, LAST, round(LAST / BIN) + 1)
    counts, _ = np.histogram(errors[np.isfinite(errors)], edges)
    total = max(len(errors), 1)
    return counts / total, (len(errors) - counts.sum()) / total


def histogram(errors: Mapping[int, Array], names: Mapping[int, str]) -> str:
    """How far joints lie from the truth, of each run, as SVG.

    Args:
        errors: place of the run in the page -> [N] torso lengths.
        names: of the runs, for the legend.
    """
    edges = np.linspace(0, LAST, round(LAST / BIN) + 1)
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(6.4, 2.4), layout='constrained')
        axes = figure.subplots()
        for run, values in errors.items():
            inside, beyond = error_shares(values)
            label = f'{names[run]} ({100 * beyond:.1f} % beyond {LAST})'
            axes.stairs(100 * inside, edges, fill=True, alpha=0.15, color=style(run)['color'])
            axes.stairs(100 * inside, edges, linewidth=1.3, label=label, **style(run))
        axes.axvline(0.2, color=_INK, linewidth=0.8, linestyle=(0, (3, 2)))
        axes.annotate('PCK@0.2', (0.2, 1), (3, -8), xycoords=axes.get_xaxis_transform(), textcoords='offset points', fontsize=7)
        axes.set(xlim=(0, LAST), ylim=(0, None), xlabel='error (torso lengths)', ylabel='joints (%)')
        axes.grid(True, axis='y')
        axes.legend(frameon=False)
        return _svg(figure, 'histogram of errors')


def reliability(panels: Mapping[str, Mapping[int, Sequence[Mapping[str, Any]]]]) -> str:
    """Shares of hits against what was expected of them, as SVG; the diagonal is perfect.

    Args:
        panels: title -> place of the run in the page -> bins, each with `confidence`, `hits` and its `interval`, shares of 1;
            None in an empty one.
    """
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(3.1 * len(panels), 3.2), layout='constrained')
        for axes, (title, runs) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels.items(), strict=True):
            axes.plot([0, 100], [0, 100], color=OTHER, linewidth=0.8, linestyle=(0, (3, 2)))
            for run, bins in runs.items():
                filled = [one for one in bins if one['hits'] is not None]
                x, y = ([100 * one[key] for one in filled] for key in ('confidence', 'hits'))
                ends = np.reshape([100 * end for one in filled for end in one['interval']], (-1, 2)).T
                low, high = np.abs(ends - y)
                axes.errorbar(x, y, [low, high], marker='o', markersize=3, elinewidth=0.8, linewidth=1.3, **style(run))
            axes.set(xlim=(0, 100), ylim=(0, 100), aspect='equal', xlabel='expected (%)', ylabel='observed (%)')
            axes.set_title(title, loc='left')
            axes.grid(True)
        return _svg(figure, 'reliability of the scores')


def correlations(matrices: Mapping[str, np.ndarray], joints: Sequence[str]) -> str:
    """Mean W_r by name, on one scale, as SVG.

    Args:
        matrices: name -> [J, J]; row j holds the weights of the joints of the earlier frame in joint j of the later one.
        joints: names of the J joints.
    """
    columns = min(4, len(matrices))
    rows = -(-len(matrices) // columns)
    scale = Normalize(0, max(float(matrix.max()) for matrix in matrices.values()))
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(2.2 * columns + 1.3, 2.2 * rows + 0.9), layout='constrained')
        grid = figure.subplots(rows, columns, squeeze=False)
        for place, (axes, (name, matrix)) in enumerate(zip(grid.flat, matrices.items(), strict=False)):
            axes.imshow(matrix, cmap='Reds', norm=scale, interpolation='nearest')
            axes.set_title(name)
            _name_joints(axes, joints, bottom=place + columns >= len(matrices), left=place % columns == 0)
        for axes in grid.flat[len(matrices) :]:
            axes.set_axis_off()
        figure.supxlabel('joint of the earlier frame', fontsize=8)
        figure.supylabel('joint of the later frame', fontsize=8)
        bar = figure.colorbar(ScalarMappable(scale, 'Reds'), ax=grid, shrink=0.8, aspect=25)
        bar.set_label(f'mean weight (uniform: {1 / len(joints):.3f})')
        return _svg(figure, 'temporal correlation of joints, by action')


def data_uri(image: bytes, kind: str) -> str:
    """An image as the address that holds it; `kind` is `jpeg` or `png`."""
    return f'data:image/{kind};base64,{base64.b64encode(image).decode()}'


def _name_joints(axes: Axes, joints: Sequence[str], *, bottom: bool, left: bool) -> None:
    axes.set_xticks(range(len(joints)), joints if bottom else [''] * len(joints), rotation=90, fontsize=5.5)
    axes.set_yticks(range(len(joints)), joints if left else [''] * len(joints), fontsize=5.5)
    axes.tick_params(length=1.5, width=0.5)


def _svg(figure: Figure, description: str) -> str:
    """A figure as an element of an HTML page: no prolog, no names of other sites, no ids but those that are referred to."""
    file = io.StringIO()
    figure.savefig(file, format='svg', metadata={'Date': None})
    text = file.getvalue()[file.getvalue().index('<svg') :]
    for part in (r'<metadata>.*?</metadata>', r'<style .*?</style>'):  # the latter would be the whole page's
        text = re.sub(part, '', text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', '', text).replace('xlink:href', 'href').replace(_INK, 'currentColor')
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r'\sid="([^"]*)"', lambda match: match.group() if match.group(1) in used else '', text)
    width = re.search(r'width="([\d.]+)pt"', text)
    size = f' style="width: {width.group(1)}pt"' if width else ''
    text = re.sub(r'\s(?:width|height)="[\d.]+pt"', '', text)
    return text.replace('<svg', f'<svg role="img" aria-label="{_escape(description)}"{size}', 1)


def _escape(text: str) -> str:
    return text.replace('&', '&amp;').replace('"', '&quot;').replace('<', '&lt;')
