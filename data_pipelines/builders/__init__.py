"""TFDS builders, one folder each; importing a builder's module registers it with TFDS."""

import pathlib
import re
from typing import Any

from kimnet_jax.core.errors import InputError

BUILDERS = ('coco_keypoints', 'kinetic_puppets', 'lsp', 'mpii', 'penn_action', 'posetrack', 'sub_jhmdb')


def import_builder(name: str) -> Any:
    """Registers the builder of that name and returns its class. Raises `InputError` with the known names."""
    import importlib

    if name not in BUILDERS:
        raise InputError(f'unknown data set {name!r}; known: {", ".join(BUILDERS)}')
    return importlib.import_module(f'kimnet_jax.data_pipelines.builders.{name}.{name}_dataset_builder').Builder


def configs_of(builder: Any) -> dict[str, Any]:
    """Its configs by name: those that are splits of the same clips first, then those that TFDS knows."""
    return {config.name: config for config in (*builder.VIEWS, *builder.BUILDER_CONFIGS)}


def config_of(builder: Any, name: str) -> Any:
    """The config of that name; of a builder of users' own data, one of any name. Raises `InputError` with the known names."""
    known = configs_of(builder)
    if name in known:
        return known[name]
    if builder.ANY_CONFIG:
        return builder.get_builder_config(name)
    raise InputError(f'{builder.name} has no config {name!r}; known: {", ".join(known)}')


def stored_config(builder: Any, config: str) -> str:
    """The config that holds the clips of a config."""
    return builder.BUILDER_CONFIGS[0].name if config in {view.name for view in builder.VIEWS} else config


def summaries() -> dict[str, str]:
    """The data sets by name, each with the first sentence of its README."""
    texts = {name: (pathlib.Path(__file__).parent / name / 'README.md').read_text(encoding='utf-8') for name in BUILDERS}
    return {name: ' '.join(re.split(r'\.\s', text, maxsplit=1)[0].split()) for name, text in texts.items()}


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
