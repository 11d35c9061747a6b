"""The models that travel with the package: `python -m kimnet_jax.pretrained [NAME]` lists them, or shows the card of one."""

import sys

from kimnet_jax.core.command import run_command
from kimnet_jax.core.errors import InputError
from kimnet_jax.pretrained import DEFAULT, catalogue


def main(argv: list[str]) -> None:
    """Prints what the command line (`argv[0]` is the program) asks for. Raises `InputError` on an unknown name."""
    known = catalogue()
    if argv[1:] in (['--help'], ['-h'], ['-help']):
        print(__doc__)
        return
    if len(argv) > 2:
        raise InputError(f'unexpected argument {argv[2]!r}; give one name, or none for the list')
    if len(argv) == 2:
        if argv[1] not in known:
            raise InputError(f'{argv[1]!r}: no pretrained model has that name; known: {", ".join(known)}')
        print(known[argv[1]].card.read_text(encoding='utf-8'), end='')
        return
    width = max(map(len, known))
    for name, entry in known.items():
        size = entry.file.stat().st_size / 1e6
        print(f'{name:{width}}  {size:4.1f} MB  {entry.summary}{" (default of predict)" if name == DEFAULT else ""}')


if __name__ == '__main__':
    run_command(main, sys.argv)
