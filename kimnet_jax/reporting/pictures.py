"""Pictures of poses and of what a network predicts them with, by Matplotlib, from NumPy arrays.

Colours: one-hue scales whose lightness rises or falls throughout, and pairs that colour-blind people can tell, told apart by the
style of the line as well.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import IO, Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from kimnet_jax.core.joint_names import side_of
from kimnet_jax.core.kinematics import ANGLES, SIDES

RIGHT_STYLE: dict[str, Any] = {'color': '#009E73', 'linestyle': '-'}  # of rings; Okabe and Ito's bluish green
WRONG_STYLE: dict[str, Any] = {'color': '#D52B1E', 'linestyle': (0, (2, 1.2))}
SIDE_COLOURS = {'l': '#D95F02', 'r': '#1F78B4'}  # the orange and blue of the skeleton, darker: they stand on white
_SERIES: dict[str, Any] = {'raw': '-', 'refined': (0, (4, 1.5)), 'truth': (0, (1, 1.2))}  # line styles
_WEIGHTS, _HEAT = 'Reds', 'magma'
_STEPS = 5  # most steps in a row
_SETTINGS: Any = {'font.size': 8, 'axes.titlesize': 8, 'axes.linewidth': 0.6, 'svg.fonttype': 'none', 'pdf.fonttype': 42}


def save(figure: Figure, target: pathlib.Path | IO[bytes], suffix: str) -> None:
    """Writes a figure; `suffix` is one of `PICTURE_SUFFIXES`. The same figure gives the same bytes."""
    kind = suffix.removeprefix('.')
    dateless = {'svg': {'Date': None}, 'pdf': {'CreationDate': None}}
    options: dict[str, Any] = {'pil_kwargs': {'quality': 85}} if kind == 'webp' else {'metadata': dateless.get(kind)}
    with mpl.rc_context(_SETTINGS | {'svg.hashsalt': 'kimnet'}):
        figure.savefig(target, format=kind, dpi=150, **options)


def pixels(figure: Figure) -> np.ndarray:
    """A figure as uint8 [H, W, 3] RGB."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(150)
    canvas = FigureCanvasAgg(figure)
    with mpl.rc_context(_SETTINGS):
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


class JointLines(NamedTuple):
    """Frames of a chain, for lines from the joints of one to those of the next.

    Attributes:
        images: uint8 [T, S, S, 3].
        joints: [T, J, 2] pixels of the images.
        to: the joints of the later frame that lines lead to.
    """

    images: np.ndarray
    joints: np.ndarray
    to: Sequence[int]


def correlation(
    weights: np.ndarray, frames: Sequence[int], names: Sequence[str], lines: JointLines | None = None, title: str = ''
) -> Figure:
    """KMM's correlation W_r of every step as an image (KIMNet Fig. 4).

    Args:
        weights: [T-1, J, J]; row j holds the weights of the joints of frame t in joint j of frame t+1. NaN where a chain begins.
        frames: numbers of the T frames.
        names: of the J joints.
        lines: draws the frames above, and lines between their joints, red and wide where the weight is large.
        title: of the picture.
    """
    steps, joints = len(weights), len(names)
    columns = min(steps, _STEPS)
    rows = -(-steps // columns)
    scale = Normalize(0, float(np.nanmax(weights)))
    cell = max(1.7, 0.115 * joints)
    width = columns * (cell + 0.15) + 1.9
    strip = (width - 1.2) / (columns + 1) if lines else 0.0
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, rows * (cell + 0.3 + strip) + 1.2), layout='constrained')
        below: Any = figure
        if lines:
            parts: Any = figure.subfigures(2, 1, height_ratios=[rows * strip, rows * (cell + 0.3) + 0.9])
            above, below = parts
            for row, axes in enumerate(np.ravel(above.subplots(rows, 1))):
                _draw_strip(axes, lines, weights, frames, scale, slice(row * columns, min((row + 1) * columns, steps)), columns)
        grid = below.subplots(rows, columns, squeeze=False)
        for step, axes in enumerate(grid.flat):
            if step >= steps:
                axes.set_axis_off()
                continue
            axes.imshow(np.ma.masked_invalid(weights[step]), cmap=_WEIGHTS, norm=scale, interpolation='nearest')
            axes.set_title(f'{frames[step]} → {frames[step + 1]}' if steps > 1 else f'frames {frames[0]} → {frames[1]}')
            if np.isnan(weights[step]).all():
                axes.text(0.5, 0.5, 'the chain\nbegins anew', ha='center', va='center', transform=axes.transAxes)
            bottom = step + columns >= steps
            axes.set_xticks(range(joints), names if bottom else [''] * joints, rotation=90, fontsize=6)
            axes.set_yticks(range(joints), names if step % columns == 0 else [''] * joints, fontsize=6)
            axes.tick_params(length=1.5, width=0.5)
        below.supxlabel('joint of the earlier frame', fontsize=8)
        below.supylabel('joint of the later frame', fontsize=8)
        bar = below.colorbar(ScalarMappable(scale, _WEIGHTS), ax=grid, shrink=0.9, aspect=25, pad=0.02)
        bar.set_label(f'weight in $W_r$ (1/{joints}: uniform)')
        bar.ax.axhline(1 / joints, color='black', linewidth=0.8)
        bar.set_ticks([1 / joints], labels=[f'1/{joints}'], minor=True)
        figure.suptitle(title, fontsize=9)
    return figure


