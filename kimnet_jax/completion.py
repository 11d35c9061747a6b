"""Completion of commands and flags: `kimnet completion bash|zsh|fish` prints a script for the shell to read.

bash:  kimnet completion bash > ~/.local/share/bash-completion/completions/kimnet
zsh:   kimnet completion zsh >> ~/.zshrc
fish:  kimnet completion fish > ~/.config/fish/completions/kimnet.fish
"""

import contextlib
import importlib
import io
import re
import sys
from collections.abc import Mapping

from absl import flags

from kimnet_jax.__main__ import COMMANDS
from kimnet_jax.core.command import run_command
from kimnet_jax.core.errors import InputError

_BASH = """\
_kimnet() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} words=''
  if [ "$COMP_CWORD" -eq 1 ]; then
    words='{commands} --help --version'
  elif [ "${{current:0:1}}" = - ]; then
    case ${{COMP_WORDS[1]}} in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _kimnet kimnet
"""
_ZSH = 'autoload -Uz compinit bashcompinit && compinit && bashcompinit\n'


def flags_of(command: str) -> list[str]:
    """The flags of a command of `kimnet`, without their dashes."""
    module = importlib.import_module(COMMANDS[command].module)
    if define := getattr(module, 'define_flags', None):
        values = flags.FlagValues()
        define(values)
        return sorted([*values, 'help'])
    if make_parser := getattr(module, 'make_parser', None):
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            make_parser().parse_args(['--help'])
        usage, *_ = text.getvalue().split('\n\n')
        names = {name.replace('-', '_') for name in re.findall(r'--([\w-]+)', usage)}  # TFDS's have both forms
        return sorted({*names, 'help'})
    return ['help']


def script(shell: str, options: Mapping[str, list[str]]) -> str:
    """The completion script of a shell, with the flags of every command. Raises `InputError` if there is none for it."""
    if shell in ('bash', 'zsh'):
        cases = '\n'.join(
            f"      {name}) words='{' '.join(f'--{flag}' for flag in given)}' ;;" for name, given in options.items()
        )
        return (_ZSH if shell == 'zsh' else '') + _BASH.format(commands=' '.join(options), cases=cases)
    if shell != 'fish':
        raise InputError(f'{shell!r}: completion is for bash, zsh and fish')
    lines = []
    for name, given in options.items():
        lines.append(f'complete -c kimnet -f -n __fish_use_subcommand -a {name} -d "{COMMANDS[name].summary}"')
        lines += [f"complete -c kimnet -n '__fish_seen_subcommand_from {name}' -l {flag}" for flag in given]
    return '\n'.join(lines) + '\n'


def main(argv: list[str]) -> None:
    """Prints the script for the shell that the command line (`argv[0]` is the program) names. Raises `InputError`."""
    if argv[1:] in (['--help'], ['-h'], ['-help']):
        print(__doc__)
        return
    if len(argv) != 2:
        raise InputError('name one shell: kimnet completion bash, zsh or fish')
    print(script(argv[1], {name: flags_of(name) for name in COMMANDS}), end='')


if __name__ == '__main__':
    run_command(main, sys.argv)
