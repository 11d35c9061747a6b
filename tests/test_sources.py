"""What `predict` may be given besides files: webcams, addresses, standard input."""

import functools
import http.server
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time
import types

import av
import numpy as np
import pytest

from kimnet_jax.core import decoding, sources
from kimnet_jax.core.errors import DamagedError, InputError
from kimnet_jax.core.sources import open_source

ROOT = pathlib.Path(__file__).resolve().parents[1]


def write_clip(path: pathlib.Path, container_format: str | None = None, options: dict[str, str] | None = None) -> None:
    with av.open(str(path), 'w', format=container_format, options=options or {}) as container:
        stream = container.add_stream('libx264', rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, 'yuv420p'
        for level in range(0, 200, 20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), level, np.uint8))))
        container.mux(stream.encode())


def check_clip(frames) -> None:
    frames = list(frames)
    assert [frame.image.shape for frame in frames] == [(48, 64, 3)] * 10
    np.testing.assert_allclose([frame.image.mean() for frame in frames], range(0, 200, 20), atol=3)
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(10) / 25, atol=1e-3)


def test_a_file_and_a_folder_are_what_they_were(tmp_path):
    write_clip(tmp_path / 'clip.mp4')
    source = open_source(str(tmp_path / 'clip.mp4'))
    for _ in range(2):
        check_clip(source.frames(False))
    assert (source.stem, source.readable_again, source.stated_rate(), source.stated_count()) == ('clip', True, 25, 10)
    (tmp_path / 'folder.v1').mkdir()
    assert open_source(str(tmp_path / 'folder.v1')).stem == 'folder.v1'


def test_a_name_leaves_room_for_what_is_written(tmp_path):
    for name, stem in (('é' * 125, 'é' * 100), ('x' * 251, 'x' * 200), ('caf\udce9', 'caf\udce9')):
        assert open_source(str(tmp_path / f'{name}.mp4')).stem == stem
        (tmp_path / f'{stem}.overlay.mp4').write_bytes(b'')


def test_a_file_called_like_something_else_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / '0').mkdir()
    (tmp_path / 'http:').mkdir()
    write_clip(tmp_path / 'http:' / 'clip.mp4')
    assert open_source('0').path == pathlib.Path('0')
    check_clip(open_source('http://clip.mp4').frames(False))


@pytest.fixture
def serve(tmp_path):
    """The address of a server of `tmp_path`."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f'127.0.0.1:{server.server_port}'
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv('no_proxy', '*')


def test_a_video_is_read_over_http(tmp_path, serve):
    write_clip(tmp_path / 'clip.mkv')
    write_clip(tmp_path / 'fast.mp4', options={'movflags': '+faststart'})
    for name in ('clip.mkv', 'fast.mp4'):
        source = open_source(f'http://someone:secret@{serve}/{name}?token=1')
        check_clip(source.frames(True))
        assert not source.readable_again
        assert source.path is None
        assert 'secret' not in source.name
        assert 'secret' not in source.stem
        assert source.stem.endswith(name)


def test_what_is_not_there_is_one_line(tmp_path, serve):
    (tmp_path / 'page.html').write_text('hello')
    with socket.socket() as closed:
        closed.bind(('127.0.0.1', 0))
        port = closed.getsockname()[1]
        addresses = [
            f'http://{serve}/no.mp4',
            f'http://{serve}/page.html',
            *(f'{p}://me:pw@127.0.0.1:{port}/x' for p in ('http', 'rtsp', 'rtmp')),
        ]
        for address in addresses:
            with pytest.raises(InputError, match='not a readable video') as caught:
                list(open_source(address).frames(True))
            assert len(str(caught.value).splitlines()) == 1
            assert 'pw' not in str(caught.value)


def test_a_server_that_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(sources, '_TIMEOUT', 0.5)
    with socket.create_server(('127.0.0.1', 0)) as silent:
        begun = time.monotonic()
        with pytest.raises(InputError, match=r'not a readable video \(no data came in time\)'):
            list(open_source(f'http://127.0.0.1:{silent.getsockname()[1]}/x.mp4').frames(True))
        assert time.monotonic() - begun < 5
    assert sources._OPENING < 15


def test_a_name_server_that_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(sources, '_OPENING', 0.2)
    monkeypatch.setattr(decoding, 'open_container', lambda *_, **__: time.sleep(2))
    with pytest.raises(InputError, match=r'http://a\.b/x\.mp4: no answer within 0\.2 seconds'):
        list(open_source('http://a.b/x.mp4').frames(True))


def test_a_stream_that_breaks_off_keeps_what_has_come(tmp_path, monkeypatch, capsys):
    write_clip(tmp_path / 'whole.ts')
    data = (tmp_path / 'whole.ts').read_bytes()
    monkeypatch.setattr(sources, '_TIMEOUT', 1.0)
    with socket.create_server(('127.0.0.1', 0)) as server:
        done = threading.Event()

        def send() -> None:
            connection, _ = server.accept()
            connection.recv(4096)
            connection.sendall(b'HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n' + data)
            done.wait(20)
            connection.close()

        thread = threading.Thread(target=send)
        thread.start()
        frames = list(open_source(f'http://127.0.0.1:{server.getsockname()[1]}/x.ts').frames(True))
        done.set()
        thread.join()
    assert 0 < len(frames) <= 10
    assert 'no data came in time' in capsys.readouterr().err


def test_other_protocols_are_refused():
    with pytest.raises(InputError, match=r'ftp://host/a\.mp4: ftp is none of http, '):
        open_source('ftp://user:pw@host/a.mp4')


class Camera:
    """Three blue frames."""

    def __init__(self, number: int, there: bool):
        self.number, self.there, self.left, self.released = number, there, 3, False

    def isOpened(self) -> bool:  # noqa: N802
        return self.there

    def read(self):
        self.left -= 1
        time.sleep(0.01)
        image = np.zeros((48, 64, 3), np.uint8)
        image[..., 0] = 255
        return self.left >= 0, image

    def release(self) -> None:
        self.released = True


@pytest.mark.parametrize(('text', 'number'), [('0', 0), ('2', 2), ('/dev/video7', 7)])
def test_a_webcam(monkeypatch, tmp_path, text, number):
    cameras = []
    monkeypatch.chdir(tmp_path)
    real = sources.opencv()
    opened = types.SimpleNamespace(
        VideoCapture=lambda index: cameras.append(Camera(index, True)) or cameras[-1],
        cvtColor=real.cvtColor,
        COLOR_BGR2RGB=real.COLOR_BGR2RGB,
    )
    monkeypatch.setattr(sources, 'opencv', lambda: opened)
    source = open_source(text)
    assert (source.name, source.stem, source.readable_again) == (f'webcam {number}', f'webcam_{number}', False)
    first, *_, last = frames = list(source.frames(True))
    assert len(frames) == 3
    assert tuple(first.image[0, 0]) == (0, 0, 255)
    assert first.time == 0
    assert last.time >= 0.02
    assert cameras[0].number == number
    assert cameras[0].released


def test_a_webcam_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match='webcam 97: cannot be opened'):
        list(open_source('97').frames(True))


PROGRAM = """
import sys
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.sources import open_source
size, rate = sys.argv[1:]
try:
    for frame in open_source('-', stdin_size=size or None, stdin_rate=float(rate) if rate else None).frames(True):
        print(*frame.image.shape, round(float(frame.image.mean())), round(frame.time, 3), flush=True)
