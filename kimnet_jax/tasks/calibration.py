"""Scores to probabilities: fitted on training clips, stored with the weights, judged on the clips of an evaluation."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from kimnet_jax.core.calibration import Calibration
from kimnet_jax.core.files import write_text
from kimnet_jax.core.types import Clips, Prediction
from kimnet_jax.data_pipelines.clip_source import ClipSource
from kimnet_jax.data_pipelines.clips import SomeClips
from kimnet_jax.reporting import calibration as reporting
from kimnet_jax.tasks.evaluators import on_clips
from kimnet_jax.tasks.reports import speaks
from kimnet_jax.tasks.trained import Trained
from kimnet_jax.training.evaluation import Evaluator, of_all_processes
from kimnet_jax.training.state import Weights


def outcomes(clips: Clips, predictions: Iterable[Prediction]) -> list[reporting.Outcomes]:
    """Scores and hits of the joints of each clip."""
    return [
        reporting.Outcomes.of(clips[clip], joints, np.asarray(scores), clips.skeleton) for clip, joints, scores in predictions
    ]


def fitting_clips(training: ClipSource, evaluated: ClipSource, most: int) -> SomeClips | None:
    """Up to `most` training clips, evenly spaced among those that are not evaluated; None where there is none."""
    seen = {*evaluated.names}
    free = [i for i, name in enumerate(training.names) if name not in seen]
    chosen = np.linspace(0, len(free) - 1, min(most, len(free))).astype(int).tolist()
    return SomeClips(training, [free[i] for i in chosen]) if chosen else None


def fit(
    found: Trained, evaluator: Evaluator, weights: Weights, config: Mapping[str, Any], clips: SomeClips
) -> Calibration | None:
    """The calibration of a network by some clips, stored with its weights; None where no joint of them counts.

    Args:
        found: the network.
        evaluator: of it.
        weights: of the evaluator, on the devices.
        config: of its training.
        clips: that it was trained on.
    """
    predictions = of_all_processes(on_clips(evaluator, config, clips).predict(weights))
    about = {
        'data': f'{config["dataset"]["name"]}/{config["dataset"]["config"]}',
        'split': clips.split,
        'clips': len(clips),
        'step': found.step,
        'weights': found.digest,
    }
    calibration = reporting.fit(outcomes(clips, predictions), about)
    file = found.calibration_file
    if calibration is not None and file is not None and speaks():
        try:
            write_text(file, calibration.to_json())
            print('written:', file)
        except OSError as error:
            print(f'warning: {file}: not written ({error.strerror}), so predict gives no probabilities', file=sys.stderr)
    return calibration
