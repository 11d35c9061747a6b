"""What the last bits of a training depend on, besides its config and its data."""

import os
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import jax


def conditions() -> dict[str, Any]:
    """By name, as JSON. The number of visible CPUs counts, too: XLA divides sums among as many threads."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    versions = {f'version of {name}': metadata.version(name) for name in ('jax', 'jaxlib', 'flax', 'optax', 'numpy')}
    return {
        'devices': f'{jax.device_count()} {jax.devices()[0].device_kind}',
        'processes': jax.process_count(),
        'visible CPUs': cpus,
        'XLA_FLAGS': os.environ.get('XLA_FLAGS', ''),
        'matmul precision': str(jax.config.jax_default_matmul_precision),  # type: ignore[attr-defined]
        **versions,
    }


def difference(before: Mapping[str, Any]) -> str:
    """A line on what differs from the conditions of a checkpoint, '' where nothing does."""
    now = conditions()
    changed = [f'{name}: {before[name]} there, {now.get(name)} now' for name in before if before[name] != now.get(name)]
    return f'the last digits may differ from those of an uninterrupted run: {"; ".join(changed)}' if changed else ''
