"""The networks that travel with the package, used as their users do."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from flax import nnx

from kimnet_jax import pretrained
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.image import encode_png
from kimnet_jax.core.video import Frame
from kimnet_jax.data_pipelines import clip_source
from kimnet_jax.data_pipelines.backgrounds import background_window
from kimnet_jax.data_pipelines.builders import import_builder
from kimnet_jax.data_pipelines.clips import Window
from kimnet_jax.data_pipelines.transforms import Augmentation, DataConfig, crop_window
from kimnet_jax.inference.people import OnePerson
from kimnet_jax.inference.predictor import predict_poses
from kimnet_jax.interop.weight_files import read_weights, write_weights
from kimnet_jax.models import PerFrame
from kimnet_jax.models.weights import flatten
from kimnet_jax.tasks import export, heatmaps, refinement, trained, videos

pytestmark = pytest.mark.quick_compilation

VIDEO = 'kimnet-s-jhmdb'
SIZE = 192


@pytest.fixture(scope='module')
def model():
    return heatmaps.load(trained.open_trained(VIDEO))


def poses_of(model, frames):
    return [pose for _, (pose,) in predict_poses(model.predictor, (Frame(image, 0.0) for image in frames), OnePerson())]


@pytest.mark.parametrize('name', list(pretrained.catalogue()))
def test_every_model_of_the_catalogue_is_whole_small_and_described(name):
    entry = pretrained.catalogue()[name]
    assert pretrained.find(name) == entry.file
    assert entry.file.stat().st_size < 8e6
    found = trained.open_trained(name)
    assert found.step > 0
    assert 'data_dir' not in found.config or not pathlib.Path(found.config['dataset']['data_dir']).is_absolute()
    card = entry.card.read_text(encoding='utf-8')
    for section in ('Trained on', 'How well it does', 'Where it fails', 'Terms'):
        assert f'## {section}' in card


def test_the_defaults_are_in_the_catalogue():
    assert {pretrained.DEFAULT, pretrained.DEFAULT_REFINER} <= set(pretrained.catalogue())


@pytest.mark.parametrize('name', list(pretrained.catalogue()))
def test_a_network_in_one_line(name):
    model, found = trained.load_network(name), trained.open_trained(name)
    weights = {path: np.asarray(leaf[...]) for path, leaf in flatten(nnx.state(model, (nnx.Param, nnx.BatchStat))).items()}
    prefix = 'network.' if isinstance(model, PerFrame) else ''
    for path, array in found.arrays.items():
        np.testing.assert_array_equal(weights[prefix + path], array.astype(np.float32))
    assert not any(getattr(part, 'use_running_average', True) is False for _, part in nnx.iter_modules(model))


def test_unknown_and_damaged_models_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=f"'kimnet-xl': no pretrained model has that name; known: {VIDEO}"):
        pretrained.find('kimnet-xl')
    with pytest.raises(InputError, match='not the folder of a run, a weight file or a pretrained model'):
        trained.open_trained('kimnet-xl')
    entry = pretrained.catalogue()[VIDEO]
    data = bytearray(entry.file.read_bytes())
    data[len(data) // 2] ^= 1
    damaged = tmp_path / 'damaged.safetensors'
    damaged.write_bytes(data)
    monkeypatch.setattr(pretrained, 'catalogue', lambda: {VIDEO: entry._replace(file=damaged)})
    with pytest.raises(InputError, match='damaged, its checksum is not that of'):
        trained.open_trained(VIDEO)
    damaged.unlink()
    with pytest.raises(InputError, match='cannot be read'):
        trained.open_trained(f'pretrained:{VIDEO}')


def test_a_file_is_opened_by_its_path_and_a_name_before_a_folder(tmp_path, monkeypatch):
    copy = tmp_path / 'mine.safetensors'
    shutil.copy(pretrained.find(VIDEO), copy)
    monkeypatch.chdir(tmp_path)
    (tmp_path / VIDEO).mkdir()
    named, by_path = trained.open_trained(VIDEO), trained.open_trained(str(copy))
    assert named.about == {'model': 'kimnet', 'weights': VIDEO, 'step': named.step}
    assert by_path.name == str(copy)
    assert by_path.arrays.keys() == named.arrays.keys()
    with pytest.raises(InputError, match=r'config.json is missing'):
        trained.open_trained(f'./{VIDEO}')


def test_weights_without_their_settings_are_refused_with_the_remedy(tmp_path):
    arrays, metadata, _ = read_weights(pretrained.find(VIDEO))
    bare = tmp_path / 'bare.safetensors'
    write_weights(bare, arrays, {key: value for key, value in metadata.items() if key != trained.RECORD})
    with pytest.raises(InputError, match=r'only weights.*--config.init.model='):
        trained.open_trained(str(bare))
    write_weights(bare, arrays, metadata | {trained.RECORD: '{"config": []}'})
    with pytest.raises(InputError, match=r"metadata 'run': not a config written by train"):
        trained.open_trained(str(bare))
    write_weights(bare, {key: value for key, value in arrays.items() if 'conv_d' not in key}, metadata)
    with pytest.raises(InputError, match=r'bare.safetensors: these weights do not fit the model'):
        trained.open_trained(str(bare)).load()


def test_packed_again_it_is_the_same(tmp_path):
    found = trained.open_trained(VIDEO)
    trained.pack(found, tmp_path / 'again.safetensors')
    again = trained.open_trained(tmp_path / 'again.safetensors')
    assert (again.config, again.skeleton, again.step) == (found.config, found.skeleton, found.step)
    for path, array in found.arrays.items():
        np.testing.assert_array_equal(again.arrays[path], array)


def test_nobody_is_found_in_what_is_no_picture_of_anybody(model):
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:240, :320]
    bars = np.array(
        [[235, 235, 235], [235, 235, 16], [16, 235, 235], [16, 235, 16], [235, 16, 235], [235, 16, 16], [16, 16, 235]]
    )
    card = bars[columns * 7 // 320].astype(np.uint8)
    card[np.abs(np.hypot(rows - 120, columns - 160) - 90) < 2] = 255
    pictures = {
        'black': lambda: np.zeros((240, 320, 3), np.uint8),
        'grey': lambda: np.full((240, 320, 3), 128, np.uint8),
        'noise': lambda: rng.integers(0, 256, (240, 320, 3), np.uint8),
        'test card': lambda: card,
    }
    for name, draw in pictures.items():
        poses = poses_of(model, (draw() for _ in range(6)))
        assert all(pose.score < 0.1 for pose in poses), name
        assert [pose.lost for pose in poses] == [False] * 3 + [True] * 3, name


def windows(clips, count):
    """Windows of two frames, evenly over the clips."""
    for i in np.linspace(0, len(clips) - 1, count).astype(int):
        yield clips[i], Window(int(i), len(clips[i]['joints']) // 2 - 1, 2)


@pytest.mark.slow
def test_held_out_people_are_found_from_the_first_frame_and_backgrounds_are_not(model, shared_dir, tmp_path):
    """Two windows in three hundred may go wrong; the whole curve is in benchmarks/presence.py."""
    builder = import_builder('sub_jhmdb')(config='fold1', data_dir=str(tmp_path))
    import tensorflow_datasets as tfds

    download = tfds.download.DownloadConfig(manual_dir=str(shared_dir / 'data' / 'jhmdb'))
    builder.download_and_prepare(download_config=download, file_format='array_record')
    clips = clip_source.open_clips(tmp_path, 'sub_jhmdb', 'fold1', 'test')
    config, place = DataConfig(frames=2, input_size=SIZE), {'skeleton': clips.skeleton, 'folder': clips.folder}
    people, others = [], []
    for example, window in windows(clips, 87):
        people.append(scores(model, crop_window(example, window, 2, config, **place)['frames']))
        drawn = background_window(example, window, config, Augmentation(), np.random.default_rng(window.clip), **place)
        others.append(scores(model, drawn['frames']))
    first, second = np.mean(people, axis=(0, 2))
    assert first == pytest.approx(second, rel=0.1)
    assert (np.mean(people, -1) > 0.2).mean() > 0.94
    assert (np.mean(others, -1) < 0.2).mean() > 0.94


def scores(model, frames):
    box = np.array([0, 0, SIZE - 1, SIZE - 1]) / 1.25 + SIZE / 10
    return [model.predictor(frame, box, restart=i == 0)[1] for i, frame in enumerate(frames)]


def test_predict_needs_no_model_to_be_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / 'frames'
    folder.mkdir()
    for i in range(3):
        (folder / f'{i}.png').write_bytes(encode_png(np.full((60, 80, 3), 50 * i, np.uint8)))
    assert command('predict', '--outputs=json', str(folder)) == 0
    about = json.loads((tmp_path / 'predictions' / 'frames.json').read_text())['about']
    assert (about['model'], about['weights']) == ('kimnet', VIDEO)


def command(name, *arguments):
    """Exit status of a command in this process."""
    import importlib

    from absl import flags

    module = importlib.import_module(f'kimnet_jax.{name}')
    values = flags.FlagValues()
    module.define_flags(values)
    return module.run(values([name, *arguments]), values)


@pytest.mark.parametrize('load', [videos.load, lambda found: export.load(found, None)], ids=['predict', 'export'])
def test_a_network_of_poses_is_refused_where_videos_are_read(load):
    """Before, export ended with KeyError: 'data'."""
    with pytest.raises(InputError, match="'hanet' refines poses and reads no video"):
        load(trained.open_trained('hanet-s-jhmdb'))


def test_a_network_of_videos_is_refused_where_poses_are_read():
    with pytest.raises(InputError, match="'kimnet', which refines no poses"):
        refinement.load(trained.open_trained(VIDEO))
