"""The processes of a distributed run: they meet, and all end when one of them is gone."""

import contextlib
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from typing import NoReturn

from kimnet_jax.core import signals
from kimnet_jax.core.errors import InputError, one_line
from kimnet_jax.training import sentinel

JOIN_SECONDS = 'KIMNET_JOIN_SECONDS'  # in the environment: how long processes wait for each other at the start
SILENT_SECONDS = 'KIMNET_SILENT_SECONDS'  # in the environment: after how long a process that does not answer counts as gone
RESTART = 75  # exit status (EX_TEMPFAIL): nothing is wrong here, and the same command in all processes goes on
_OWN_WORDS = 3.0  # seconds for an error of this process's own, where another one has ended with an error
_TOLD = 300  # characters


class AbsentError(InputError):
    """The others have not come in time."""


class Members:
    """This process's part in a run of several, from the meeting to the leave."""

    def __init__(self, number: int, count: int, address: str, bind: str, advice: str):
        """Waits until all processes are there.

        Args:
            number: of this process.
            count: of all.
            address: host:port of process 0.
            bind: host:port where process 0 listens.
            advice: what to do where one is gone.

        Raises:
            AbsentError: they are not there in time.
            InputError: they cannot be.
        """
        self._advice = advice
        join_seconds, silent_seconds = seconds_of(JOIN_SECONDS, 45), seconds_of(SILENT_SECONDS, 30)
        self._folder = tempfile.mkdtemp(prefix='kimnet_', dir=None if len(tempfile.gettempdir()) < 60 else '/tmp')
        setup = sentinel.Setup(number, count, address, bind, join_seconds, silent_seconds, self._folder, JOIN_SECONDS)
        self._process = subprocess.Popen(
            [sys.executable, '-I', '-S', sentinel.__file__, json.dumps(dataclasses.asdict(setup))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # what is sent to all processes of a terminal is not for it
        )
        answer = self._next() or {'refused': 'the process that watches the others has ended'}
        if 'refused' in answer:
            raise (AbsentError if answer.get('late') else InputError)(f'--distributed: {answer["refused"]}')
        self._leaving = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def socket(self, name: str) -> str:
        """The address of a socket of JAX, `sentinel.SERVICE` or `sentinel.CLIENT`."""
        return f'unix:{pathlib.Path(self._folder, name)}'

    def leave(self, status: int, told: str = '') -> None:
        """Tells the others that this process ends; with another status than 0, they end, too."""
        if self._leaving.is_set():
            return
        self._leaving.set()
        message = {'status': status, 'told': one_line(told)[:_TOLD]}
        with contextlib.suppress(OSError):  # the sentinel is gone: the others know
            print(json.dumps(message), file=self._process.stdin, flush=True)

    def wait_for_news(self, seconds: float) -> None:
        """Gives the news that another process is gone the time to arrive; they end this one."""
        time.sleep(seconds)

    def _next(self) -> dict[str, str]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line.strip() else {}

    def _listen(self) -> None:
        news = self._next()
        if self._leaving.is_set():
            return
        if 'left' in news:  # perhaps for a reason that this process has, too
            if self._leaving.wait(_OWN_WORDS + signals.GRACE * signals.noticed()):
                return
            self._end(f'{news["left"]}; {self._advice}', int(news['status']))
        reason = news.get('gone', 'the process that watches the others is gone')
        self._end(f'{reason}; {self._advice}', RESTART)

    def _end(self, told: str, status: int) -> NoReturn:
        print(f'error: {told}', file=sys.stderr, flush=True)
        os._exit(status)


def seconds_of(variable: str, default: int) -> float:
    """An environment variable. Raises `InputError` where it is not a positive number."""
    given = os.environ.get(variable, '')
    try:
        seconds = float(given or default)
    except ValueError:
        seconds = 0
    if not 0 < seconds < 1e6:
        raise InputError(f'{variable}={given}: must be a positive number of seconds')
    return seconds
