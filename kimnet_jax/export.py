"""A trained model for deployment: `python -m kimnet_jax.export --model NAME|RUN|FILE --out FOLDER` (docs/deployment.md)."""

import functools
import pathlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from absl import app, flags
from flax import nnx

from kimnet_jax import trained
from kimnet_jax.core.errors import InputError, parse_flags, run_command
from kimnet_jax.inference import artifact
from kimnet_jax.models.folding import fold
from kimnet_jax.training.compilation import keep_compiled
from kimnet_jax.training.state import Weights, split_model

TOLERANCE = 0.05  # pixels of the crop
CHECKED_CLIPS = 3


class Loaded(NamedTuple):
    """Attributes:
    model: as it was trained.
    folded: the same for inference (`fold`).
    """

    model: artifact.Model
    folded: artifact.Model


def load(found: trained.Trained, dtype: str | None) -> Loaded:
    """The network made ready for export. Raises `InputError` where it is none of videos."""
    config, size = found.config, found.config['data']['input_size']
    network = found.load(dtype)
    graph, weights = split_model(network, training=False)

    def model_of(graph: nnx.GraphDef, weights: Weights) -> artifact.Model:
        return artifact.Model(
            weights,
            init_state=lambda weights, frames: nnx.merge(graph, *weights).init_state(frames),
            step=lambda weights, state, frames: nnx.merge(graph, *weights).step(state, frames),
            forward=lambda weights, frames: nnx.merge(graph, *weights, copy=True)(frames)[0],
            skeleton=found.skeleton,
            size=size,
            stride=network.stride,
            box_scale=config['data']['box_scale'],
            decoding=config['eval']['decoding'],
        )

    folded = split_model(fold(nnx.merge(graph, *weights), size), training=False)
    return Loaded(model_of(graph, weights), model_of(*folded))


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags; called when the command runs, so that commands can be imported side by side."""
    trained.define_flags(values)
    flags.DEFINE_string('out', None, 'Folder for the exported model; must not exist yet.', flag_values=values)
    flags.DEFINE_integer('frames', 5, 'T, the number of frames of the function `clip`.', lower_bound=1, flag_values=values)
    platforms = f'Target platforms: some of {", ".join(artifact.PLATFORMS)}.'
    flags.DEFINE_list('platforms', ['cpu', 'cuda', 'tpu'], platforms, flag_values=values)
    dtype = 'Precision of the convolutions, float32 or bfloat16. Default: what the run uses on this machine.'
    flags.DEFINE_enum('dtype', None, ['float32', 'bfloat16'], dtype, flag_values=values)


def run(argv: Sequence[str], options: flags.FlagValues) -> None:
    """Exports, reads the result back and compares it with the model. Raises `InputError`."""
    if len(argv) > 1:
        raise InputError(f'unexpected argument {argv[1]!r}')
    reference = trained.requested(options.model, options.workdir)
    if options.out is None:
        raise InputError('--out is needed: the folder of the exported model')
    if not options.platforms or not set(options.platforms) <= set(artifact.PLATFORMS):
        raise InputError(f'--platforms={",".join(options.platforms)}: choose some of {", ".join(artifact.PLATFORMS)}')
    out = pathlib.Path(options.out).expanduser()
    found = trained.open_trained(reference, options.checkpoint)
    model, folded = load(found, options.dtype)
    about = {'weights': found.name, 'step': found.step}
    artifact.export(folded, out, frames=options.frames, platforms=options.platforms, about=about)
    size = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    print(f'{out}: {", ".join(artifact.FUNCTIONS)} for {", ".join(options.platforms)}, {size:.1f} MB')
    sys.stdout.flush()

    shape = (CHECKED_CLIPS, options.frames, model.size, model.size, 3)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    difference = artifact.largest_difference(model, artifact.Artifact(out), frames)
    if not difference < TOLERANCE:
        raise InputError(f'{out}: its joints differ from the model by up to {difference:.3f} pixels; do not use it')
    print(f'read back and run: joints within {difference:.2g} pixels of the model')


def cli() -> None:
    """Entry point of the console script."""
    define_flags(flags.FLAGS)
    keep_compiled()
    app.run(lambda argv: run_command(run, argv, flags.FLAGS), flags_parser=functools.partial(parse_flags, flags.FLAGS))


if __name__ == '__main__':
    cli()
