import itertools
import os
import shutil

import av
import numpy as np
import pytest

from kimnet_jax.core.errors import DamagedError, InputError
from kimnet_jax.core.image import encode_jpeg, encode_png
from kimnet_jax.core.video import DEFAULT_RATE, frame_rate, image_files, read_frames, stated_frame_count


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
    read = list(read_frames(tmp_path / 'clip.mkv'))
    np.testing.assert_array_equal(np.stack([frame.image for frame in read]), frames)
    np.testing.assert_allclose([frame.time for frame in read], np.arange(5) / 12, atol=1e-3)  # Matroska's clock
    assert frame_rate(tmp_path / 'clip.mkv') == 12


def test_a_folder_in_the_order_of_names(tmp_path, frames):
    for number in (2, 0, 1):
        (tmp_path / f'{number:03}.png').write_bytes(encode_png(frames[number]))
    (tmp_path / 'notes.txt').write_text('no image')
    (tmp_path / '.000.png').write_text('hidden')
    assert [file.name for file in image_files(tmp_path)] == ['000.png', '001.png', '002.png']
    read = list(read_frames(tmp_path))
    np.testing.assert_array_equal(np.stack([frame.image for frame in read]), frames[:3])
    np.testing.assert_allclose([frame.time for frame in read], np.arange(3) / DEFAULT_RATE)
    assert frame_rate(tmp_path) == DEFAULT_RATE


