"""Evaluates a trained network: `python -m kimnet_jax.evaluate --workdir RUN | --model NAME [--data_dir data]`.

Protocol `full`: every frame of every clip of the split, distances in pixels of the original frames. Prints the paper's table and
writes it with a JSON beside it to `<run>/evaluation/`, or `--out`. `--protocol released`: RPSTN's released evaluation instead.
"""

from collections.abc import Sequence
from typing import get_args

from absl import flags

from kimnet_jax import command_line
from kimnet_jax.core.paths import folder
from kimnet_jax.core.types import Decoding


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags; called when the command runs, so that commands can be imported side by side."""
    command_line.define_network(values)
    command_line.define_split(values)
    command_line.define_batch_size(values)
    command_line.define_distributed(values)
    command_line.define_out(values, 'evaluation')
    protocol = "'full': every frame. 'released': what RPSTN's released code computes, for judging such numbers."
    flags.DEFINE_enum('protocol', 'full', ('full', 'released'), protocol, flag_values=values)
    chain = "Restart the chain after this many frames; 0: never within a clip. Default: the config's."
    flags.DEFINE_integer('chain_length', None, chain, lower_bound=0, flag_values=values)
    decoding = "How joints are read off the heatmaps. Default: the config's."
    flags.DEFINE_enum('decoding', None, get_args(Decoding), decoding, flag_values=values)
    predictions = 'Also write the poses of the split to this .npz file, for kimnet_jax.train --config configs/hanet.py.'
    flags.DEFINE_string('predictions', None, predictions, flag_values=values)
    calibration = 'Most training clips that scores are calibrated on, for the probabilities of `predict`; 0: they are not.'
    flags.DEFINE_integer('calibration_clips', 50, calibration, lower_bound=0, flag_values=values)
    control = 'Does time help? Compare the true past of the frames with a frozen one, that of another clip, and none.'
    flags.DEFINE_bool('temporal_control', False, control, flag_values=values)
    occlusion = 'Also evaluate with this many joints behind black squares in all frames of a clip but the first.'
    flags.DEFINE_integer('occlusion', None, occlusion, lower_bound=1, flag_values=values)
    seed = 'Seed of what --temporal_control and --occlusion draw.'
    flags.DEFINE_integer('seed', 0, seed, lower_bound=0, upper_bound=2**32 - 1, flag_values=values)


def run(argv: Sequence[str], options: flags.FlagValues) -> int:
    """Evaluates as the flags say; returns the exit status."""
    from kimnet_jax.tasks import task_of
    from kimnet_jax.tasks.reports import EvaluationRequest
    from kimnet_jax.tasks.trained import open_trained
    from kimnet_jax.training import processes

    command_line.refuse_arguments(argv)

    def evaluate() -> int:
        found = open_trained(command_line.requested_network(options), options.checkpoint)
        request = EvaluationRequest(
            out=command_line.out_folder(options, found.folder, 'evaluation'),
            predictions=folder(options.predictions, '--predictions') if options.predictions else None,
            **command_line.values_of(options, 'protocol', 'split', 'data_dir', 'chain_length', 'decoding', 'batch_size'),
            **command_line.values_of(options, 'temporal_control', 'occlusion', 'seed', 'calibration_clips'),
        )
        task_of(found.kind).evaluate(found, request)
        return 0

    if options.distributed:
        return processes.with_others(evaluate, 'restart all processes with the same command')
    return evaluate()


def cli() -> None:
    """Entry point of the console script."""
    command_line.start(run, define_flags, urls=(*command_line.NETWORK_URLS, 'data_dir', 'out', 'predictions'))


if __name__ == '__main__':
    cli()
