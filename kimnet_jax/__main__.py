"""One command for all: `kimnet train ...` is `python -m kimnet_jax.train ...`."""

import difflib
import runpy
import sys
from typing import NamedTuple

from kimnet_jax import __version__
from kimnet_jax.core.command import fail
from kimnet_jax.core.signals import stoppable_while_importing


class Command(NamedTuple):
    """Attributes:
    module: that is run.
    summary: what it does, in a line.
    """

    module: str
    summary: str


GROUPS: dict[str, dict[str, Command]] = {
    'Use trained networks': {
        'predict': Command('kimnet_jax.predict', 'Estimate the poses in videos.'),
        'refine': Command('kimnet_jax.refine', 'Refine files of poses with HANet.'),
        'visualize': Command('kimnet_jax.visualize', 'Draw what networks predict, and what with.'),
        'models': Command('kimnet_jax.pretrained', 'List the pretrained networks, or show the card of one.'),
    },
    'Prepare data': {
        'build': Command('kimnet_jax.data_pipelines.build', 'Build a data set from its download.'),
        'doctor': Command('kimnet_jax.data_pipelines.doctor', 'Check a download or a built data set.'),
        'compact': Command('kimnet_jax.data_pipelines.compact', 'Copy a built data set into a given number of megabytes.'),
        'clip': Command('kimnet_jax.data_pipelines.export', 'Write a clip of a built data set as a folder of images.'),
    },
    'Train and measure': {
        'plan': Command('kimnet_jax.plan', 'Tell what a training will need, before its devices are rented.'),
        'train': Command('kimnet_jax.train', 'Train a network, or resume a training.'),
        'evaluate': Command('kimnet_jax.evaluate', 'Measure a network on a split of a data set.'),
        'posetrack': Command(
            'kimnet_jax.data_pipelines.builders.posetrack.official', "Write poses as PoseTrack's own evaluation reads them."
        ),
        'report': Command('kimnet_jax.report', 'Put runs side by side on one HTML page.'),
        'occlusion': Command('kimnet_jax.occlusion', 'Measure networks under occlusion.'),
        'reproduce': Command('kimnet_jax.reproduce', "Train the rows of the paper's tables and compare them."),
    },
    'Exchange weights': {
        'convert': Command('kimnet_jax.convert', 'Convert weights from and to PyTorch.'),
        'parity': Command('kimnet_jax.parity', 'Compare a network with its PyTorch twin, module by module.'),
        'export': Command('kimnet_jax.export', 'Export a network as StableHLO for deployment.'),
    },
    'Set up the shell': {
        'completion': Command('kimnet_jax.completion', 'Print the completion script for bash, zsh or fish.'),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


def overview() -> str:
    """What `kimnet --help` prints."""
    width = max(map(len, COMMANDS))
    lines = ['usage: kimnet COMMAND [ARGUMENT ...]', '       kimnet COMMAND --help', '       kimnet --version']
    for title, group in GROUPS.items():
        lines += ['', f'{title}:', *(f'  {name:{width}}  {command.summary}' for name, command in group.items())]
    return '\n'.join(lines)


def main() -> None:
    """Hands the rest of the command line to the module of the command that is named first."""
    name = sys.argv[1] if len(sys.argv) > 1 else ''
    if name in ('--help', '-h', '-help', 'help'):
        print(overview())
        return
    if name in ('--version', '-version', '-V'):
        print(f'kimnet {__version__}')
        return
    if not name:
        fail('no command given; `kimnet --help` lists the commands')
    if name not in COMMANDS:
        alike = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f'did you mean {alike[0]}?' if alike else '`kimnet --help` lists the commands'
        fail(f'{name!r} is not a command; {hint}')
    stoppable_while_importing()
    del sys.argv[1]
    runpy.run_module(COMMANDS[name].module, run_name='__main__', alter_sys=True)  # --help shows the main module's flags


if __name__ == '__main__':
    main()
