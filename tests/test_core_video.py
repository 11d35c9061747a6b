import av
import numpy as np
import pytest

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.image import encode_png
from kimnet_jax.core.video import DEFAULT_RATE, frame_rate, image_files, read_frames


def write_video(path, frames, rate=12):
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('ffv1', rate=rate)  # lossless
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = 'bgr0'
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())


@pytest.fixture
def frames():
    return np.random.default_rng(0).integers(0, 256, (5, 26, 34, 3), np.uint8)


def test_a_video_frame_by_frame(tmp_path, frames):
    write_video(tmp_path / 'clip.mkv', frames)
    np.testing.assert_array_equal(np.stack(list(read_frames(tmp_path / 'clip.mkv'))), frames)
    assert frame_rate(tmp_path / 'clip.mkv') == 12


def test_a_folder_in_the_order_of_names(tmp_path, frames):
    for number in (2, 0, 1):
        (tmp_path / f'{number:03}.png').write_bytes(encode_png(frames[number]))
    (tmp_path / 'notes.txt').write_text('no image')
    (tmp_path / '.000.png').write_text('hidden')
    assert [file.name for file in image_files(tmp_path)] == ['000.png', '001.png', '002.png']
    np.testing.assert_array_equal(np.stack(list(read_frames(tmp_path))), frames[:3])
    assert frame_rate(tmp_path) == DEFAULT_RATE


def test_what_is_no_video_is_explained(tmp_path):
    for name, content, message in [
        ('missing.avi', None, 'no such video file or folder'),
        ('text.avi', b'hello, world', 'not a readable video'),
        ('empty', 'folder', 'no image .* in it'),
    ]:
        path = tmp_path / name
        if content == 'folder':
            path.mkdir()
        elif content:
            path.write_bytes(content)
        with pytest.raises(InputError, match=f'{name}: {message}'):
            list(read_frames(path))


def test_frames_of_other_sizes_are_refused(tmp_path, frames):
    (tmp_path / '0.png').write_bytes(encode_png(frames[0]))
    (tmp_path / '1.png').write_bytes(encode_png(frames[1, :20]))
    with pytest.raises(InputError, match='frame 1 is 34x20, the first is 34x26'):
        list(read_frames(tmp_path))


def test_a_video_that_breaks_off_is_refused(tmp_path):
    frames = np.random.default_rng(1).integers(0, 256, (30, 64, 64, 3), np.uint8)
    write_video(tmp_path / 'whole.avi', frames)
    data = (tmp_path / 'whole.avi').read_bytes()
    (tmp_path / 'cut.avi').write_bytes(data[: int(len(data) * 0.55)])
    with pytest.raises(InputError, match=r'cut\.avi'):
        list(read_frames(tmp_path / 'cut.avi'))
