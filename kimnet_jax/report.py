"""One HTML page on training runs: `python -m kimnet_jax.report RUN... [--out report.html] [--evaluate] [--data_dir data]`.

Shows what was trained on what, curves, the tables that `evaluate` wrote, and, from its predictions, actions, errors and clips.
The page needs no other file and no network.
"""

from collections.abc import Sequence

from absl import flags

from kimnet_jax import command_line
from kimnet_jax.core import paths
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.files import require_free

_SUFFIXES = ('.html', '.htm')


def define_flags(values: flags.FlagValues) -> None:
    """The command's flags; called when the command runs, so that commands can be imported side by side."""
    flags.DEFINE_string('out', 'report.html', f'File to write, ending in {" or ".join(_SUFFIXES)}.', flag_values=values)
    checkpoint = "Which checkpoint of each run: 'best', 'last' or a step."
    flags.DEFINE_string('checkpoint', 'best', checkpoint, flag_values=values)
    data_dir = 'Folder of the built data set, which clips are drawn from. Default: the one used in training.'
    flags.DEFINE_string('data_dir', None, data_dir, flag_values=values)
    evaluate = 'First evaluate the runs whose checkpoint has no evaluation with predictions yet.'
    flags.DEFINE_bool('evaluate', False, evaluate, flag_values=values)


def run(argv: Sequence[str], options: flags.FlagValues) -> None:
    """Writes the page."""
    folders = [paths.folder(part) for part in argv[1:]]
    out = paths.folder(options.out, '--out')
    if not folders:
        raise InputError('no run given; name the folders of one or more runs: kimnet report RUN...')
    if out.suffix not in _SUFFIXES:
        raise InputError(f'--out {options.out}: the page is HTML; let the name end in {" or ".join(_SUFFIXES)}')
    require_free([out])  # before anything is loaded

    from kimnet_jax.tasks import report

    report.write(folders, out, **command_line.values_of(options, 'checkpoint', 'data_dir', 'evaluate'))


def cli() -> None:
    """Entry point of the console script."""
    command_line.start(run, define_flags, urls=('', 'data_dir', 'out'))


if __name__ == '__main__':
    cli()