def _draw_strip(
    axes: Axes, lines: JointLines, weights: np.ndarray, frames: Sequence[int], scale: Normalize, steps: slice, columns: int
) -> None:
    """The frames of some steps side by side, and the lines between them; the weak ones below, so that the strong stay visible."""
    size = lines.images.shape[1]
    pitch = 1.08 * size
    shift = np.array([pitch, 0])
    for place, t in enumerate(range(steps.start, steps.stop + 1)):
        left = place * pitch
        axes.imshow(lines.images[t], extent=(left - 0.5, left + size - 0.5, size - 0.5, -0.5))
        axes.text(left + size / 2, -0.03 * size, f'frame {frames[t]}', ha='center', va='bottom', fontsize=8)
    segments, strengths = [], []
    for place, step in enumerate(range(steps.start, steps.stop)):
        for later in lines.to:
            for earlier, weight in enumerate(weights[step, later]):
                if np.isfinite(weight):
                    start, end = lines.joints[step, earlier], lines.joints[step + 1, later]
                    segments.append([start + shift * place, end + shift * (place + 1)])
                    strengths.append(weight)
    order = np.argsort(strengths, kind='stable')
    share = np.asarray(strengths)[order] / scale.vmax
    drawn = LineCollection(
        [segments[i] for i in order], cmap=_WEIGHTS, norm=scale, linewidths=0.5 + 1.7 * share, alpha=0.35 + 0.65 * share
    )
    drawn.set_array(np.asarray(strengths)[order])
    axes.add_collection(drawn)
    axes.set(xlim=(-0.5, columns * pitch + size), ylim=(size - 0.5, -0.5), aspect='equal')
    axes.set_axis_off()


class MapRows(NamedTuple):
    """Heatmaps of one joint, or summed over joints, in every frame.

    Attributes:
        name: of the joint or the sum.
        target: [T, h, w], None where there is no truth.
        predicted: [T, h, w]; NaN where a chain begins, and nothing is predicted.
        final: [T, h, w].
        truth: [T, 2] pixels of the crop, where to mark the true joint; None for a sum.
    """

    name: str
    target: np.ndarray | None
    predicted: np.ndarray
    final: np.ndarray
    truth: np.ndarray | None = None


