"""Runs in remote folders: in the memory file system, and in a bucket of a local server that speaks Cloud Storage's protocol."""

import http.server
import json
import pathlib
import threading
import time

import pytest
from gcp_storage_emulator import server as emulator
from test_checkpoint import equal, state_of, write
from test_devices import start
from test_resume import arrays, records
from test_resume import steps as local_steps

from kimnet_jax.core import paths
from kimnet_jax.core.errors import InputError
from kimnet_jax.training import remote
from kimnet_jax.training.checkpoint import Checkpoints
from kimnet_jax.training.workdir import alone_together
from kimnet_jax.training.writers import JsonLines

INTERRUPTED = pathlib.Path(__file__).with_name('interrupted_train.py')


@pytest.fixture
def workdir(tmp_path, monkeypatch) -> pathlib.Path:
    """A remote folder that a test has to itself."""
    monkeypatch.setenv('KIMNET_CACHE', str(tmp_path / 'cache'))
    return paths.folder(f'memory://{tmp_path.name}/run')


def steps(workdir: pathlib.Path) -> list[int]:
    names = paths.listed(workdir / 'checkpoints')
    return sorted({int(name.partition('/')[0]) for name in names if name.endswith(remote.MARK) and name.count('/') == 1})


def test_newest_two_and_best_are_kept_and_come_back_whole(workdir):
    write(workdir, {3: None, 6: 0.7, 9: None, 12: 0.6, 15: None})
    assert steps(workdir) == [6, 12, 15]
    assert {name.partition('/')[0] for name in paths.listed(workdir / 'checkpoints')} == {'6', '12', '15'}
    state, meta = Checkpoints(workdir).restore_newest(state_of(0))
    assert equal(state, state_of(15))
    assert meta['step'] == 15
    weights, meta = Checkpoints(workdir, read_only=True).restore_weights('best', state_of(0).weights)
    assert meta['step'] == 6
    assert equal(weights, state_of(6).average)


def test_only_what_is_asked_for_is_copied(workdir):
    write(workdir, {3: None, 6: 0.7, 9: None})
    there = Checkpoints(workdir, read_only=True)
    place = there._remote.place
    assert not [*place.glob('*/weights')]
    there.read_weights('best')
    assert [path.parent.name for path in place.glob('*/weights')] == ['6']


def test_what_a_killed_upload_left_does_not_count(workdir):
    write(workdir, {3: None, 6: None})
    paths.remove(workdir / 'checkpoints' / '6' / remote.MARK)
    checkpoints = Checkpoints(workdir)
    assert checkpoints.steps() == [3]
    stray = workdir / 'checkpoints' / '6' / 'stray'
    stray.write_bytes(b'half')
    checkpoints.save(6, state_of(6), {}, 0.5)
    checkpoints.close()
    assert steps(workdir) == [3, 6]
    assert not stray.exists()
    assert equal(Checkpoints(workdir).restore_newest(state_of(0))[0], state_of(6))


def test_a_step_that_is_saved_again_replaces_the_one_before(workdir):
    write(workdir, {3: None, 6: None})
    checkpoints = Checkpoints(workdir)
    checkpoints.restore_newest(state_of(0))
    checkpoints.save(6, state_of(7), {}, 0.5)
    checkpoints.close()
    assert steps(workdir) == [3, 6]
    assert equal(Checkpoints(workdir).restore_newest(state_of(0))[0], state_of(7))


def test_a_damaged_one_is_set_aside(workdir, capsys):
    write(workdir, {3: None, 6: None})
    names = paths.listed(workdir / 'checkpoints' / '6')
    largest = max(names, key=names.get)
    file = workdir / 'checkpoints' / '6' / largest
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(bytes(data))
    state, _ = Checkpoints(workdir).restore_newest(state_of(0))
    assert equal(state, state_of(3))
    assert f'moved to {workdir}/damaged_checkpoints/6' in capsys.readouterr().err
    assert steps(workdir) == [3]
    assert largest in paths.listed(workdir / 'damaged_checkpoints' / '6')


def test_metrics_are_there_before_the_checkpoint_that_counts_on_them(workdir, monkeypatch):
    order = []
    upload = paths.upload
    monkeypatch.setattr(paths, 'upload', lambda source, target: (order.append(target.name), upload(source, target)))
    run = remote.RemoteRun(workdir)
    writer = JsonLines(run.place, step=0, evaluated=False, config={})
    checkpoints = Checkpoints(workdir, before_publishing=run.publish)
    writer.scalars('train', 1, 0.5, {'loss': 1.0})
    checkpoints.save(1, state_of(1), {})
    checkpoints.wait()
    assert order.index('metrics.jsonl') < order.index(remote.MARK)
    assert order[-1] == remote.MARK
    writer.scalars('train', 2, 1.0, {'loss': 1.0})
    run.close()
    checkpoints.close()
    assert len((workdir / 'metrics.jsonl').read_text().splitlines()) == 2

    again = remote.RemoteRun(workdir)  # takes up the metrics, and drops those after the checkpoint
    JsonLines(again.place, step=1, evaluated=False, config={})
    again.close()
    assert [json.loads(line)['step'] for line in (workdir / 'metrics.jsonl').read_text().splitlines()] == [1]


