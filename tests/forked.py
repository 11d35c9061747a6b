"""Python programs, forked from a process that has imported the libraries: each of them saves a second.

Our own packages are imported by every program anew. The fork server of `multiprocessing` would do, but it has one environment
for all, and its processes end without what `atexit` holds. A test of what a start itself does (imports, terminals, environment
variables) starts a process of its own.
"""

import atexit
import functools
import gc
import importlib
import json
import os
import pathlib
import runpy
import select
import signal
import subprocess
import sys
import tempfile

LIBRARIES = ('av', 'cv2', 'flax.nnx', 'grain', 'jax', 'ml_collections', 'optax', 'orbax.checkpoint', 'tensorflow_datasets')


def run(arguments: list[str], *, cwd: pathlib.Path, env: dict[str, str], timeout: float) -> subprocess.CompletedProcess:
    """`python ARGUMENTS...` (`-m MODULE ...`, `-c PROGRAM ...` or `SCRIPT ...`), with its output as text and no input."""
    own = frozenset((name, value) for name, value in env.items() if name != 'PYTEST_CURRENT_TEST')
    starter = _starter(own)
    with tempfile.TemporaryDirectory() as folder:
        out, err = f'{folder}/out', f'{folder}/err'
        request = {'arguments': arguments, 'cwd': str(cwd), 'out': out, 'err': err}
        starter.stdin.write(json.dumps(request).encode() + b'\n')
        process = int(_answer(starter))
        if not select.select([starter.stdout], [], [], timeout)[0]:
            os.kill(process, signal.SIGKILL)
            starter.stdout.readline()
            raise subprocess.TimeoutExpired(arguments, timeout)
        status = int(_answer(starter))
        return subprocess.CompletedProcess(arguments, status, pathlib.Path(out).read_text(), pathlib.Path(err).read_text())


@functools.cache
def _starter(env: frozenset[tuple[str, str]]) -> subprocess.Popen:
    """What the libraries read when they are imported is the same for all programs of a starter."""
    line = [sys.executable, __file__]
    starter = subprocess.Popen(line, bufsize=0, env=dict(env), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(_end, starter)
    return starter


def _answer(starter: subprocess.Popen) -> bytes:
    line = starter.stdout.readline()
    assert line, f'the starter of programs ended with status {starter.wait()}; its stderr says why'
    return line


def _end(starter: subprocess.Popen) -> None:
    with starter:
        starter.stdin.close()  # how it ends


def _serve() -> None:
    for library in LIBRARIES:
        importlib.import_module(library)
    assert not {'tensorflow', 'torch'} & sys.modules.keys()  # which some tests are to do without
    gc.collect()
    gc.freeze()  # the collector would copy the pages that all share
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            _become(**json.loads(line))
            return
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def _become(arguments: list[str], cwd: str, out: str, err: str) -> None:
    for number, name, mode in (
        (0, os.devnull, os.O_RDONLY),
        (1, out, os.O_CREAT | os.O_WRONLY),
        (2, err, os.O_CREAT | os.O_WRONLY),
    ):
        descriptor = os.open(name, mode, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(0)  # noqa: SIM115  without what the starter has read ahead
    os.chdir(cwd)
    if arguments[0] == '-c':
        sys.path[0], sys.argv = '', ['-c', *arguments[2:]]
        exec(arguments[1], vars(sys.modules['__main__']))
    elif arguments[0] == '-m':
        sys.path[0], sys.argv = cwd, arguments[1:]
        runpy.run_module(arguments[1], run_name='__main__', alter_sys=True)
    else:
        sys.path[0], sys.argv = str(pathlib.Path(arguments[0]).resolve().parent), arguments
        runpy.run_path(arguments[0], run_name='__main__')


if __name__ == '__main__':
    _serve()
