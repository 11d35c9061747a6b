"""One command for all: `kimnet train ...` is `python -m kimnet_jax.train ...`."""

import runpy
import sys

from kimnet_jax.core.signals import stoppable_while_importing

_MODULES = ('convert', 'evaluate', 'export', 'occlusion', 'parity', 'predict', 'refine', 'reproduce', 'train')
COMMANDS = {name: name for name in _MODULES} | {'models': 'pretrained'}


def main() -> None:
    """Hands the rest of the command line to the module that is named first."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(f'usage: kimnet {{{",".join(COMMANDS)}}} [--help] ...', file=sys.stderr)
        sys.exit(2)
    stoppable_while_importing()
    command = COMMANDS[sys.argv.pop(1)]
    runpy.run_module(f'kimnet_jax.{command}', run_name='__main__', alter_sys=True)  # --help shows the main module's flags


if __name__ == '__main__':
    main()