except InputError as error:
    print(error)
"""


def piped(data: bytes, size: str = '', rate: str = '') -> list[str]:
    command = [sys.executable, '-c', PROGRAM, size, rate]
    done = subprocess.run(command, input=data, cwd=ROOT, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().splitlines()


@pytest.mark.parametrize('container_format', ['matroska', 'mpegts', 'avi', 'flv'])
def test_any_container_through_a_pipe(tmp_path, container_format):
    write_clip(tmp_path / 'clip', container_format)
    lines = [line.split() for line in piped((tmp_path / 'clip').read_bytes())]
    assert [line[:3] for line in lines] == [['48', '64', '3']] * 10
    np.testing.assert_allclose([float(line[3]) for line in lines], range(0, 200, 20), atol=3)
    np.testing.assert_allclose([float(line[4]) for line in lines], np.arange(10) / 25, atol=1e-3)


def test_raw_frames_through_a_pipe():
    data = b''.join(bytes([level]) * 64 * 48 * 3 for level in (10, 20, 30))
    assert piped(data, '64x48', '50') == ['48 64 3 10 0.0', '48 64 3 20 0.02', '48 64 3 30 0.04']
    assert piped(data, '64x48')[1] == '48 64 3 20 0.04'
    *good, last = piped(data[:-1], '64x48')
    assert len(good) == 2
    assert last == '-: breaks off in frame 2 (9215 of 9216 bytes); is it rgb24 of --stdin_size?'
    assert piped(b'', '64x48') == ['-: no frame in it']


def test_a_pipe_without_a_video_is_one_line(tmp_path):
    write_clip(tmp_path / 'clip.mp4')
    for data in (b'hello', b''):
        (line,) = piped(data)
        assert line.startswith('-: not a readable video')
        assert 'pipe Matroska' in line


def test_frames_come_out_of_a_pipe_before_it_ends():
    command = [sys.executable, '-c', PROGRAM, '64x48', '25']
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(bytes(64 * 48 * 3 * 2))
        process.stdin.flush()
        assert process.stdout.readline().startswith(b'48 64 3 0 0.0')
        process.stdin.close()
        process.wait(30)


@pytest.mark.parametrize(
    ('text', 'size', 'rate', 'message'),
    [
        ('-', '640', None, '--stdin_size=640: must be WIDTHxHEIGHT'),
        ('-', '0x480', None, '--stdin_size=0x480: must be WIDTHxHEIGHT'),
        ('-', '100000x100000', None, 'pixels, more than'),
        ('-', '640x480', 0.0, '--stdin_rate=0.0: must be a positive number'),
        ('-', '640x480', float('nan'), '--stdin_rate=nan: must be a positive number'),
        ('-', None, 25.0, '--stdin_rate is of raw frames'),
        ('clip.mp4', '640x480', None, 'not of clip.mp4'),
        ('clip.mp4', None, 30.0, 'not of clip.mp4'),
    ],
)
def test_sizes_and_rates_that_cannot_be_are_refused(text, size, rate, message):
    with pytest.raises(InputError, match=message):
        open_source(text, stdin_size=size, stdin_rate=rate)


def test_a_terminal_is_no_video(monkeypatch):
    parent, child = os.openpty()
    with os.fdopen(child, 'r') as terminal:
        monkeypatch.setattr(sys, 'stdin', terminal)
        with pytest.raises(InputError, match='-: standard input is the terminal'):
            list(open_source('-').frames(True))
    os.close(parent)


def test_a_cut_pipe_is_damaged(tmp_path, monkeypatch):
    write_clip(tmp_path / 'clip.avi')
    data = (tmp_path / 'clip.avi').read_bytes()
    (tmp_path / 'cut.avi').write_bytes(data[: data.index(b'idx1') - 10])
    with (tmp_path / 'cut.avi').open('rb') as file:
        monkeypatch.setattr(sys, 'stdin', file)
        with pytest.raises(DamagedError, match='-: breaks off'):
            list(open_source('-').frames(True))
