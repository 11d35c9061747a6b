"""Networks under occlusion: `python -m kimnet_jax.occlusion --workdir RUN[,RUN] | --model NAME[,NAME] --study joints`.

Masks are drawn on the frames of the evaluation split, the same for all networks, and mPCK is measured of the joints under them,
of the others and of all (KIMNet Sec. IV-E, Fig. 7 to 9; docs/occlusion.md).
"""

from collections.abc import Sequence
from typing import get_args

from absl import flags

from kimnet_jax import command_line
from kimnet_jax.core.errors import InputError
from kimnet_jax.data_pipelines.occlusion import SIDE, Fill, Occlusion, Study

COUNTS: dict[str, tuple[int, ...]] = {  # where --counts is not given
    'temporal': (2,),
    'spatial': (2,),
    'joints': (1, 3, 5, 7, 9),
    'length': (1, 2, 4, 8, 16, 32),
}


def _counts(study: str, asked: Sequence[str] | None) -> list[int]:
    try:
        counts = [int(text) for text in asked] if asked is not None else [*COUNTS[study]]
    except ValueError:
        counts = [-1]
    if not counts or min(counts) < 0:
        raise InputError(f'--counts {",".join(asked or ())}: give whole numbers such as 1,3,5')
    if not any(counts):
        raise InputError('--counts 0: give another number; 0 is always included')
    return sorted({*counts} - {0})


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags; called when the command runs, so that commands can be imported side by side."""
    command_line.define_network(values)
    study = "'temporal': masks on one frame; 'spatial': masks that stay; 'joints': masks that follow joints; 'length': one joint."
    flags.DEFINE_enum('study', 'joints', get_args(Study), study, flag_values=values)
    counts = 'Numbers of masks or joints (for `length`, of consecutive frames); 0 is always included. '
    counts += 'Default: ' + ', '.join(f'{key} {",".join(map(str, numbers))}' for key, numbers in COUNTS.items()) + '.'
    flags.DEFINE_list('counts', None, counts, flag_values=values)
    flags.DEFINE_integer('seed', 0, 'Seed of the masks.', lower_bound=0, upper_bound=2**32 - 1, flag_values=values)
    flags.DEFINE_float('side', SIDE, "Side of the masks, as a share of the longer side of the person's box.", flag_values=values)
    flags.DEFINE_enum('fill', 'black', get_args(Fill), 'Fill of the masks.', flag_values=values)
    flags.DEFINE_bool('first_frame', False, 'Also mask the first frame.', flag_values=values)
    flags.DEFINE_bool('skip_short', False, 'Leave out clips that are too short for the largest count.', flag_values=values)
    command_line.define_split(values)
    command_line.define_batch_size(values)
    command_line.define_out(values, 'evaluation', of=' of the first network')


def run(argv: Sequence[str], options: flags.FlagValues) -> None:
    """Compares as the flags say."""
    from kimnet_jax.tasks.occlusion import compare, names_of
    from kimnet_jax.tasks.trained import open_trained

    command_line.refuse_arguments(argv)
    references = command_line.requested_network(options).split(',')
    if not all(references):
        raise InputError(f'{",".join(references)}: one of these names is empty; give them as A,B')
    counts, names = _counts(options.study, options.counts), names_of(references)
    settings = command_line.values_of(options, 'seed', 'side', 'fill', 'first_frame')
    occlusions = {count: Occlusion(options.study, count, **settings) for count in counts}
    networks = {name: open_trained(one, options.checkpoint) for name, one in zip(names, references, strict=True)}
    first = next(iter(networks.values()))
    if options.study != 'length' and counts[-1] > first.skeleton.num_joints:
        raise InputError(f'--counts {counts[-1]}: {first.skeleton.name} has {first.skeleton.num_joints} joints')
    out = command_line.out_folder(options, first.folder, 'evaluation')
    given = command_line.values_of(options, 'split', 'data_dir', 'batch_size', 'skip_short')
    compare(networks, occlusions, out, **given)


def cli() -> None:
    """Entry point of the console script."""
    command_line.start(run, define_flags, urls=(*command_line.NETWORK_URLS, 'data_dir', 'out'))


if __name__ == '__main__':
    cli()