def heatmaps(images: np.ndarray, frames: Sequence[int], groups: Sequence[MapRows], size: int, title: str = '') -> Figure:
    """Frames, target maps, the maps that the temporal module predicts from the frame before, final maps (KIMNet Fig. 6).

    Each row has its own scale: prediction and result differ in height.

    Args:
        images: uint8 [T, S, S, 3], what the network saw, at any scale.
        frames: their numbers.
        groups: of maps.
        size: H = W of the crop, pixels.
        title: of the picture.
    """
    rows: list[tuple[str, np.ndarray, np.ndarray | None]] = []
    for group in groups:
        kinds = {'target': group.target, 'predicted $m^p$': group.predicted, 'final $m$': group.final}
        rows += [(f'{group.name}\n{kind}', maps, group.truth) for kind, maps in kinds.items() if maps is not None]
    side, gap, count = 1.25, 0.06, len(frames)
    margin, head, bar_width = 0.45, 0.42 if title else 0.25, 0.55  # inches
    width, height = margin + count * (side + gap) + bar_width, head + (1 + len(rows)) * (side + gap)
    extent = (-0.5, size - 0.5, size - 0.5, -0.5)
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height))

        def panel(row: int, column: int) -> Axes:
            left, bottom = margin + column * (side + gap), height - head - (row + 1) * (side + gap) + gap
            axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
            axes.set(xticks=[], yticks=[], xlim=extent[:2], ylim=extent[2:])
            return axes

        for t, frame in enumerate(frames):
            axes = panel(0, t)
            axes.imshow(images[t], extent=extent)
            axes.set_title(f'frame {frame}', pad=3)
            if t == 0:
                axes.set_ylabel('input')
        for row, (label, maps, truth) in enumerate(rows, 1):
            known = maps[np.isfinite(maps)]
            scale = Normalize(0, max(float(known.max()) if len(known) else 0.0, 1e-6))
            for t in range(count):
                axes = panel(row, t)
                if t == 0:
                    axes.set_ylabel(label, labelpad=3)
                if np.isnan(maps[t]).all():
                    axes.text(0.5, 0.5, 'chain begins:\nno prediction', ha='center', va='center', transform=axes.transAxes)
                    continue
                axes.imshow(maps[t], cmap=_HEAT, norm=scale, extent=extent, interpolation='nearest')
                if truth is not None and np.isfinite(truth[t]).all():
                    axes.plot(*truth[t], '+', color='#56B4E9', markersize=7, markeredgewidth=0.9, scalex=False, scaley=False)
            last = figure.axes[-1].get_position()
            bar_axes = figure.add_axes((last.x1 + gap / width, last.y0, 0.09 / width, last.height), label='<colorbar>')
            bar = figure.colorbar(ScalarMappable(scale, _HEAT), cax=bar_axes)
            bar.ax.tick_params(labelsize=6, length=2)
            bar.ax.locator_params(nbins=4)
        if title:
            figure.suptitle(title, fontsize=9, y=1 - 0.06 / height, va='top')
    return figure


class PoseRow(NamedTuple):
    """Frames with the poses of one source, the truth or a network.

    Attributes:
        name: of the source.
        images: uint8 [T, S, S, 3] with the skeletons drawn on.
        joints: [T, J, 2] pixels of the images.
        verdicts: int [T, J]: 1 a ring for right, -1 for wrong, 0 none.
        notes: a text below each frame.
    """

    name: str
    images: np.ndarray
    joints: np.ndarray
    verdicts: np.ndarray
    notes: Sequence[str] = ()


