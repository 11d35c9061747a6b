"""Comparisons of our networks with their PyTorch twins (docs/parity.md)."""

import pathlib
from typing import Any

import jax

from kimnet_jax.core.errors import InputError
from kimnet_jax.interop.convert import Weights, described, from_torch, stated
from kimnet_jax.interop.networks import NETWORKS
from kimnet_jax.interop.prefixes import fitted
from kimnet_jax.interop.weight_files import read_weights
from kimnet_jax.reporting import parity_report
from kimnet_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule

STEPS = {'tiny': 100, 'full': 1}
STEPS_OF_ALL = {'float32': 20, 'bfloat16': 1}  # of every network in the table


def compare(
    model: str,
    preset: str,
    dtype: str,
    *,
    steps: int,
    rate: float,
    weights: Weights | None = None,
    entries: Any = None,
) -> dict[str, Any]:
    """One comparison; the report's values."""
    from kimnet_jax.interop import parity  # torch is an extra

    network = NETWORKS[model]
    config = network.presets[preset] if weights is None else weights.config
    result = parity.compare(
        network, config, weights=weights, entries=entries, dtype=dtype, steps=steps, optimizer=adam(rate), rate=rate
    )
    return {'model': model, 'preset': preset if weights is None else 'own weights', **result}


def adam(rate: float) -> Any:
    """The optimizer of our training without its schedule and clipping, which PyTorch's side has not."""
    config = OptimizerConfig('constant', rate, clip_norm=0.0)
    return make_optimizer(config, make_schedule(config, steps=1, steps_per_epoch=1))


def compare_all(out: pathlib.Path, rate: float) -> bool:
    """Every network in every precision that it has, small: the table. Returns whether all are within the tolerances."""
    from kimnet_jax.interop import parity

    results = []
    for model, network in NETWORKS.items():
        for dtype, steps in STEPS_OF_ALL.items():
            if dtype in parity.precisions(network):
                results.append(compare(model, 'tiny', dtype, steps=steps, rate=rate))
                print(f'{model} in {dtype}: {parity_report.verdict(results[-1])}', flush=True)
                jax.clear_caches()  # no two networks share a program
    print(parity_report.summary(results))
    print('written:', *parity_report.write_summary(out, results))
    return all(result['passed'] for result in results)


def compare_one(
    model: str,
    preset: str,
    dtype: str,
    out: pathlib.Path,
    *,
    rate: float,
    steps: int | None = None,
    file: pathlib.Path | None = None,
) -> bool:
    """One network, with a report of its own. Returns whether it is within the tolerances.

    Args:
        model: its name.
        preset: its size, `tiny` or `full`.
        dtype: precision of both sides.
        out: folder of the report.
        rate: of Adam.
        steps: of training; None: `STEPS`.
        file: of weights, which tell the size; None: a fixed random draw.

    Raises:
        InputError: the file cannot be read, or is of another network.
    """
    weights, entries = None, None
    if file:
        arrays, metadata, notes = read_weights(file)
        weights = described(metadata, arrays, file)
        if weights is None:
            known = stated(metadata, file)
            config = known.config if known and known.network == model else None
            entries, told = fitted(model, arrays)
            weights, lines, _ = from_torch(model, entries, config=config)
            notes = [*notes, *told, *lines]
        if weights.network != model:
            raise InputError(f'{file}: weights of {weights.network!r}; say --model {weights.network}')
        for line in notes:
            print(line)
    steps = STEPS[preset] if steps is None else steps
    result = compare(model, preset, dtype, steps=steps, rate=rate, weights=weights, entries=entries)
    files = parity_report.write(out, f'{model}_{file.name if file else preset}_{dtype}', result)
    print(parity_report.render(result).partition('\n## Modules')[0])
    print('written:', *files)
    return result['passed']
