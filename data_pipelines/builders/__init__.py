"""TFDS builders, one folder each; importing a builder's module registers it with TFDS."""

from typing import Any

from kimnet_jax.core.errors import InputError

BUILDERS = ('kinetic_puppets', 'sub_jhmdb')


def import_builder(name: str) -> Any:
    """Registers the builder of that name and returns its class. Raises `InputError` with the known names."""
    import importlib

    if name not in BUILDERS:
        raise InputError(f'unknown data set {name!r}; known: {", ".join(BUILDERS)}')
    return importlib.import_module(f'data_pipelines.builders.{name}.{name}_dataset_builder').Builder
