"""The completion scripts, read by a real shell where there is one."""

import subprocess

import pytest

from kimnet_jax.__main__ import COMMANDS
from kimnet_jax.completion import flags_of, script
from kimnet_jax.core.errors import InputError


@pytest.fixture(scope='module')
def options() -> dict[str, list[str]]:
    return {name: flags_of(name) for name in COMMANDS}


def test_every_command_has_its_flags(options):
    assert {'config', 'workdir', 'distributed', 'help'} == set(options['train'])
    assert {'data_dir', 'manual_dir', 'leave_out_damaged', 'num_processes'} <= set(options['build'])
    assert set(options['clip']) == {'data_dir', 'split', 'clip', 'out', 'overwrite', 'help'}
    assert options['completion'] == ['help']


@pytest.mark.parametrize(
    ('typed', 'expected'),
    [
        (['tr'], ['train']),
        (['--v'], ['--version']),
        (['train', '--w'], ['--workdir']),
        (['doctor', '--'], ['--help', '--json', '--pixels']),
        (['doctor', 'fol'], []),  # files, which bash completes itself
    ],
)
def test_bash(options, tmp_path, typed, expected):
    file = tmp_path / 'kimnet.bash'
    file.write_text(script('bash', options))
    words = ' '.join(f"'{word}'" for word in ['kimnet', *typed])
    ask = f'source {file}; COMP_WORDS=({words}); COMP_CWORD={len(typed)}; _kimnet; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(['bash', '-c', ask], capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected


def test_zsh_reads_that_of_bash_and_fish_has_every_flag(options):
    assert script('zsh', options).endswith(script('bash', options))
    lines = script('fish', options).splitlines()
    assert len(lines) == sum(1 + len(given) for given in options.values())
    assert "complete -c kimnet -n '__fish_seen_subcommand_from predict' -l boxes" in lines


def test_other_shells_are_refused(options):
    with pytest.raises(InputError, match="'tcsh': completion is for bash, zsh and fish"):
        script('tcsh', options)
