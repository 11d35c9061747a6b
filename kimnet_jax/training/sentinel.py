"""A process beside each process of a distributed run, which notices within seconds when another one is gone.

It is a process of its own, so that a main process in which a compiler or a C library is busy for minutes still answers, and so
that it can report the death of the main process. It needs the standard library alone and starts in milliseconds.

The sentinel of process 0 listens at the coordinator's address. The others are connected to it, and each connection carries a beat
every `BEAT` seconds. JAX's own connections go through the sentinels, too: JAX ends a process with pages of C++ as soon as its
connection to the coordinator breaks, so the sentinel holds that one while it says who is gone. No clocks are compared.

Messages are JSON, one in a line; an empty line is a beat. The main process gets on stdout `{"joined": true}`,
`{"refused": text, "late": bool}`, `{"gone": text}` or `{"left": text, "status": n}`. Before it ends, it sends
`{"status": n, "told": text}`.
"""

import asyncio
import contextlib
import dataclasses
import errno
import json
import os
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

BEAT = 2.0  # seconds between two beats
BIND_SECONDS = 10.0  # how long the port may still be in use by the run before
LINGER = 5.0  # seconds that others get to close their connections, and the main process to end
RETRY = 0.5  # seconds between two attempts
SHOWN = 8  # numbers in a message
SERVICE, CLIENT = 'service', 'client'  # sockets of JAX in the folder of a sentinel
_HTTP = b'PRI '  # how JAX's connections begin; ours begin with a brace
_LONGEST = 1 << 24  # bytes of a message: the names of all processes
Message = dict[str, Any]
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a sentinel is told at its start.

    Attributes:
        number: of the main process.
        count: of processes in the run.
        address: host:port of the coordinator.
        bind: host:port where process 0 listens.
        join_seconds: that the processes wait for each other.
        silent_seconds: after which a process that does not answer counts as gone.
        folder: for the sockets of JAX.
        join_variable: the environment variable that sets `join_seconds`, for messages.
    """

    number: int
    count: int
    address: str
    bind: str
    join_seconds: float
    silent_seconds: float
    folder: str
    join_variable: str


def split_address(address: str) -> tuple[str, int]:
    """(host, port) of `host:port`. Raises `ValueError` where it is none."""
    host, _, port = address.rpartition(':')
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f'{address!r} is not host:port')
    return host.strip('[]'), int(port)


@dataclasses.dataclass
class _Member:
    """A process of the run.

    Attributes:
        number: its own.
        host, pid: where it runs.
        writer: to its sentinel, where there is a connection.
        heard: when something came from there.
        left: it has taken its leave.
    """

    number: int
    host: str
    pid: int
    writer: asyncio.StreamWriter | None = None
    heard: float = 0.0
    left: bool = False

    def send(self, message: Message | None) -> None:
        """None: a beat."""
        if self.writer is not None and not self.writer.is_closing():
            self.writer.write((b'' if message is None else json.dumps(message).encode()) + b'\n')


class _RefusedError(Exception):
    """This process cannot join.

    Attributes:
        lasting: trying again now would not help.
        late: others have not come; they may at the next start.
    """

    def __init__(self, text: str, *, lasting: bool = False, late: bool = False):
        super().__init__(text)
        self.lasting, self.late = lasting, late

    @property
    def message(self) -> Message:
        """For another sentinel or the main process."""
        return {'refused': str(self), 'lasting': self.lasting, 'late': self.late}


class _Main:
    """The main process, at the other end of stdin and stdout."""

    def __init__(self) -> None:
        self.pid = os.getppid()
        self.over = asyncio.Event()  # it has left or is gone
        self.ended = asyncio.Event()

    def say(self, message: Message) -> None:
        with contextlib.suppress(OSError):
            os.write(1, json.dumps(message).encode() + b'\n')

    async def follow(self, tell: Callable[[Message | None], None]) -> None:
        """Calls `tell` with its last words, or None."""
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        words: Message | None = None
        with contextlib.suppress(ValueError):  # cut off, or none
            words = json.loads(await self._unless_dead(reader.readline()))
        tell(words)
        self.over.set()
        await self._unless_dead(reader.read())
        self.ended.set()

    async def _unless_dead(self, reading: Awaitable[bytes]) -> bytes:
        """What it reads, b'' once the main process is dead: one that was forked from it may keep its end of the pipe open."""
        task = asyncio.ensure_future(reading)
        while os.getppid() == self.pid:
            if (await asyncio.wait([task], timeout=BEAT))[0]:
                return task.result()
        return task.result() if task.done() else b''

    def stopped(self) -> bool:
        """By SIGSTOP or a debugger; only Linux tells."""
        try:
            with open(f'/proc/{self.pid}/stat', 'rb') as file:
                return file.read().rpartition(b')')[2].split()[0] in b'Tt'
        except (OSError, IndexError):
            return False

    async def end(self, message: Message) -> None:
        """Has it print a message and end. Where it does not, as it is inside of a library, prints and ends it."""
        self.say(message)
        deadline = time.monotonic() + LINGER
        while time.monotonic() < deadline:
            if self.ended.is_set():
                return
            if self.stopped():
                deadline = time.monotonic() + LINGER
            await asyncio.sleep(0.1)
        print(f'error: {message.get("gone") or message.get("left")}', file=sys.stderr, flush=True)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class _Sentinel:
    """What those of all processes have in common."""

    def __init__(self, setup: Setup):
        self.setup, self.main = setup, _Main()
        self.members = {setup.number: _Member(setup.number, socket.gethostname(), self.main.pid)}
        self.complete = asyncio.Event()  # all processes are there
        self.news: asyncio.Queue[Message] = asyncio.Queue()  # who has left or is gone
        self.relays: set[asyncio.Task[None] | None] = set()
        self._deadline = time.monotonic() + setup.join_seconds
        self._told = False  # the news that end the run
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until the main process has ended."""
        self.begin(self.main.follow(self._tell_last_words))
        joining, over = self.begin(self.join()), self.begin(self.main.over.wait())
        try:
            await asyncio.wait([joining, over], return_when=asyncio.FIRST_COMPLETED)
            if joining.done():
                joining.result()
                self.main.say({'joined': True})
                await self._guard()
        except _RefusedError as refusal:
            self.main.say(refusal.message)
            await self._wait(self.main.ended.wait(), LINGER)
        await self._close()

    async def join(self) -> None:
        """Returns once all processes are there. Raises `_RefusedError`."""
        raise NotImplementedError

    def begin(self, coroutine: Any) -> asyncio.Task[None]:
        """Runs it beside the rest."""
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def left_to_join(self) -> float:
        """Seconds."""
        return max(self._deadline - time.monotonic(), 0)

    def late(self, missing: list[int]) -> _RefusedError:
        """That these processes have not come."""
        shown = ', '.join(map(str, missing[:SHOWN])) + (f' and {len(missing) - SHOWN} more' if len(missing) > SHOWN else '')
        return _RefusedError(
            f'not all processes joined within {self.setup.join_seconds:g} s: of {self.setup.count}, '
            f'{f"number {shown} is" if len(missing) == 1 else f"numbers {shown} are"} missing; start them all, or increase '
            f'{self.setup.join_variable}',
            late=True,
        )

    def name(self, number: int) -> str:
        """Of a process, with its place."""
        member = self.members.get(number)
        return f'process {number} of {self.setup.count}' + (f' ({member.host}, process id {member.pid})' if member else '')

    def send_all(self, message: Message | None) -> None:
        """To all sentinels that this one is connected to."""
        for member in self.members.values():
            member.send(message)

    async def listen(self, member: _Member, reader: asyncio.StreamReader) -> None:
        """Takes in what another sentinel says, until the connection ends."""
        with contextlib.suppress(OSError, ValueError):
            while line := await reader.readline():
                member.heard = time.monotonic()
                if line.strip():
                    self.take(member, json.loads(line))
        if not member.left:
            self.news.put_nowait({'gone': member.number, 'why': 'its connection is closed'})

    def take(self, member: _Member, message: Message) -> None:
        """One message of another sentinel."""
        member.left |= message.get('left') == member.number
        self.news.put_nowait(message)

    async def relay(self, one: Connection, other: Connection, *, hold: bool) -> None:
        """Joins two connections until one of them ends; with `hold`, until `one` does."""
        task = asyncio.current_task()
        self.relays.add(task)
        there, back = self.begin(_copy(one[0], other[1])), self.begin(_copy(other[0], one[1]))
        await asyncio.wait([there] if hold else [there, back], return_when=asyncio.FIRST_COMPLETED)
        if hold:
            await _until_end(one[0])
        for _, writer in (one, other):
            writer.close()
        self.relays.discard(task)

    def forget_news(self) -> None:
        """Those of attempts to meet."""
        while not self.news.empty():
            self.news.get_nowait()

    def socket_path(self, name: str) -> str:
        """Of JAX."""
        return os.path.join(self.setup.folder, name)

    def _tell_last_words(self, message: Message | None) -> None:
        if self._told:  # it ends since another one is gone
            return
        number = self.setup.number
        self.send_all({'left': number, **message} if message else {'gone': number, 'why': 'it was killed, or it crashed'})

    async def _guard(self) -> None:
        """Beats, and waits for bad news, until the main process has ended."""
        while not self.main.over.is_set():
            news = await self._next_news()
            if news is None or news.get('status') == 0:
                continue
            self._told = True
            self.send_all(news)
            if 'left' in news:
                word = {'left': f'{self.name(news["left"])} has ended: {news["told"]}', 'status': news['status']}
            else:
                word = {'gone': f'{self.name(news["gone"])} is gone: {news["why"]}'}
            await self.main.end(word)
            return

    async def _next_news(self) -> Message | None:
        """None where there are none within a beat."""
        asleep = time.monotonic()
        news = self.begin(self.news.get())
        over = self.begin(self.main.over.wait())
        await asyncio.wait([news, over], timeout=BEAT, return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        if news.done():
            return news.result()
        news.cancel()
        now = time.monotonic()
        if not self.main.stopped():
            self.send_all(None)
        for member in self.members.values():
            member.heard += max(now - asleep - BEAT, 0)  # what this process slept through is nobody's silence
            if member.writer is not None and not member.left and now - member.heard > self.setup.silent_seconds:
                return {'gone': member.number, 'why': f'it has not answered for {self.setup.silent_seconds:g} s'}
        return None

    async def _close(self) -> None:
        if self.setup.number == 0 and self.relays:
            await asyncio.wait([task for task in self.relays if task], timeout=LINGER)
        for member in self.members.values():
            if member.writer is not None:
                await self._wait(member.writer.drain(), LINGER)
                member.writer.close()

    @staticmethod
    async def _wait(coroutine: Any, seconds: float) -> None:
        with contextlib.suppress(OSError):
            await asyncio.wait_for(coroutine, seconds)


class _Leader(_Sentinel):
    """Of process 0."""

    async def join(self) -> None:
        await self._bind()
        while missing := self._missing():
            if not self.left_to_join():
                late = self.late(missing)
                self.send_all(late.message | {'lasting': True})
                raise late
            self.send_all({'missing': missing})
            await self._wait(self.complete.wait(), min(self.left_to_join(), RETRY))
        self.send_all({'names': [[member.number, member.host, member.pid] for member in self.members.values()]})

    def _missing(self) -> list[int]:
        return sorted(set(range(self.setup.count)) - self.members.keys())

    async def _bind(self) -> None:
        setup, deadline = self.setup, time.monotonic() + min(BIND_SECONDS, self.left_to_join())
        host, port = split_address(setup.bind)
        while True:
            try:
                await asyncio.start_server(self._accept, None if host == '::' else host, port, limit=_LONGEST, backlog=1024)
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    reason = error.strerror or str(error)
                    raise _RefusedError(f'process 0 cannot listen at {setup.bind} ({reason}); correct the address') from error
                if time.monotonic() > deadline:
                    raise _RefusedError(
                        f'port {port} of this machine is in use by another program, perhaps another run; end that, or choose '
                        f'another port than that of JAX_COORDINATOR_ADDRESS={setup.address}, for all processes'
                    ) from error
            await asyncio.sleep(RETRY)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            begin = await reader.readexactly(len(_HTTP))
            if begin == _HTTP:
                service = await self._service()
                service[1].write(begin)
                await self.relay((reader, writer), service, hold=False)
                return
            hello = json.loads(begin + await reader.readline())
            member = _Member(int(hello['number']), str(hello['host']), int(hello['pid']), writer, time.monotonic())
            count = int(hello['count'])
        except (OSError, ValueError, KeyError, TypeError, asyncio.IncompleteReadError):
            writer.close()  # of something that tries ports
            return
        number, there = member.number, member.number in self.members
        refusal = None
        if count != self.setup.count or not 0 < number < count:
            refusal = _RefusedError(
                f'this is process {number} of {count}, and process 0 is one of {self.setup.count}: correct JAX_NUM_PROCESSES and '
                'JAX_PROCESS_ID',
                lasting=True,
            )
        elif there:
            refusal = _RefusedError(f'there is another {self.name(number)}: give each process a JAX_PROCESS_ID of its own')
        if refusal:
            member.send(refusal.message)
            writer.close()
        else:
            self.members[number] = member
            member.send({'missing': self._missing()})
            if not self._missing():
                self.complete.set()
            await self.listen(member, reader)

    async def _service(self) -> Connection:
        """A connection to JAX's, which process 0 starts once all are there, perhaps after others ask for it."""
        while not self.main.over.is_set():
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                return await asyncio.open_unix_connection(self.socket_path(SERVICE))
            await asyncio.sleep(0.1)
        raise ConnectionAbortedError

    async def listen(self, member: _Member, reader: asyncio.StreamReader) -> None:
        await super().listen(member, reader)
        if not self.complete.is_set():  # it may be started anew
            del self.members[member.number]
            self.forget_news()


class _Follower(_Sentinel):
    """Of another process."""

    def __init__(self, setup: Setup):
        super().__init__(setup)
        self._missing: list[int] = []  # processes, as far as process 0 has told
        self._refusal: _RefusedError | None = None  # the last one that process 0 gave

    async def join(self) -> None:
        while not self.complete.is_set():
            try:
                await self._try()
            except _RefusedError as refusal:
                if refusal.lasting or self.left_to_join() < 2 * RETRY:
                    raise
                await asyncio.sleep(RETRY)
        await asyncio.start_unix_server(self._accept_jax, self.socket_path(CLIENT))

    async def _try(self) -> None:
        """Raises `_RefusedError` where the run does not come about in this attempt."""
        setup, reason = self.setup, 'no answer'
        try:
            opening = asyncio.open_connection(*split_address(setup.address), limit=_LONGEST)
            reader, writer = await asyncio.wait_for(opening, max(self.left_to_join(), 0.1))
        except OSError as error:
            if not isinstance(error, TimeoutError):
                reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
            raise _RefusedError(
                f'nothing was listening at JAX_COORDINATOR_ADDRESS={setup.address} for {setup.join_seconds:g} s ({reason}); '
                f'start process 0 there, correct the address, or increase {setup.join_variable}',
                late=True,
            ) from error
        self._missing = []
        leader = self.members[0] = _Member(0, setup.address, 0, writer, time.monotonic())
        me = self.members[setup.number]
        leader.send({'number': setup.number, 'count': setup.count, 'host': me.host, 'pid': me.pid})
        listening, complete = self.begin(self.listen(leader, reader)), self.begin(self.complete.wait())
        awaited = [listening, complete]
        await asyncio.wait(awaited, timeout=self.left_to_join(), return_when=asyncio.FIRST_COMPLETED)
        if self._missing and not listening.done():  # process 0 says how long it waits
            await asyncio.wait(awaited, timeout=setup.join_seconds + LINGER, return_when=asyncio.FIRST_COMPLETED)
        complete.cancel()
        if self.complete.is_set():
            return
        listening.cancel()
        writer.close()
        del self.members[0]
        self.forget_news()
        if self._missing and not (self._refusal and self._refusal.lasting):
            self._refusal = self.late(self._missing)
        raise self._refusal or _RefusedError(
            f'what listens at JAX_COORDINATOR_ADDRESS={setup.address} is not process 0 of this run; correct the address, or '
            'choose another port for all processes'
        )

    def take(self, member: _Member, message: Message) -> None:
        if 'names' in message:
            for number, host, pid in message['names']:
                known = self.members.setdefault(number, _Member(number, host, pid))
                known.host, known.pid = host, pid
            self.complete.set()
        elif 'missing' in message:
            self._missing = message['missing']
        elif 'refused' in message:
            self._refusal = _RefusedError(message['refused'], lasting=message['lasting'], late=message['late'])
        else:
            super().take(member, message)

    async def _accept_jax(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            coordinator = await asyncio.open_connection(*split_address(self.setup.address))
        except OSError:  # process 0 is gone, which the guard knows
            await _until_end(reader)
            return
        await self.relay((reader, writer), coordinator, hold=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()


async def _until_end(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(1 << 16):
            pass


async def _run(setup: Setup) -> None:
    await (_Follower if setup.number else _Leader)(setup).run()
    shutil.rmtree(setup.folder, ignore_errors=True)
    os._exit(0)  # asyncio would tell of the connections that are still open


if __name__ == '__main__':
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # three connections of each process
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # which a scheduler sends to all processes of a job
        signal.signal(number, signal.SIG_IGN)
    asyncio.run(_run(Setup(**json.loads(sys.argv[1]))))
