"""What can be done with a network: trained, evaluated, made ready for use; a module for each family of networks.

The modules have the same functions (`Task`). Commands find them by the network's name, and import what they need alone.
"""

import importlib
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from kimnet_jax.models import REFINERS

if TYPE_CHECKING:
    from kimnet_jax.tasks.reports import EvaluationRequest
    from kimnet_jax.tasks.trained import Trained


class Task(Protocol):
    """The module of a family."""

    def train(self, config: Mapping[str, Any], folder: pathlib.Path) -> int:
        """Runs the training that a config describes, in the folder of the run; returns the exit status."""

    def evaluate(self, found: 'Trained', request: 'EvaluationRequest') -> None:
        """Evaluates a trained network beside what it has to beat, prints the tables and writes them."""

    def load(self, found: 'Trained') -> Any:
        """A trained network, ready for videos (`heatmaps`) or for poses (`refinement`)."""


def task_of(network: str) -> Task:
    """The family of a network by `config.model.name`: `heatmaps` of frames, or `refinement` of poses."""
    return cast(Task, importlib.import_module(f'kimnet_jax.tasks.{"refinement" if network in REFINERS else "heatmaps"}'))
