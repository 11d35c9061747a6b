"""Weights from and to PyTorch: `python -m kimnet_jax.convert --model=pose_resnet --source=IN.pth.tar --target=OUT.npz`
(docs/weights.md)."""

import functools
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import app, flags

from kimnet_jax.core.errors import InputError, parse_flags, run_command
from kimnet_jax.core.skeleton import SKELETONS, get_skeleton
from kimnet_jax.interop import has_torch, pixels
from kimnet_jax.interop.convert import (
    Weights,
    check_complete,
    describe,
    described,
    forward_error,
    from_torch,
    make_config,
    to_torch,
)
from kimnet_jax.interop.networks import NETWORKS
from kimnet_jax.interop.weight_files import PLAIN_SUFFIXES, TORCH_SUFFIXES, read_weights, suffix_of, write_weights
from kimnet_jax.training.checkpoint import Checkpoints
from kimnet_jax.training.initial import NETWORK
from kimnet_jax.training.workdir import read_config


def convert(options: flags.FlagValues) -> None:
    """Reads, translates, checks and writes as the flags say. Raises `InputError`."""
    source, target = (pathlib.Path(path).expanduser() for path in (options.source, options.target))
    if target.exists() and not options.overwrite:
        raise InputError(f'{target} already exists: choose another name, or pass --overwrite')
    weights, entries, notes = _read(source, options)
    to = options.to or ('flax' if weights is None else 'torch')
    _check_flags(options, weights, target, to)
    skeleton = options.skeleton or ('' if weights is None else weights.skeleton)
    if weights is not None:
        check_complete(weights)

    # by way of PyTorch's entries, unless ours are only copied
    unfilled: list[str] = []
    if weights is None or to == 'torch' or options.part:
        if weights is not None:
            template = read_weights(pathlib.Path(options.template).expanduser()).arrays if options.template else None
            entries, lines = to_torch(weights, template)
            notes += lines
        if options.part:
            entries = _part(entries, options.part)
        name = options.model or ('' if weights is None else weights.network)
        config = None if weights is None or options.part else weights.config
        weights, lines, unfilled = from_torch(name, entries, config=config, partial=options.partial)
        notes += lines
        if options.pixels:
            entries = pixels.fold_pixels(entries, name, pixels.RELEASED[options.pixels])
            weights, _, _ = from_torch(name, entries, config=weights.config, partial=options.partial)
            notes.append('the first layer now accepts our images: R, G, B, normalised with the statistics of R, G, B')

    # checks, then the file
    weights = weights._replace(skeleton=skeleton)
    _check_joints(weights)
    for line in (*notes, *(f'stays unfilled: {path}' for path in unfilled), f'{weights.network}: {weights.config}'):
        print(line)
    if entries and not unfilled:
        check_complete(weights)
    if options.verify and entries and not options.partial and has_torch():
        print(f'the outputs agree with PyTorch: relative error {forward_error(weights, entries):.1e}')
    arrays, metadata = (entries, {}) if to == 'torch' else (weights.arrays, describe(weights))
    write_weights(target, arrays, metadata)
    print(f'{len(arrays)} arrays written to {target}')


def _read(source: pathlib.Path, options: flags.FlagValues) -> tuple[Weights | None, dict[str, np.ndarray], list[str]]:
    """(ours, none, notes), or (None, PyTorch's entries, notes)."""
    if source.is_dir():
        trained, step = read_run(source, options.checkpoint)
        return trained, {}, [f'checkpoint {step} of {source}']
    if options.checkpoint != 'best' and source.is_file():
        raise InputError(f'--checkpoint is for the folder of a run, which {source} is not')
    arrays, metadata, notes = read_weights(source)
    weights = described(metadata, arrays, source)
    return (None, arrays, notes) if weights is None else (weights, {}, notes)


def read_run(workdir: pathlib.Path, checkpoint: str) -> tuple[Weights, int]:
    """The network of a training run at a checkpoint, and that one's step. Raises `InputError` where there is none."""
    config, skeleton = read_config(workdir)
    arrays, meta = Checkpoints(workdir, read_only=True).read_weights(checkpoint)
    if all(path.startswith(NETWORK) for path in arrays):
        arrays = {path.removeprefix(NETWORK): array for path, array in arrays.items()}
    fields = {'num_joints': get_skeleton(skeleton).num_joints, **config['model']}
    name = fields.pop('name', 'kimnet')
    return Weights(name, make_config(name, fields), arrays, skeleton), meta['step']


