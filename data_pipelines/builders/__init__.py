"""TFDS builders, one folder each; importing a builder's module registers it with TFDS."""

from typing import Any

from kimnet_jax.core.errors import InputError

BUILDERS = ('kinetic_puppets', 'lsp', 'mpii', 'penn_action', 'sub_jhmdb')


def import_builder(name: str) -> Any:
    """Registers the builder of that name and returns its class. Raises `InputError` with the known names."""
    import importlib

    if name not in BUILDERS:
        raise InputError(f'unknown data set {name!r}; known: {", ".join(BUILDERS)}')
    return importlib.import_module(f'kimnet_jax.data_pipelines.builders.{name}.{name}_dataset_builder').Builder


def downloaded() -> list[str]:
    """The data sets that a user downloads."""
    import importlib.util

    return [name for name in BUILDERS if importlib.util.find_spec(f'kimnet_jax.data_pipelines.builders.{name}.inspect')]


def import_inspect(name: str) -> Any:
    """The function `inspect` of a data set, see `data_pipelines.findings`. Raises `InputError` with the names that have one."""
    import importlib

    if name not in downloaded():
        raise InputError(f'{name!r} is not a data set that is downloaded; known: {", ".join(downloaded())}')
    return importlib.import_module(f'kimnet_jax.data_pipelines.builders.{name}.inspect').inspect
