"""Scores as probabilities: a curve that was fitted to how often joints of each score lie near the truth."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.json_files import parse_json
from kimnet_jax.core.types import Array

WITHIN = 0.2  # torso lengths from the true joint: what the probability is of


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A non-decreasing curve from scores to probabilities, linear between its points and level beyond them.

    Attributes:
        scores: float64 [K], increasing.
        probabilities: float64 [K], non-decreasing, 0 to 1.
        about: what it was fitted on, plain values.
    """

    scores: np.ndarray
    probabilities: np.ndarray
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, scores: Array) -> np.ndarray:
        """Of each score the probability of lying within `WITHIN` of the joint, float64 of the same shape; NaN of NaN."""
        return np.interp(np.asarray(scores, np.float64), self.scores, self.probabilities)

    def to_json(self) -> str:
        """The text that `parse` reads."""
        points = {'scores': self.scores.tolist(), 'probabilities': self.probabilities.tolist()}
        return json.dumps({'within': WITHIN, **self.about, **points}, indent=2) + '\n'


def parse(text: str | bytes, source: str) -> Calibration:
    """The curve of a file. Raises `InputError` naming `source` where it holds none."""
    about = parse_json(text, source)
    try:
        if not isinstance(about, dict):
            raise TypeError('no object')
        scores, probabilities = (np.asarray(about.pop(key), np.float64) for key in ('scores', 'probabilities'))
        within = about.pop('within')
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'{source}: not a calibration written by evaluate ({error})') from error
    problem = (
        f'within {within!r}, expected {WITHIN}'
        if within != WITHIN
        else f'{list(scores.shape)} scores and {list(probabilities.shape)} probabilities'
        if scores.ndim != 1 or scores.shape != probabilities.shape or not len(scores)
        else 'scores that do not increase'
        if not np.isfinite(scores).all() or (np.diff(scores) <= 0).any()
        else 'probabilities that fall, or are not 0 to 1'
        if not ((probabilities >= 0) & (probabilities <= 1)).all() or (np.diff(probabilities) < 0).any()
        else ''
    )
    if problem:
        raise InputError(f'{source}: not a calibration written by evaluate: {problem}')
    return Calibration(scores, probabilities, about)