def test_a_damaged_image_of_a_folder_is_told_or_refused(tmp_path, frames):
    data = encode_jpeg(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    (tmp_path / '0.jpg').write_bytes(data)
    (tmp_path / '1.jpg').write_bytes(data[: len(data) // 2] + data[-2:])
    assert [frame.damaged for frame in read_frames(tmp_path, tolerant=True)] == [False, True]
    with pytest.raises(DamagedError, match=r'1\.jpg: damaged'):
        list(read_frames(tmp_path))


def test_b_frames_in_avi_come_in_time(tmp_path):
    write_coded(tmp_path / 'clip.avi', 'libx264', {'bf': '3'})
    np.testing.assert_allclose([frame.time for frame in read_frames(tmp_path / 'clip.avi')], np.arange(12) / 25)


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


def test_numbers_in_names_are_numbers(tmp_path):
    names = [
        'frame1.png',
        'frame2.png',
        'frame02.png',
        'frame10.png',
        'frame100.png',
        'take2_9.png',
        'take2_10.png',
        'take10_1.png',
    ]
    for name in names:
        (tmp_path / name).write_bytes(b'')
    (tmp_path / 'frame.png').write_bytes(b'')
    wanted = ['frame.png', 'frame1.png', 'frame02.png', 'frame2.png', *names[3:]]
    assert [file.name for file in image_files(tmp_path)] == wanted


def test_folders_among_images_are_left_out_and_told_once(tmp_path, frames, capsys):
    for number in (0, 1):
        (tmp_path / f'{number}.png').write_bytes(encode_png(frames[number]))
    (tmp_path / 'more.png').mkdir()
    assert stated_frame_count(tmp_path) == 2
    for _ in range(2):
        assert len(list(read_frames(tmp_path))) == 2
    assert capsys.readouterr().err == f'warning: {tmp_path}/more.png: a folder, left out of the images of {tmp_path}\n'


def test_an_image_that_is_none_is_named(tmp_path, frames):
    (tmp_path / '0.png').write_bytes(encode_png(frames[0]))
    (tmp_path / 'notes.jpg').write_text('no image')
    for tolerant in (False, True):
        with pytest.raises(InputError, match=r'notes\.jpg: not a readable image'):
            list(read_frames(tmp_path, tolerant=tolerant))


@pytest.mark.parametrize(
    'name',
    [
        'a:b.mp4',
        'http:x.mp4',
        '-y.mp4',
        'clip%03d.mp4',
        'a|b\n.mp4',
        'caf\udce9 \udcff.mp4',
        'z' * 251 + '.mp4',
        'é' * 125 + '.mp4',
    ],
)
@pytest.mark.parametrize('place', ['here', 'elsewhere'])
def test_any_name_can_be_read(tmp_path, monkeypatch, name, place):
    write_coded(tmp_path / 'plain.mp4', 'libx264', {})
    shutil.move(tmp_path / 'plain.mp4', tmp_path / name)
    monkeypatch.chdir(tmp_path)
    path = name if place == 'here' else os.path.join(tmp_path, name)
    assert len(list(read_frames(path))) == 12
    assert frame_rate(path) == 25
    assert stated_frame_count(path) == 12


def add_cover(container) -> av.stream.Stream:
    cover = container.add_stream('mjpeg', rate=1)
    cover.height, cover.width, cover.pix_fmt = 32, 32, 'yuvj420p'
    cover.disposition = av.stream.Disposition.attached_pic
    return cover


def encode_still(stream) -> list:
    still = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 99, np.uint8)).reformat(format='yuvj420p')
    return [*stream.encode(still), *stream.encode()]


@pytest.mark.parametrize('name', ['song.mp3', 'song.m4a', 'song.flac'])
def test_cover_art_is_no_video(tmp_path, name):
    codec = {'mp3': 'libmp3lame', 'm4a': 'aac', 'flac': 'flac'}[name[5:]]
    with av.open(str(tmp_path / name), 'w', format='mp4' if codec == 'aac' else None) as container:
        audio = container.add_stream(codec, rate=44100)
        audio.layout = 'mono'
        cover = add_cover(container)
        packets = encode_still(cover)
        silence = av.AudioFrame(
            format=audio.codec_context.format.name, layout='mono', samples=audio.codec_context.frame_size or 1024
        )
        silence.sample_rate = 44100
        for plane in silence.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux(packets)
        container.mux([*audio.encode(silence), *audio.encode()])
    with av.open(str(tmp_path / name)) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(InputError, match=f'{name}: no video stream in it, only cover art'):
        list(read_frames(tmp_path / name))
    assert stated_frame_count(tmp_path / name) is None


def test_the_video_behind_cover_art_is_read(tmp_path):
    with av.open(str(tmp_path / 'clip.mp4'), 'w') as container:
        cover = add_cover(container)
        stream = container.add_stream('libx264', rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 128, 'yuv420p'
        container.mux(encode_still(cover))
        for frame in moving(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        container.mux(stream.encode())
    assert [frame.image.shape for frame in read_frames(tmp_path / 'clip.mp4')] == [(96, 128, 3)] * 3
    assert frame_rate(tmp_path / 'clip.mp4') == 25
    assert stated_frame_count(tmp_path / 'clip.mp4') == 3


def test_sound_alone_and_nothing_at_all_are_told(tmp_path):
    with av.open(str(tmp_path / 'sound.wav'), 'w') as container:
        audio = container.add_stream('pcm_s16le', rate=8000, layout='mono')
        silence = av.AudioFrame(format='s16', layout='mono', samples=800)
        silence.sample_rate = 8000
        silence.planes[0].update(bytes(1600))
        container.mux([*audio.encode(silence), *audio.encode()])
    with av.open(str(tmp_path / 'none.mp4'), 'w') as container:
        stream = container.add_stream('mpeg4', rate=25)
        stream.height, stream.width, stream.pix_fmt = 32, 32, 'yuv420p'
        container.start_encoding()
    (tmp_path / 'empty.mp4').write_bytes(b'')
    for name, message in [
        ('sound.wav', 'no video stream in it$'),
        ('none.mp4', 'no (frame|video stream) in it'),
        ('empty.mp4', 'not a readable video'),
    ]:
        with pytest.raises(InputError, match=f'{name}: {message}'):
            list(read_frames(tmp_path / name))


QUIET = {'x265-params': 'log-level=none:keyint=8'}


@pytest.mark.parametrize(
    ('name', 'codec', 'options'),
    [
        ('a.ts', 'libx264', {'g': '8'}),
        ('a.ts', 'libx265', QUIET),
        ('a.mpg', 'mpeg2video', {}),
        ('a.h264', 'libx264', {}),
        ('a.hevc', 'libx265', QUIET),
        ('a.avi', 'mpeg4', {}),
        ('a.mkv', 'libx264', {}),
    ],
)
def test_joined_recordings_are_read_whole(tmp_path, name, codec, options):
    path = tmp_path / name
    write_coded(path, codec, options)
    alone = [frame.image for frame in read_frames(path)]
    path.write_bytes(path.read_bytes() * 2)
    both = list(read_frames(path))
    np.testing.assert_array_equal(np.stack([frame.image for frame in both]), np.stack(alone * 2))
    np.testing.assert_allclose([frame.time for frame in both], np.arange(24) / 25, atol=1e-3)


@pytest.mark.parametrize(('name', 'codec'), [('a.mp4', 'libx264'), ('a.mov', 'libx264'), ('a.flv', 'libx264'), ('a.wmv', 'wmv2')])
def test_joined_recordings_of_which_only_the_first_would_be_read_are_refused(tmp_path, name, codec):
    path = tmp_path / name
    write_coded(path, codec, {})
    data = path.read_bytes()
    assert len(list(read_frames(path))) == 12
    path.write_bytes(data * 2)
    with pytest.raises(InputError, match=rf'{name}: another recording begins at byte {len(data):,}.*head -c {len(data)} '):
        list(read_frames(path, tolerant=True))


def test_what_follows_a_recording_and_is_none_does_no_harm(tmp_path):
    write_coded(tmp_path / 'a.mp4', 'libx264', {})
    for tail in (bytes(5000), b'signature of a shop', (8).to_bytes(4) + b'free'):
        (tmp_path / 'b.mp4').write_bytes((tmp_path / 'a.mp4').read_bytes() + tail)
        assert len(list(read_frames(tmp_path / 'b.mp4'))) == 12


@pytest.mark.parametrize(
    ('name', 'codec', 'options'),
    [
        ('a.ts', 'libx264', {'g': '8'}),
        ('a.ts', 'libx264', {'g': '8', 'x264-params': 'open-gop=1'}),
        ('a.ts', 'libx265', QUIET),
        ('a.ts', 'mpeg2video', {'g': '8', 'bf': '2'}),
        ('a.ts', 'mpeg4', {'g': '8'}),
        ('a.h264', 'libx264', {'g': '8'}),
    ],
)
@pytest.mark.parametrize('share', [0.1, 0.4])
def test_a_recording_that_begins_between_key_frames_begins_with_the_next_of_them(tmp_path, name, codec, options, share):
    path = tmp_path / name
    write_coded(path, codec, options, count=30)
    whole, data = [frame.image for frame in read_frames(path)], path.read_bytes()
    path.write_bytes(data[int(len(data) * share) // 188 * 188 :])
    for tolerant in (True, False):
        rest = list(read_frames(path, tolerant=tolerant))
        assert 0 < len(rest) < 30
        np.testing.assert_array_equal(np.stack([frame.image for frame in rest]), np.stack(whole[-len(rest) :]))
        np.testing.assert_allclose([frame.time for frame in rest], np.arange(len(rest)) / 25, atol=1e-3)
        assert not any(frame.damaged for frame in rest)


@pytest.mark.parametrize(
    ('name', 'codec', 'options'),
    [
        ('a.ts', 'libx264', {'g': '8'}),
        ('a.ts', 'mpeg2video', {'g': '8'}),
        ('a.mp4', 'libx264', {'g': '8'}),
        ('a.mp4', 'libx265', QUIET),
        ('a.webm', 'libvpx-vp9', {'g': '8'}),
    ],
)
def test_of_a_damaged_middle_the_rest_is_read(tmp_path, name, codec, options):
    path = tmp_path / name
    write_coded(path, codec, options, count=60)
    good, data = by_number(read_frames(path)), path.read_bytes()
    start, end = (int(len(data) * share) // 188 * 188 for share in (0.5, 0.6))
    path.write_bytes(data[:start] + (b'' if name == 'a.ts' else bytes(end - start)) + data[end:])
    read = list(read_frames(path, tolerant=True))
    frames, marked = by_number(read), by_number(frame for frame in read if frame.damaged).keys()
    assert marked
    assert max(frames) == 59
    assert min(marked) > 10
    assert max(marked) < 55
    unmarked = [number for number in frames.keys() - marked if not np.array_equal(frames[number], good[number])]
    assert len(unmarked) <= 1  # a few zeros at the end of a frame are not noticed
    with pytest.raises(DamagedError, match=name):
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


def moving(count: int) -> np.ndarray:
    """uint8 [count, 96, 128, 3]: noise that is moved and turned brighter, so that every frame costs bits."""
    ground = np.random.default_rng(3).integers(0, 200, (max(120, 96 + count), max(160, 128 + 2 * count), 3), np.uint8)
    ground = np.repeat(np.repeat(ground[::4, ::4], 4, 0), 4, 1)
    return np.stack([ground[t : t + 96, 2 * t : 2 * t + 128] + np.uint8(t) for t in range(count)])


def write_coded(path, codec: str, options: dict[str, str], pix_fmt: str = 'yuv420p', count: int = 12) -> None:
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = 96, 128, pix_fmt
        for frame in moving(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24').reformat(format=pix_fmt)))
        container.mux(stream.encode())


def by_number(frames) -> dict[int, np.ndarray]:
    """The images by the frame's number, by its time: some may be missing."""
    return {round(frame.time * 25): frame.image for frame in frames}


CODERS = {  # least share of the flipped bits that show in the pixels and are noticed, as measured, less a margin
    'h264.mp4': ('libx264', {'g': '4'}, 0.6),
    'cavlc.mp4': ('libx264', {'x264-params': 'cabac=0'}, 0.4),
    'mpeg4.avi': ('mpeg4', {'g': '4', 'bf': '2'}, 0.3),
    'mpeg2.ts': ('mpeg2video', {}, 0.3),
    'ffv1.mkv': ('ffv1', {'g': '1'}, 0.99),
}


@pytest.mark.parametrize('name', CODERS)
def test_flipped_bits_that_the_decoder_conceals_are_told_or_refused(name, tmp_path):
    codec, options, share = CODERS[name]
    path = tmp_path / name
    write_coded(path, codec, options)
    data, good = path.read_bytes(), by_number(read_frames(path))
    assert len(good) == 12
    rng = np.random.default_rng(0)
    noticed, shown, unmarked = 0, 0, []
    for position in rng.integers(len(data) // 10, len(data) * 9 // 10, size=60):  # not in the container's head and tail
        flipped = bytearray(data)
        flipped[position] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        try:
            read = list(read_frames(path, tolerant=True))
        except DamagedError:
            noticed, shown = noticed + 1, shown + 1
            continue
        frames, marked = by_number(read), by_number(frame for frame in read if frame.damaged).keys()
        differ = {t for t in frames.keys() | good.keys() if not np.array_equal(frames.get(t), good.get(t))}
        shown += bool(differ)
        if marked:
            noticed += bool(differ)
            unmarked.append(len(differ & frames.keys() - marked))  # those that cannot be decoded are not there to be marked
            first = next(n for n, frame in enumerate(read) if frame.damaged)
            with pytest.raises(DamagedError, match=f'{path}: (frame {first} is damaged|damaged|cannot be decoded)'):
                list(read_frames(path))
        else:
            assert len(list(read_frames(path))) == len(frames)
    assert shown > 30
    assert noticed >= share * shown
    assert np.mean(unmarked) < 0.5  # nearly all frames that differ, once one is noticed


@pytest.mark.parametrize(('codec', 'options'), [('libx264', {'g': '4'}), ('libx265', {'x265-params': 'log-level=none:keyint=4'})])
def test_a_block_that_became_zeros_is_noticed(codec, options, tmp_path):
    path = tmp_path / 'clip.mp4'
    write_coded(path, codec, options)
    data, good = path.read_bytes(), list(read_frames(path))
    assert len(good) == 12
    for start in np.linspace(len(data) * 0.3, len(data) * 0.7, 15).astype(int):
        path.write_bytes(data[:start] + bytes(200) + data[start + 200 :])
        with pytest.raises(DamagedError):
            list(read_frames(path))


def test_damage_in_one_video_is_not_told_of_another(tmp_path):
    write_coded(tmp_path / 'bad.mp4', 'libx264', {'g': '4'})
    write_coded(tmp_path / 'good.mp4', 'libx264', {'g': '4'})
    data = bytearray((tmp_path / 'bad.mp4').read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = bytes(200)
    (tmp_path / 'bad.mp4').write_bytes(data)
    readers = (read_frames(tmp_path / name, tolerant=True) for name in ('bad.mp4', 'good.mp4'))
    bad, good = zip(*itertools.zip_longest(*readers), strict=True)
    assert any(frame.damaged for frame in bad if frame)
    assert not any(frame.damaged for frame in good)


def test_real_videos_give_no_false_alarm(shared_dir):
    videos = sorted(shared_dir.glob('data/jhmdb/ReCompress_Videos/*/*.avi'))
    assert len(videos) > 200
    for path in videos[::4]:
        assert sum(1 for _ in read_frames(path))


def test_a_title_of_another_encoding_changes_nothing(tmp_path):
    path = tmp_path / 'clip.mp4'
    with av.open(str(path), 'w') as container:
        container.metadata['title'] = 'QQQQ'
        stream = container.add_stream('libx264', rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 64, 'yuv420p'
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))))
        container.mux(stream.encode())
    data = path.read_bytes()
    assert b'QQQQ' in data
    path.write_bytes(data.replace(b'QQQQ', b'\xc3(\xff\xfe'))
    assert len(list(read_frames(path))) == 1
    assert frame_rate(path) == 25
    assert stated_frame_count(path) == 1