def _part(entries: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    prefix = name.rstrip('.') + '.'
    part = {key.removeprefix(prefix): array for key, array in entries.items() if key.startswith(prefix)}
    if not part:
        names = dict.fromkeys(key.partition('.')[0] for key in entries)
        raise InputError(f'--part={name}: no such part; there are {", ".join(names)}')
    return part


def _check_flags(options: flags.FlagValues, weights: Weights | None, target: pathlib.Path, to: str) -> None:
    """What would come to light too late, or never."""
    if suffix_of(target) in TORCH_SUFFIXES and to == 'flax':
        raise InputError(f'{target}: our weights are written as {" or ".join(PLAIN_SUFFIXES)}; for PyTorch, pass --to=torch')
    if options.model is None and (weights is None or options.part):
        raise InputError(f'--model is needed: one of {", ".join(NETWORKS)}')
    if weights is not None and options.model not in (None, weights.network) and not options.part:
        raise InputError(
            f'--model={options.model}: {options.source} contains a {weights.network}; use --part to take a part of it'
        )
    if options.template and (weights is None or not (options.part or to == 'torch')):
        raise InputError('--template is for converting our weights to PyTorch')
    if options.partial and to == 'torch':
        raise InputError('--partial is for converting to our weights; a PyTorch file is always written in full')
    if options.skeleton and to == 'torch':
        raise InputError('--skeleton is for converting to our weights; a PyTorch file has no place for it')
    if options.skeleton and weights is not None and weights.skeleton not in ('', options.skeleton):
        raise InputError(f'--skeleton={options.skeleton}: the joints of {options.source} are those of {weights.skeleton!r}')
    if options.pixels and (weights is not None or options.model not in pixels.FOLDABLE):
        raise InputError(f'--pixels is for the PyTorch weights of {", ".join(pixels.FOLDABLE)}')


def _check_joints(weights: Weights) -> None:
    joints = getattr(weights.config, 'num_joints', None)  # HANet has channels, a network of features has none
    known = get_skeleton(weights.skeleton).num_joints if weights.skeleton else joints
    if joints not in (None, known):
        raise InputError(f'--skeleton={weights.skeleton}: it has {known} joints, these weights have {joints}')


def list_networks() -> None:
    """Prints what can be converted."""
    for name, network in NETWORKS.items():
        print(f'{name:17s} {network.origin}')
    print(f'PyTorch: {", ".join((*TORCH_SUFFIXES, *PLAIN_SUFFIXES))}; ours: {", ".join(PLAIN_SUFFIXES)}, or the folder of a run')


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags; called when the command runs, so that commands can be imported side by side."""
    flags.DEFINE_bool('list', False, 'Print the networks, where their weights come from, and the formats.', flag_values=values)
    flags.DEFINE_string('source', None, 'File of weights, or the folder of a training run.', flag_values=values)
    flags.DEFINE_string('target', None, 'File to write; its suffix determines the format.', flag_values=values)
    flags.DEFINE_enum('model', None, list(NETWORKS), 'Which network. Runs and our own files already say so.', flag_values=values)
    to = 'Whose keys and layout to write. Default: the opposite of the source.'
    flags.DEFINE_enum('to', None, ['flax', 'torch'], to, flag_values=values)
    part = 'Take only the entries under this PyTorch name, such as `pose_net`, and drop the prefix.'
    flags.DEFINE_string('part', None, part, flag_values=values)
    partial = 'Skip entries that the network does not have, and leave parts of it unfilled; both are printed.'
    flags.DEFINE_bool('partial', False, partial, flag_values=values)
    expected = 'The release whose image format the weights expect. Default: our format (HRNet, torchvision).'
    flags.DEFINE_enum('pixels', None, list(pixels.RELEASED), expected, flag_values=values)
    template = 'The PyTorch file that the weights came from: its keys are written; entries without effect keep its values.'
    flags.DEFINE_string('template', None, template, flag_values=values)
    joints = 'Whose joints the weights have, so that training can match them by name. Runs and our own files already say so.'
    flags.DEFINE_enum('skeleton', None, sorted(SKELETONS), joints, flag_values=values)
    checkpoint = "Checkpoint of a run: 'best', 'last' or a step."
    flags.DEFINE_string('checkpoint', 'best', checkpoint, flag_values=values)
    verify = 'If PyTorch is installed, compare the outputs of both frameworks on random inputs.'
    flags.DEFINE_bool('verify', True, verify, flag_values=values)
    flags.DEFINE_bool('overwrite', False, 'Replace the target if it exists.', flag_values=values)


def run(argv: Sequence[str], options: flags.FlagValues) -> None:
    """Converts as the flags say."""
    if len(argv) > 1:
        raise InputError(f'unexpected argument {argv[1]!r}')
    if options.list:
        return list_networks()
    if options.source is None or options.target is None:
        raise InputError('--source and --target are needed; --list prints what can be converted')
    return convert(options)


def cli() -> None:
    """Entry point of the console script."""
    define_flags(flags.FLAGS)
    app.run(lambda argv: run_command(run, argv, flags.FLAGS), flags_parser=functools.partial(parse_flags, flags.FLAGS))


if __name__ == '__main__':
    cli()
