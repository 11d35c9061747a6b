"""Runs a command in this process and judges how it ended."""

import contextlib
import dataclasses
import io
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import TextIO, cast
from unittest import mock

from absl import flags

from kimnet_jax import config_flag
from kimnet_jax.command_line import parse_flags, split_settings
from kimnet_jax.core.command import _WithoutForeignThreads, explained, run_command

LONGEST = 60.0  # seconds
HIDDEN = ('.unfinished-', '.building-')  # beginnings of what must not be left behind


@dataclasses.dataclass
class Outcome:
    """Attributes:
    status: the exit status; None where the command ended with a traceback.
    out, err: what it printed.
    trace: the traceback.
    seconds: how long it took.
    """

    status: int | None
    out: str
    err: str
    trace: str
    seconds: float

    def fault(self, allowed: Sequence[int] = (0, 2)) -> str:
        """What is wrong with it, '' where nothing is."""
        if self.status is None:
            return f'traceback: {self.trace}'
        if self.status not in allowed:
            return f'exit status {self.status}: {self.err}'
        if 'Traceback' in self.err:
            return f'traceback on stderr: {self.err}'
        lines = self.err.splitlines()
        if self.status == 2 and not any(line.startswith('error: ') for line in lines):
            return f'no line that says the error: {self.err!r}'
        strange = [line for line in lines if not line.startswith(('error: ', 'warning: '))]
        if strange:
            return f'a line that is neither error nor warning: {strange[0]!r}'
        if self.seconds > LONGEST:
            return f'{self.seconds:.0f} s'
        return ''


def start(module: ModuleType, arguments: Sequence[str]) -> Outcome:
    """Runs a command, such as the module `kimnet_jax.predict`, on a command line without the program's name."""
    argv = [module.__name__, *arguments]

    def work() -> None:
        if hasattr(module, 'main'):
            run_command(module.main, argv)
        if module.__name__ == 'kimnet_jax.train':
            with explained():
                argv[1:] = [
                    f'--config={config_flag.shipped_config(part[9:])}' if part[:9] == '--config=' else part for part in argv[1:]
                ]
        values = flags.FlagValues()
        module.define_flags(values)
        passed_on = module.__name__ in ('kimnet_jax.reproduce', 'kimnet_jax.convert')
        line, settings = split_settings(argv) if passed_on else (argv, [])
        rest = parse_flags(values, line)
        run_command(module.run, rest, *([settings] if passed_on else []), values)

    out = io.TextIOWrapper(io.BytesIO(), 'utf-8', write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), 'utf-8', 'backslashreplace', write_through=True)
    began, status, trace = time.monotonic(), None, ''
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(cast(TextIO, _WithoutForeignThreads(err))),
        mock.patch.object(sys, 'argv', argv),
    ):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                work()
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            trace = traceback.format_exc()
    texts = [stream.buffer.getvalue().decode('utf-8', 'replace') for stream in (out, err)]
    return Outcome(status, *texts, trace, time.monotonic() - began)
