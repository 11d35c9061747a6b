"""Do scores mean what they say? Isotonic regression of hits on scores, and how far either is from what is observed.

A hit is a joint found within `core.calibration.WITHIN` torso lengths of its true place. Isotonic regression: Zadrozny and Elkan,
KDD 2002; reliability and ECE: Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kimnet_jax.core.calibration import WITHIN, Calibration
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.core.types import Array, Example
from kimnet_jax.metrics import measurable, torso_length
from kimnet_jax.reporting.tables import number, percent, table

BINS = 10  # of equal width, 0 to 1
RAW, CALIBRATED = 'score', 'probability'
HEADINGS = {RAW: 'Scores as they are', CALIBRATED: 'Scores as probabilities'}


class Outcomes(NamedTuple):
    """The joints of a clip that count, N of them: visible, with a finite score, in frames with a torso length.

    Attributes:
        scores: float64 [N].
        hits: bool [N].
    """

    scores: np.ndarray
    hits: np.ndarray

    @classmethod
    def of(cls, example: Example, prediction: Array, scores: Array, skeleton: Skeleton) -> 'Outcomes':
        """Of a clip and its predictions [T, J, 2] pixels of the original frames, scores [T, J]."""
        joints, visible = np.asarray(example['joints'], np.float64), np.asarray(example['visible'], bool)
        length = torso_length(joints, visible, skeleton)
        scores = np.asarray(scores, np.float64)
        counted = visible & measurable(length)[:, None] & np.isfinite(scores)
        hits = np.linalg.norm(np.asarray(prediction, np.float64) - joints, axis=-1) <= WITHIN * length[:, None]
        return cls(scores[counted], hits[counted])


def fit(clips: Sequence[Outcomes], about: Mapping[str, Any]) -> Calibration | None:
    """The curve of some clips; None where none of their joints counts."""
    from scipy.optimize import isotonic_regression  # what is not asked to calibrate does without

    scores, hits = (np.concatenate([part[i] for part in clips] or [np.zeros(0)]) for i in (0, 1))
    if not len(scores):
        return None
    levels, index = np.unique(scores, return_inverse=True)
    counts = np.bincount(index)
    fitted = isotonic_regression(np.bincount(index, hits) / counts, weights=counts)
    ends = np.unique(np.concatenate([fitted.blocks[:-1], fitted.blocks[1:] - 1]))
    return Calibration(levels[ends], np.clip(fitted.x[ends], 0, 1), about)


def reliability(
    clips: Sequence[Outcomes], calibration: Calibration, *, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, Any]:
    """How well scores and probabilities agree with what is observed on clips that the curve was not fitted on; plain values.

    Returns:
        `joints`, how many count; `fitted_on` and `curve`, of the calibration; for `score` (confined to 0 to 1) and `probability`:
        `ece`, the mean over joints of |mean confidence - share of hits| of their bin; `brier`, the mean of (confidence - hit)^2;
        `bins`, a list of {`from`, `to`, `joints`, `confidence`, `hits`, `interval`}, the interval by bootstrap over clips; the
        last three are None where a bin is empty.
    """
    confidences: dict[str, Callable[[np.ndarray], np.ndarray]] = {RAW: lambda s: np.clip(s, 0, 1), CALIBRATED: calibration}
    result: dict[str, Any] = {
        'within_torso': WITHIN,
        'joints': sum(len(part.scores) for part in clips),
        'fitted_on': dict(calibration.about),
        'curve': {'scores': calibration.scores.tolist(), 'probabilities': calibration.probabilities.tolist()},
    }
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(clips), np.full(len(clips), 1 / len(clips)), samples)
    for name, confidence in confidences.items():
        sums = np.zeros((3, len(clips), BINS))  # of ones, of confidences, of hits
        squares = 0.0
        for i, part in enumerate(clips):
            values = confidence(part.scores)
            bins = np.minimum((values * BINS).astype(int), BINS - 1)
            sums[:, i] = [np.bincount(bins, weight, BINS) for weight in (np.ones(len(values)), values, part.hits)]
            squares += float(((values - part.hits) ** 2).sum())
        counts, total, hits = sums.sum(1)
        drawn = [np.tensordot(weights, sums[i], 1) for i in (0, 2)]  # [samples, BINS]
        entries = []
        for b in range(BINS):
            there = drawn[0][:, b] > 0
            tails = [(1 - level) / 2, (1 + level) / 2]
            entries.append(
                {
                    'from': b / BINS,
                    'to': (b + 1) / BINS,
                    'joints': int(counts[b]),
                    'confidence': float(total[b] / counts[b]) if counts[b] else None,
                    'hits': float(hits[b] / counts[b]) if counts[b] else None,
                    'interval': np.quantile(drawn[1][there, b] / drawn[0][there, b], tails).tolist() if counts[b] else None,
                }
            )
        joints = max(counts.sum(), 1)
        result[name] = {'ece': float(np.abs(hits - total).sum() / joints), 'brier': squares / joints, 'bins': entries}
    return result


def render(result: Mapping[str, Any]) -> str:
    """The tables of `reliability` as Markdown."""
    before, after = (result[key] for key in (RAW, CALIBRATED))
    about = result['fitted_on']
    lines = [
        '## Calibration of the scores',
        f'How often a joint lies within {WITHIN} torso lengths of its true place, by its score: {result["joints"]} joints. '
        f'The probabilities were fitted on {about["clips"]} other clips of {about["data"]}, split {about["split"]}. '
        'ECE is the mean gap between what is expected and what is observed, the Brier score a mean squared error; both are best '
        'at 0.',
        table(
            ['', 'ECE', 'Brier score'],
            [[HEADINGS[key], f'{part["ece"]:.3f}', f'{part["brier"]:.3f}'] for key, part in ((RAW, before), (CALIBRATED, after))],
        ),
    ]
    for key, part in ((RAW, before), (CALIBRATED, after)):
        rows = [
            [
                f'{entry["from"]:.1f} to {entry["to"]:.1f}',
                str(entry['joints']),
                number(entry['confidence'] and 100 * entry['confidence'], None, '.1f'),
                percent(entry['hits'], entry['interval']),
            ]
            for entry in part['bins']
        ]
        lines.append(table([f'{HEADINGS[key]}: bin', 'joints', f'mean {key}, %', 'hits, %'], rows))
    return '\n\n'.join(lines) + '\n'


def plot(result: Mapping[str, Any], title: str) -> bytes:
    """The reliability diagram as a PNG file: hits against confidence, with intervals. Raises `ImportError` without Matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout='constrained')
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], ':', color='0.5', label='perfect')
    for key, colour, marker in ((RAW, 'C1', 's'), (CALIBRATED, 'C0', 'o')):
        entries = [entry for entry in result[key]['bins'] if entry['joints']]
        x, y = ([entry[part] for entry in entries] for part in ('confidence', 'hits'))
        low, high = np.abs(np.array([entry['interval'] for entry in entries]).reshape(-1, 2).T - y)
        label = f'{key}: ECE {result[key]["ece"]:.3f}'
        axes.errorbar(x, y, [low, high], color=colour, marker=marker, markersize=4, capsize=2, linewidth=1, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect='equal', title=title, xlabel='score or probability')
    axes.set_ylabel(f'share of joints within {WITHIN} torso lengths')
    axes.legend(loc='upper left')
    file = io.BytesIO()
    figure.savefig(file, format='png', dpi=120)
    return file.getvalue()