def test_metrics_are_copied_now_and_then(workdir, monkeypatch):
    monkeypatch.setattr(remote, 'SECONDS', 0.01)
    run = remote.RemoteRun(workdir)
    copied = threading.Event()
    monkeypatch.setattr(run, 'publish', lambda only='': copied.set() if only == 'metrics.jsonl' else None)
    assert copied.wait(10)
    run.close()


def test_an_upload_that_fails_ends_in_a_line_and_leaves_the_ones_before(workdir, monkeypatch):
    write(workdir, {3: None})
    checkpoints = Checkpoints(workdir)

    def refuse(source, target):
        raise InputError(f'{target}: permission denied')

    monkeypatch.setattr(paths, 'upload', refuse)
    checkpoints.save(6, state_of(6), {})
    with pytest.raises(InputError, match=r'a checkpoint could not be written \(memory://.*permission denied\); earlier ones'):
        checkpoints.wait()
    monkeypatch.undo()
    assert steps(workdir) == [3]


def test_no_lock_is_told(workdir, capsys):
    with alone_together(workdir), alone_together(workdir):
        pass
    assert capsys.readouterr().err == 2 * f'note: {workdir} has no lock: start no other training there meanwhile\n'


class _Quiet(emulator.RequestHandler):
    protocol_version = 'HTTP/1.0'

    def handle(self):
        try:
            super().handle()
        except (BrokenPipeError, ConnectionResetError):  # of a killed client
            self.close_connection = True


_CLOSING = b'\n--==0==--'  # of a file that gcsfs sends


def _read_whole(handler, read=emulator._read_raw_data):
    """The server takes files for mails, in which a carriage return before the closing line belongs to that."""
    data = read(handler)
    return data.removesuffix(_CLOSING) + b'\r' + _CLOSING if data and data.endswith(_CLOSING) else data


@pytest.fixture(scope='module')
def bucket(tmp_path_factory):
    """The environment of commands in which there is a bucket `gs://bucket`, and nothing else."""
    storage = emulator.Storage(use_memory_fs=True)
    emulator.buckets.create_bucket('bucket', storage)
    with (
        pytest.MonkeyPatch.context() as patched,
        http.server.HTTPServer(('localhost', 0), lambda *args: _Quiet(storage, *args)) as served,
    ):
        patched.setattr(emulator, '_read_raw_data', _read_whole)
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield {
            'STORAGE_EMULATOR_HOST': f'http://localhost:{served.server_address[1]}',
            'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',  # which would ask Google what kind of bucket it is
            'KIMNET_CACHE': str(tmp_path_factory.mktemp('cache')),
        }
        served.shutdown()


@pytest.fixture
def here(bucket, monkeypatch):
    """The bucket, as this process sees it."""
    for name, value in bucket.items():
        monkeypatch.setenv(name, value)
    return paths.folder('gs://bucket')


def put(folder: pathlib.Path, target: pathlib.Path) -> None:
    for file in folder.rglob('*'):
        if file.is_file():
            paths.upload(file, target / file.relative_to(folder).as_posix())


