"""Weights from and to PyTorch: `python -m kimnet_jax.convert --model=pose_resnet --source=IN.pth.tar --target=OUT.npz`
(docs/weights.md).

--config.model.FIELD=VALUE gives a field of the network that the weights do not tell. Otherwise the default is taken, and printed.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from kimnet_jax import command_line
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.paths import folder
from kimnet_jax.core.skeleton import SKELETONS
from kimnet_jax.interop import pixels

_PASSED_ON = ('model', 'to', 'entry', 'part', 'partial', 'pixels', 'skeleton', 'checkpoint', 'verify', 'overwrite')


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags; called when the command runs, so that commands can be imported side by side."""
    flags.DEFINE_bool('list', False, 'Print the networks, where their weights come from, and the formats.', flag_values=values)
    flags.DEFINE_string('source', None, 'File of weights, or the folder of a training run.', flag_values=values)
    flags.DEFINE_string('target', None, 'File to write; its suffix determines the format.', flag_values=values)
    model = 'Which network; --list prints them. Runs and our own files already say so.'
    flags.DEFINE_string('model', None, model, flag_values=values)
    to = 'Whose keys and layout to write. Default: the opposite of the source.'
    flags.DEFINE_enum('to', None, ['flax', 'torch'], to, flag_values=values)
    entry = 'Which weights of a PyTorch file that holds several, such as `state_dict_ema`; `ema`: the averaged ones.'
    flags.DEFINE_string('entry', None, entry, flag_values=values)
    part = 'Take only the entries under this PyTorch name, such as `pose_net`, and drop the prefix.'
    flags.DEFINE_string('part', None, part, flag_values=values)
    partial = 'Skip entries that the network does not have, and leave parts of it unfilled; both are printed.'
    flags.DEFINE_bool('partial', False, partial, flag_values=values)
    expected = 'The release whose image format the weights expect. Default: our format (HRNet, torchvision).'
    flags.DEFINE_enum('pixels', None, list(pixels.RELEASED), expected, flag_values=values)
    template = 'The PyTorch file that the weights came from: its keys are written; entries without effect keep its values.'
    flags.DEFINE_string('template', None, template, flag_values=values)
    joints = f'Whose joints the weights have, so that training can match them by name: {", ".join(sorted(SKELETONS))}, or a '
    joints += 'TOML file with your own (docs/weights.md). Runs and our own files already say so.'
    flags.DEFINE_string('skeleton', None, joints, flag_values=values)
    checkpoint = "Checkpoint of a run: 'best', 'last' or a step."
    flags.DEFINE_string('checkpoint', 'best', checkpoint, flag_values=values)
    verify = 'If PyTorch is installed, compare the outputs of both frameworks on random inputs.'
    flags.DEFINE_bool('verify', True, verify, flag_values=values)
    flags.DEFINE_bool('overwrite', False, 'Replace the target if it exists.', flag_values=values)


def run(argv: Sequence[str], settings: Sequence[str], options: flags.FlagValues) -> None:
    """Converts as the flags say."""
    from kimnet_jax.interop.convert import given_fields
    from kimnet_jax.tasks.conversion import ConversionRequest, convert, list_networks

    command_line.refuse_arguments(argv)
    if options.list:
        return list_networks()
    if options.source is None or options.target is None:
        raise InputError('--source and --target are needed; --list prints what can be converted')
    source, target = folder(options.source, '--source'), pathlib.Path(options.target).expanduser()
    template = pathlib.Path(options.template).expanduser() if options.template else None
    given = command_line.values_of(options, *_PASSED_ON)
    fields = given_fields(settings)
    return convert(ConversionRequest(source=source, target=target, template=template, fields=fields, **given))


def cli() -> None:
    """Entry point of the console script."""
    command_line.start(run, define_flags, settings=True, urls=('source',))


if __name__ == '__main__':
    cli()
