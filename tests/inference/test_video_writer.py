import base64
import http.server
import io
import queue
import shutil
import subprocess
import threading

import av
import numpy as np
import pytest

from kimnet_jax.core.video import read_frames
from kimnet_jax.inference.video_writer import VideoWriter

COLOURS = np.array([[200, 30, 60], [20, 180, 40], [40, 60, 200], [255, 255, 255], [0, 0, 0], [128, 128, 128]], np.uint8)


def written(frames, times=None, rate: float = 25) -> bytes:
    file = io.BytesIO()
    writer = VideoWriter(file, rate)
    for number, frame in enumerate(frames):
        writer.write(frame, None if times is None else times[number])
    writer.finish()
    return file.getvalue()


def stripes() -> np.ndarray:
    """uint8 [64, 192, 3]: a stripe of each of `COLOURS`."""
    return np.repeat(np.repeat(COLOURS[None], 64, 0), 32, 1)


@pytest.mark.parametrize(('size', 'padded'), [((121, 161), (122, 162)), ((120, 160), (120, 160)), ((1, 1), (2, 2))])
@pytest.mark.parametrize('rate', [25.0, 30000 / 1001, 12.5])
def test_video_round_trip(size, padded, rate):
    data = written((np.full((*size, 3), level, np.uint8) for level in range(0, 200, 20)), rate=rate)
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert float(stream.average_rate) == pytest.approx(rate, rel=1e-6)
        frames = [frame.to_ndarray(format='rgb24') for frame in container.decode(stream)]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ('h264', 'yuv420p')
    assert [frame.shape[:2] for frame in frames] == [padded] * 10
    np.testing.assert_allclose([frame.mean() for frame in frames], range(0, 200, 20), atol=3)


@pytest.mark.parametrize('first', [0.0, 7.3])
def test_frames_keep_their_times_and_the_last_one_its_duration(first):
    times = np.array([n / 30 for n in range(15)] + [0.5 + n / 5 for n in range(29)])
    data = written([stripes()] * len(times), times + first)
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(times[-1] + 0.2, abs=1e-3)
        assert [frame.time for frame in container.decode(stream)] == pytest.approx(times, abs=1e-4)


@pytest.mark.parametrize('times', [[0, 2400], [0, 1e-7, 2e-7, 1], [0, 0.5, 0.5, 0.4, 0.6]])
@pytest.mark.parametrize('rate', [1 / 2400, 25, 1000])
def test_strange_times_can_be_written(times, rate):
    data = written([stripes()] * len(times), times, rate)
    with av.open(io.BytesIO(data)) as container:
        found = [frame.time for frame in container.decode(video=0)]
    assert len(found) == len(times)
    assert sorted(set(found)) == found
    assert found == pytest.approx(times, abs=0.11)


def test_a_single_frame_is_shown_as_long_as_the_rate_says():
    with av.open(io.BytesIO(written([stripes()], rate=4))) as container:
        assert container.duration / av.time_base == pytest.approx(0.25)


def test_the_tags_say_what_the_colours_are(tmp_path):
    (tmp_path / 'clip.mp4').write_bytes(written([stripes()] * 3))
    with av.open(str(tmp_path / 'clip.mp4')) as container:
        context = container.streams.video[0].codec_context
        tags = (context.color_range, context.colorspace, context.color_primaries, context.color_trc)
        planes = next(container.decode(video=0)).to_ndarray()
    assert tags == (1, 1, 1, 1)  # limited, BT.709
    red, green, blue = (COLOURS / 255).T
    luma = 16 + 219 * (0.2126 * red + 0.7152 * green + 0.0722 * blue)
    np.testing.assert_allclose(planes[32, 16:192:32], luma, atol=2)
    for frame in read_frames(tmp_path / 'clip.mp4'):
        np.testing.assert_allclose(frame.image[32, 16::32].astype(int), COLOURS, atol=6)


@pytest.mark.parametrize('mode', ['wb', 'w+b', 'memory'])
def test_the_index_comes_before_the_pictures(tmp_path, mode):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (120, 160, 3), np.uint8) for _ in range(40)]
    data = written(frames)
    if mode != 'memory':
        with (tmp_path / 'clip.mp4').open(mode) as file:
            writer = VideoWriter(file, 25)
            for frame in frames:
                writer.write(frame)
            writer.finish()
        assert (tmp_path / 'clip.mp4').read_bytes() == data
    assert len(data) > 300_000  # more than one buffer is moved
    assert 0 < data.index(b'moov') < data.index(b'mdat')
    with av.open(io.BytesIO(data)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 40


PAGE = """<body><video id="video" muted src="data:video/mp4;base64,{data}"></video><script>
const video = document.getElementById('video');
const tell = text => fetch('/', {{method: 'POST', body: text}});
video.onerror = () => tell('error: ' + video.error.message);
video.onloadeddata = () => video.currentTime = 0.6;
const look = () => {{
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const context = canvas.getContext('2d');
  context.drawImage(video, 0, 0);
  const colours = [...Array(6).keys()].map(n => [...context.getImageData(32 * n + 16, 32, 1, 1).data.slice(0, 3)]);
  if (!colours.flat().some(Boolean)) return setTimeout(look, 50);  // it has sought, and not yet drawn
  tell([canvas.width, canvas.height, video.duration, ...colours.flat()].join(' '));
}};
video.onseeked = look;
</script></body>"""


@pytest.mark.skipif(shutil.which('chromium') is None, reason='no Chromium')
def test_a_browser_plays_it(tmp_path):
    page = PAGE.format(data=base64.b64encode(written([stripes()] * 6, [0, 0.04, 0.08, 0.5, 1.0, 1.2])).decode())
    told: queue.SimpleQueue[str] = queue.SimpleQueue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, content: bytes) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self):
            self.answer(page.encode() if self.path == '/' else b'')

        def do_POST(self):
            told.put(self.rfile.read(int(self.headers['Content-Length'])).decode())
            self.answer(b'')

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(('127.0.0.1', 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = ['--headless=new', '--no-sandbox', '--disable-gpu', '--no-proxy-server', f'--user-data-dir={tmp_path}/profile']
        command = ['chromium', *options, f'http://127.0.0.1:{server.server_port}/']
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as browser:
            try:
                size, colours = np.split(np.array(told.get(timeout=60).split(), float), [3])
            finally:
                browser.terminate()
                server.shutdown()
    np.testing.assert_allclose(size, [192, 64, 1.4])  # columns, rows, seconds
    np.testing.assert_allclose(colours.reshape(6, 3), COLOURS, atol=10)
