"""The same numbers as PyTorch: `python -m kimnet_jax.parity --model kimnet --preset tiny` (docs/parity.md).

Compares a network with its PyTorch twin module by module, through one training step and over many, names the first module that
disagrees and why, and writes a report. Ends with status 1 where something is outside the tolerances.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
from absl import app, flags

from kimnet_jax.core.errors import InputError, parse_flags, run_command
from kimnet_jax.interop import import_torch
from kimnet_jax.interop.convert import Weights, described, from_torch
from kimnet_jax.interop.networks import NETWORKS
from kimnet_jax.interop.weight_files import read_weights
from kimnet_jax.reporting import parity_report
from kimnet_jax.training.compilation import keep_compiled
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


def compare_one(options: flags.FlagValues) -> bool:
    """The network that the flags name. Returns whether it is within the tolerances."""
    weights, entries, model = None, None, options.model
    if options.weights:
        file = pathlib.Path(options.weights).expanduser()
        arrays, metadata, notes = read_weights(file)
        weights = described(metadata, arrays, file)
        if weights is None:
            weights, lines, _ = from_torch(model, arrays)
            entries, notes = arrays, [*notes, *lines]
        if weights.network != model:
            raise InputError(f'{file}: weights of {weights.network!r}; say --model {weights.network}')
        for line in notes:
            print(line)
    steps = STEPS[options.preset] if options.steps is None else options.steps
    result = compare(
        model, options.preset, options.dtype, steps=steps, rate=options.learning_rate, weights=weights, entries=entries
    )
    name = f'{model}_{pathlib.Path(options.weights).name if weights else options.preset}_{options.dtype}'
    files = parity_report.write(options.out, name, result)
    print(parity_report.render(result).partition('\n## Modules')[0])
    print('written:', *files)
    return result['passed']


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags; called when the command runs, so that commands can be imported side by side."""
    flags.DEFINE_enum('model', None, list(NETWORKS), 'Which network.', flag_values=values)
    flags.DEFINE_enum('preset', 'tiny', ['tiny', 'full'], 'Its size.', flag_values=values)
    weights = "File with its weights, PyTorch's or ours, which determines the sizes. Default: a fixed random draw."
    flags.DEFINE_string('weights', None, weights, flag_values=values)
    flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'Precision of both sides.', flag_values=values)
    steps = 'Training steps; 0: the forward pass only. Default: 100, or 1 at full size.'
    flags.DEFINE_integer('steps', None, steps, lower_bound=0, flag_values=values)
    flags.DEFINE_float('learning_rate', 1e-3, 'Learning rate of Adam, on both sides.', flag_values=values)
    flags.DEFINE_bool(
        'all', False, 'Compare every network at a small size and write the table into parity.md.', flag_values=values
    )
    flags.DEFINE_string('out', 'parity', 'Folder for the report.', flag_values=values)
    precision = "Precision of matrix products and convolutions; 'default' is what an accelerator does unless told otherwise."
    flags.DEFINE_enum('matmul_precision', 'highest', ['highest', 'default'], precision, flag_values=values)


def run(argv: Sequence[str], options: flags.FlagValues) -> int:
    """Compares as the flags say; the exit status."""
    if len(argv) > 1:
        raise InputError(f'unexpected argument {argv[1]!r}')
    if (options.model is None) != options.all:
        raise InputError(f'give either --all or --model, one of {", ".join(NETWORKS)}')
    import_torch()
    with jax.default_matmul_precision(options.matmul_precision):
        passed = compare_all(pathlib.Path(options.out), options.learning_rate) if options.all else compare_one(options)
    return 0 if passed else 1


def cli() -> None:
    """Entry point of the console script."""
    define_flags(flags.FLAGS)
    keep_compiled()
    app.run(lambda argv: run_command(run, argv, flags.FLAGS), flags_parser=functools.partial(parse_flags, flags.FLAGS))


if __name__ == '__main__':
    cli()