def get(source: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    for name in paths.listed(source):
        paths.download(source / name, folder / name)
    return folder


def test_the_bucket_keeps_every_byte(here, tmp_path):
    """Also those at the end that are line endings in other files."""
    for i, end in enumerate((b'', b'\r', b'\n', b'\r\n', b'\n\r', b'\r\r', b'\0')):
        (tmp_path / 'sent').write_bytes(b'a\r\nb\rc' + end)
        paths.upload(tmp_path / 'sent', here / 'bytes' / str(i))
        paths.download(here / 'bytes' / str(i), tmp_path / 'came')
        assert (tmp_path / 'came').read_bytes() == (tmp_path / 'sent').read_bytes()


@pytest.mark.quick_compilation
@pytest.mark.filterwarnings('ignore:Sending a large body:ResourceWarning')  # of aiohttp, in this process
def test_a_killed_run_in_a_bucket_is_the_same_as_one_here(whole_run, command, run, data_dir, bucket, here, tmp_path):
    whole = whole_run[0]
    put(data_dir, here / 'data')
    line = command('gs://bucket/run', {'dataset.data_dir': 'gs://bucket/data'})
    killed = run(INTERRUPTED, 'mark', 2, 'SIGKILL', *line, **bucket)
    assert killed.returncode == -9, killed.stderr
    assert 'copying gs://bucket/data/kinetic_puppets/mini/' in killed.stderr
    assert 'note: gs://bucket/run has no lock' in killed.stderr
    assert steps(here / 'run') == [3]
    done = run('-m', 'kimnet_jax.train', *line, **bucket)
    assert done.returncode == 0, done.stderr
    assert 'copying' not in done.stderr
    assert 'resuming after step 3' in done.stdout
    assert done.stdout.endswith('done: gs://bucket/run\n')

    assert steps(here / 'run') == local_steps(whole)
    there = get(here / 'run', tmp_path / 'there')
    assert {path.name for path in there.iterdir()} == {'checkpoints', 'config.json', 'metrics.jsonl', 'tensorboard'}
    assert records(there) == records(whole)
    for step in local_steps(whole):
        expected, found = arrays(whole, step), arrays(there, step)
        assert expected.keys() == found.keys()
        assert [key for key in expected if expected[key].tobytes() != found[key].tobytes()] == []

    done = run('-m', 'kimnet_jax.evaluate', '--workdir=gs://bucket/run', '--calibration_clips=0', **bucket)
    assert done.returncode == 0, done.stderr
    assert 'written: gs://bucket/run/evaluation/' in done.stdout
    expected = run('-m', 'kimnet_jax.evaluate', f'--workdir={whole}', f'--out={tmp_path}/local', '--calibration_clips=0')
    assert expected.returncode == 0, expected.stderr
    (report,) = (tmp_path / 'local').glob('*.json')
    remote_text = (here / 'run' / 'evaluation' / report.name).read_text()
    assert remote_text.replace('gs://bucket/run', str(whole)) == report.read_text()
    assert not [path for path in pathlib.Path.cwd().iterdir() if path.name == 'gs:']


class _Forbidden(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        message = json.dumps({'error': {'code': 403, 'message': 'bob does not have storage.objects.list access'}}).encode()
        self.send_response(403)
        self.send_header('Content-Length', str(len(message)))
        self.end_headers()
        self.wfile.write(message)

    def log_message(self, *_):
        pass


def test_what_is_not_there_or_forbidden_is_said_in_a_line(run, bucket):
    config = '--config=configs/kinetic_puppets.py:preset=tiny'
    done = run('-m', 'kimnet_jax.train', config, '--workdir=gs://nowhere/run', **bucket)
    assert done.returncode == 2
    line = 'error: --workdir gs://nowhere/run: there is no such bucket or file (nowhere); make it, or correct the name\n'
    assert done.stderr == line
    with http.server.ThreadingHTTPServer(('localhost', 0), _Forbidden) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        host = {'STORAGE_EMULATOR_HOST': f'http://localhost:{served.server_address[1]}'}
        clip = ('kinetic_puppets/joints15', '--data_dir=gs://bucket/data', '--clip=0', '--out=nowhere')
        done = run('-m', 'kimnet_jax', 'clip', *clip, **bucket | host)
        served.shutdown()
    assert done.returncode == 2
    assert done.stderr.startswith('error: gs://bucket/data: permission denied (Forbidden: b/bucket/o bob does not have')
    assert done.stderr.count('\n') == 1


def test_a_data_set_is_built_into_a_bucket(run, bucket, here, data_dir, tmp_path):
    build = ('-m', 'kimnet_jax', 'build', 'kinetic_puppets/joints15', '--max_examples_per_split=1')
    target = here / 'built' / 'kinetic_puppets' / 'joints15'
    done = run(*build, '--data_dir=gs://bucket/built', **bucket)
    assert done.returncode == 0, done.stderr
    assert f'MB in {target}/' in done.stdout
    assert 'note: gs://bucket/built has no lock' in done.stderr
    clip = ('-m', 'kimnet_jax', 'clip', 'kinetic_puppets/joints15', '--data_dir=gs://bucket/built', '--clip=0')
    assert run(*clip, f'--out={tmp_path}/clip', **bucket).returncode == 0
    assert (tmp_path / 'clip' / 'joints.json').exists()
    done = run(*build, '--data_dir=gs://bucket/built', **bucket)
    assert 'is already built; --overwrite rebuilds it' in done.stdout


@pytest.mark.slow
def test_two_processes_share_a_bucket(command, environment, bucket, here):
    """Each has the checkpoints in a folder of its own; the first one copies them, and both take them up."""
    line = command('gs://bucket/two', {'train.steps': 6})
    begun = start(line, environment | bucket)
    deadline = time.monotonic() + 300
    while not steps(here / 'two'):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for process in begun:
        process.kill()
        process.communicate()
    (kept,) = steps(here / 'two')
    processes = start(line, environment | bucket)
    ends = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    assert f'resuming after step {kept}' in ends[0][0]
    assert 'damaged' not in ends[0][1] + ends[1][1]
    assert steps(here / 'two') == [3, 6]
