"""What can be done with a network: trained, evaluated, made ready for use; a module for each family of networks.

The modules have the same functions (`Task`). Commands find them by the network's name, and import what they need alone.
"""

import importlib
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from kimnet_jax.core.errors import InputError
from kimnet_jax.models import MODELS

if TYPE_CHECKING:
    from kimnet_jax.tasks.reports import EvaluationRequest
    from kimnet_jax.tasks.trained import Trained


FAMILIES = {'frames': 'heatmaps', 'poses': 'refinement'}  # by what networks read


class Task(Protocol):
    """The module of a family."""

    def train(self, config: Mapping[str, Any], folder: pathlib.Path) -> int:
        """Runs the training that a config describes, in the folder of the run; returns the exit status."""

    def evaluate(self, found: 'Trained', request: 'EvaluationRequest') -> None:
        """Evaluates a trained network beside what it has to beat, prints the tables and writes them."""

    def load(self, found: 'Trained') -> Any:
        """A trained network, ready for videos (`heatmaps`) or for poses (`refinement`)."""


def name_of(config: Mapping[str, Any]) -> str:
    """`config.model.name`. Raises `InputError` where there is no such field."""
    model = config.get('model')
    if not isinstance(model, Mapping) or 'name' not in model:
        raise InputError(f'config.model.name: missing; choose one of {", ".join(MODELS)}')
    return model['name']


def task_of(network: str) -> Task:
    """The family of a network by `config.model.name`: `heatmaps` of frames, or `refinement` of poses. Raises `InputError`."""
    if not isinstance(network, str) or network not in MODELS:
        raise InputError(f'config.model.name={network!r}: choose one of {", ".join(MODELS)}')
    return cast(Task, importlib.import_module(f'kimnet_jax.tasks.{FAMILIES[MODELS[network].reads]}'))