def disputed(hits: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Where networks differ: int [N, T, J], 1 where one is right and another wrong, -1 where it is wrong and another right.

    Args:
        hits: bool [N, T, J], of N networks.
        counted: bool [T, J]; other joints have no verdict.
    """
    differ = counted & hits.any(0) & ~hits.all(0)
    return np.where(differ, np.where(hits, 1, -1), 0)


def compare(rows: Sequence[PoseRow], frames: Sequence[int], title: str = '', *, side_by_side: bool = False) -> Figure:
    """Poses of several sources on the same frames; joints that they disagree about are ringed (KIMNet Fig. 10).

    Args:
        rows: the sources; all have T frames.
        frames: numbers of the frames.
        title: of the picture.
        side_by_side: sources from left to right and frames downwards, as in a video of one frame at a time.
    """
    panel, gap, below, head, margin, foot = 1.9, 0.06, 0.17 if any(row.notes for row in rows) else 0.0, 0.42, 0.28, 0.32
    across, down = (len(rows), len(frames)) if side_by_side else (len(frames), len(rows))
    width = max(margin + across * (panel + gap), 4.2)
    height = head + down * (panel + gap + below) + foot
    margin += (width - margin - across * (panel + gap)) / 2
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(width, height))
        for r, row in enumerate(rows):
            for t, frame in enumerate(frames):
                x, y = (r, t) if side_by_side else (t, r)
                left, bottom = margin + x * (panel + gap), height - head - (y + 1) * (panel + below) - y * gap + below
                axes = figure.add_axes((left / width, bottom / height, panel / width, panel / height))
                _draw_pose(axes, row, t)
                column, line = (row.name, f'frame {frame}') if side_by_side else (f'frame {frame}', row.name)
                if y == 0:
                    axes.set_title(column, pad=3)
                if x == 0:
                    axes.set_ylabel(line, labelpad=3)
        marks = [
            Line2D([], [], marker='o', markerfacecolor='none', markersize=8, linewidth=1.6, label=label, **style)
            for label, style in (('right, another is wrong', RIGHT_STYLE), ('wrong, another is right', WRONG_STYLE))
        ]
        if any(np.any(row.verdicts) for row in rows) or side_by_side:
            figure.legend(handles=marks, loc='lower center', ncols=2, frameon=False, handlelength=2.4)
        figure.suptitle(title, fontsize=9, y=1 - 0.06 / height, va='top')
    return figure


def _draw_pose(axes: Axes, row: PoseRow, t: int) -> None:
    size = row.images.shape[1]
    axes.imshow(row.images[t])
    for place, verdict in zip(row.joints[t], row.verdicts[t], strict=True):
        if verdict:
            style = RIGHT_STYLE if verdict > 0 else WRONG_STYLE
            axes.add_patch(Circle(tuple(place), 0.034 * size, fill=False, linewidth=3.0, color='white'))
            axes.add_patch(Circle(tuple(place), 0.034 * size, fill=False, linewidth=1.6, **style))
    axes.set(xticks=[], yticks=[], xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5))
    if row.notes:
        axes.set_xlabel(row.notes[t], labelpad=2, fontsize=7)


def trajectories(
    time: np.ndarray,
    unit: str,
    series: Mapping[str, Mapping[str, np.ndarray]],
    joints: Sequence[str],
    title: str = '',
) -> Figure:
    """Positions and speeds of some joints and the angles at elbows, shoulders, hips and knees against time.

    Args:
        time: [T].
        unit: of time, `s` or `frame`.
        series: some of `raw`, `refined` and `truth` -> `positions` [T, N, 2] pixels and `speeds` [T, N] of the N joints,
            and the angles by name (`core.kinematics.joint_angles`) [T] degrees.
        joints: names of the N joints.
        title: of the picture.
    """
    label = 'time (s)' if unit == 's' else 'frame'
    left = ('x (pixels)', 'y (pixels)', f'speed (pixels / {unit})')
    with mpl.rc_context(_SETTINGS | {'lines.linewidth': 1.0, 'axes.grid': True, 'grid.linewidth': 0.3, 'grid.alpha': 0.6}):
        figure = Figure(figsize=(8.6, 6.4), layout='constrained')
        grid = figure.add_gridspec(12, 2)
        places = [figure.add_subplot(grid[4 * i : 4 * i + 4, 0]) for i in range(3)]
        angles = [figure.add_subplot(grid[3 * i : 3 * i + 3, 1]) for i in range(4)]
        for name, values in series.items():
            style: dict[str, Any] = {'linestyle': _SERIES[name], 'alpha': 0.75 if name == 'raw' and len(series) > 1 else 1.0}
            for j in range(len(joints)):
                columns = (values['positions'][:, j, 0], values['positions'][:, j, 1], values['speeds'][:, j])
                for axes, value in zip(places, columns, strict=True):
                    axes.plot(time, value, color=_joint_colour(joints, j), label=f'{joints[j]}, {name}', **style)
            for axes, joint in zip(angles, ANGLES, strict=True):
                for side in SIDES:
                    axes.plot(time, values[f'{side}_{joint}'], color=SIDE_COLOURS[side], label=f'{side}_{joint}, {name}', **style)
        for axes, text in zip(places, left, strict=True):
            axes.set_ylabel(text)
        places[1].invert_yaxis()  # as in the image
        for axes, (joint, ends) in zip(angles, ANGLES.items(), strict=True):
            axes.set_ylabel(f'{joint} (°)')
            axes.set_title(f'{ends[0]}-{joint}-{ends[1]}, 180° is straight', fontsize=7, pad=2)
            axes.set(ylim=(0, 190), yticks=[0, 90, 180])
        for axes in (*places, *angles):
            axes.set_xlim(time[0], time[-1])
            axes.tick_params(labelbottom=axes in (places[-1], angles[-1]), length=2)
        places[-1].set_xlabel(label)
        angles[-1].set_xlabel(label)
        handles = [Line2D([], [], color=_joint_colour(joints, j), linewidth=2) for j in range(len(joints))]
        figure.legend(handles, joints, loc='outside lower left', ncols=max(1, min(4, len(joints))), frameon=False)
        handles = [Line2D([], [], color=colour, linewidth=2) for colour in SIDE_COLOURS.values()]
        handles += [Line2D([], [], color='black', linestyle=_SERIES[name]) for name in series]
        figure.legend(handles, [*SIDES.values(), *series], loc='outside lower right', ncols=5, frameon=False)
        figure.suptitle(title, fontsize=9)
    return figure


def _joint_colour(joints: Sequence[str], j: int) -> Any:
    """Of one joint of each side the side's colour; of more, one of a palette."""
    side = side_of(joints[j])
    if side and sum(side_of(name) == side for name in joints) == 1:
        return SIDE_COLOURS[side]
    return mpl.colormaps['viridis'](0.95 * j / max(1, len(joints) - 1))
