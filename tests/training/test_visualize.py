"""`kimnet_jax.visualize` on clips and on videos: what is drawn is what the network computes."""

import csv
import pathlib
import sys

import av
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from flax import nnx
from matplotlib.collections import LineCollection

from kimnet_jax import visualize
from kimnet_jax.configs.kinetic_puppets import get_config
from kimnet_jax.core.command import run_command
from kimnet_jax.core.image import decode_image, encode_png, normalise, warp
from kimnet_jax.core.kinematics import joint_angles
from kimnet_jax.core.skeleton import JHMDB
from kimnet_jax.data_pipelines import clip_source
from kimnet_jax.data_pipelines.export import export_clip
from kimnet_jax.data_pipelines.loader import eval_batches
from kimnet_jax.data_pipelines.transforms import DataConfig
from kimnet_jax.inference.video_writer import VideoWriter
from kimnet_jax.metrics import PoseMetrics
from kimnet_jax.models import build_model
from kimnet_jax.models.weights import flatten
from kimnet_jax.reporting import pictures
from kimnet_jax.tasks import refinement, trained, visualization
from kimnet_jax.tasks.footage import Frames, open_clip, watch
from kimnet_jax.tasks.occlusion import predictor

pytestmark = pytest.mark.quick_compilation
FRAMES = 5


def packed(data_dir: pathlib.Path, file: pathlib.Path, seed: int) -> pathlib.Path:
    """A file of random weights of a tiny network, as if trained on the clips."""
    config = get_config('preset=tiny,row=without_p').to_dict()
    config['dataset'] |= {'config': 'mini', 'data_dir': str(data_dir)}
    model = build_model(config['model'], num_joints=15, seed=seed)
    arrays = {path: np.array(leaf[...]) for path, leaf in flatten(nnx.state(model, (nnx.Param, nnx.BatchStat))).items()}
    generator = np.random.default_rng(seed)
    for path, array in arrays.items():  # those of the beginning give heatmaps near zero, and a W_r that is uniform
        if path.endswith('scale'):
            array[:] = generator.uniform(0.5, 1.5, array.shape) * (0.4 if 'relation_decoder' in path else 1)
        elif path.endswith('bias'):
            array[:] = generator.normal(0, 0.3, array.shape)
        elif 'temporal' in path:
            array *= 2
    trained.pack(trained.Trained(file.stem, config, JHMDB, 1, arrays), file, dtype='float32')
    return file


@pytest.fixture(scope='module')
def network(data_dir, tmp_path_factory) -> pathlib.Path:
    return packed(data_dir, tmp_path_factory.mktemp('weights') / 'net.safetensors', 0)


@pytest.fixture(scope='module')
def other(data_dir, tmp_path_factory) -> pathlib.Path:
    return packed(data_dir, tmp_path_factory.mktemp('weights') / 'other.safetensors', 1)


@pytest.fixture(scope='module')
def clips(data_dir):
    return clip_source.open_clips(data_dir, 'kinetic_puppets', 'mini', 'test')


@pytest.fixture(scope='module')
def output(network, clips):
    """What the network gives for the first frames of clip 1."""
    found = trained.open_trained(network)
    data = DataConfig(**found.config['data'])
    for batch in eval_batches(clips, data, batch_size=1, segment=FRAMES, chain_length=None):
        if batch['clip'][0] == 1 and batch['start'][0]:
            return found.load()(normalise(jnp.asarray(batch['frames']), jnp)), batch
    raise AssertionError


@pytest.fixture
def draw(monkeypatch):
    """Runs the command with flags of its own: (exit status, the figures that it drew)."""

    def call(*argv: object) -> tuple[int, list]:
        figures, values = [], flags.FlagValues()
        save = pictures.save
        monkeypatch.setattr(pictures, 'save', lambda figure, *rest: (figures.append(figure), save(figure, *rest)))
        visualize.define_flags(values)
        with pytest.raises(SystemExit) as caught:
            run_command(visualize.run, values(['visualize', *map(str, argv)]), values)
        monkeypatch.undo()
        return caught.value.code, figures

    return call


def cells(figure) -> list[np.ndarray]:
    return [np.asarray(image.get_array()) for axes in figure.axes for image in axes.get_images()]


def test_correlation_is_that_of_the_network(draw, network, output, tmp_path, capsys):
    out = tmp_path / 'new/w.png'
    argv = ['correlation', f'--model={network}', '--clip=1', f'--frames={FRAMES}', '--lines=l_wrist', f'--out={out}']
    status, (figure,) = draw(*argv)
    assert (status, capsys.readouterr().out) == (0, f'written: {out}\n')
    assert out.read_bytes().startswith(b'\x89PNG')
    expected = np.asarray(output[0].evidence['correlation'][0])
    matrices = [part for part in cells(figure) if part.shape == (15, 15)]
    np.testing.assert_allclose(matrices, expected, atol=2e-3)
    assert np.ptp(expected) > 0.01
    (lines,) = (part for axes in figure.axes for part in axes.collections if isinstance(part, LineCollection) and axes.images)
    wrist = JHMDB.joints.index('l_wrist')
    np.testing.assert_allclose(lines.get_array(), np.sort(expected[:, wrist].ravel()), atol=2e-3)


def test_frames_are_those_of_the_whole_chain(draw, network, output, tmp_path):
    status, (figure,) = draw('correlation', f'--model={network}', '--clip=1', '--frames=2:5', f'--out={tmp_path / "w.svg"}')
    assert status == 0
    np.testing.assert_allclose(cells(figure), np.asarray(output[0].evidence['correlation'][0, 2:4]), atol=2e-3)
    text = (tmp_path / 'w.svg').read_text()
    assert all(f'>{part}</text>' in text for part in ('l_wrist', '2 → 3', '3 → 4'))


def test_heatmaps_are_those_of_the_network(draw, network, output, tmp_path):
    argv = ['heatmaps', f'--model={network}', '--clip=puppet_test_0001', '--frames=0:5:2', '--joints=l_knee']
    status, (figure,) = draw(*argv, f'--out={tmp_path / "h.pdf"}')
    assert status == 0
    (found, batch), knee = output, JHMDB.joints.index('l_knee')
    predicted, final = np.asarray(found.evidence['predicted'][0, [1, 3]]), np.asarray(found.heatmaps[0, [0, 2, 4]])
    size = final.shape[1]
    maps = [part for part in cells(figure) if part.shape == (size, size)]
    target, blocks = maps[:3], {'sum': maps[3:8], 'knee target': maps[8:11], 'knee': maps[11:]}
    np.testing.assert_allclose(blocks['sum'], [*predicted.sum(-1), *final.sum(-1)], atol=0.02 * np.abs(final.sum(-1)).max())
    np.testing.assert_allclose(blocks['knee'], [*predicted[..., knee], *final[..., knee]], atol=0.02 * np.abs(final).max())
    joints, visible = (batch[key][0, [0, 2, 4], knee] for key in ('joints', 'visible'))
    assert visible.any()
    for peak, joint, there in zip(blocks['knee target'], joints, visible, strict=True):
        row, column = np.unravel_index(peak.argmax(), peak.shape)
        assert (peak.max() > 0.8) == there
        assert not there or np.abs(joint - [4 * column + 1.5, 4 * row + 1.5]).max() <= 2
    assert min(summed.max() for summed in target) > 0.8
    marks = [line.get_xydata()[0] for axes in figure.axes for line in axes.lines if len(line.get_xydata()) == 1]
    np.testing.assert_allclose(marks[: visible.sum()], joints[visible], atol=1e-3)


def test_where_a_chain_begins_nothing_is_drawn(network, data_dir, tmp_path, monkeypatch):
    found = trained.open_trained(network)
    short = trained.Trained(**{**vars(found), 'config': {**found.config, 'eval': {**found.config['eval'], 'chain_length': 2}}})
    footage = open_clip(short, '1', data_dir=str(data_dir))
    given = []
    monkeypatch.setattr(pictures, 'correlation', lambda weights, *rest: given.append(weights))
    monkeypatch.setattr(pictures, 'save', lambda *args: args[1].write_bytes(b''))
    visualization.correlation(short, footage, Frames(0, 4), tmp_path / 'w.png')
    assert np.isnan(given[0]).all((1, 2)).tolist() == [False, True, False]


def test_comparison_counts_as_the_evaluation(draw, network, other, clips, tmp_path, capsys):
    out = tmp_path / 'c.png'
    argv = ['compare', f'--model={network},{other}', '--clip=0', '--frames=0:9:3']
    status, (figure,) = draw(*argv, f'--out={out}')
    printed = capsys.readouterr().out.splitlines()
    assert status == 0
    example, shown, rights = clips[0], [0, 3, 6], []
    for name, line, one in zip(('net', 'other'), printed, (network, other), strict=False):
        found = trained.open_trained(one)
        poses = predictor(found.load(), found.config, clips)(None)[0]
        metrics = PoseMetrics(JHMDB, 1)
        metrics.update(0, *(part[shown] for part in (poses, example['joints'], example['visible'], example['boxes'])))
        state = metrics.ratios['torso']
        assert line == f'{name}: {state.sums[0, -1].sum()} of {state.counts[0].sum()} joints within 0.2 torso lengths'
        right, _ = visualization.right_joints(poses[None, shown], example['joints'][shown], example['visible'][shown], JHMDB)
        rights.append(right[0])
    differing = (rights[0] != rights[1]).sum()
    assert differing > 0
    rings = [part for axes in figure.axes for part in axes.patches]
    assert len(rings) == 2 * 2 * differing  # in the panels of both, each on a white ground
    assert [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()] == ['truth', 'net', 'other']


def test_comparison_as_a_video(draw, network, other, tmp_path):
    out = tmp_path / 'c.mp4'
    assert draw('compare', f'--model={network},{other}', '--clip=0', '--frames=0:8:2', f'--out={out}') == (0, [])
    with av.open(str(out)) as container:
        frames = [frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)]
    assert len(frames) == 4
    assert np.abs(frames[0].astype(int) - frames[-1]).max() > 50
    assert frames[0].std() > 20


def test_trajectories_of_a_clip(draw, network, clips, tmp_path, capsys):
    out = tmp_path / 't.png'
    argv = ['trajectories', f'--model={network}', '--clip=2', '--refine=hanet-s-jhmdb', '--joints=l_knee,head', f'--out={out}']
    assert draw(*argv) == (2, [])
    assert "--joints: 'head' is no joint of 'jhmdb'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    argv[4] = '--joints=l_knee,face'
    status, (figure,) = draw(*argv)
    assert (status, capsys.readouterr().out) == (0, f'written: {out}\nwritten: {out.with_suffix(".csv")}\n')
    with out.with_suffix('.csv').open() as file:
        rows = list(csv.DictReader(file))
    example = clips[2]
    count = len(example['joints'])
    assert [row['poses'] for row in rows] == ['raw'] * count + ['refined'] * count + ['truth'] * count
    truth = [float(row['l_knee'] or 'nan') for row in rows[2 * count :]]
    places = np.where(example['visible'][..., None], example['joints'], np.nan)
    np.testing.assert_allclose(truth, joint_angles(places, JHMDB)['l_knee'], atol=0.006)
    assert [int(row['frame']) for row in rows[:count]] == [*range(count)]
    x, *_ = figure.axes
    drawn = {line.get_label(): line.get_ydata() for line in x.lines}
    np.testing.assert_allclose(drawn['face, truth'], places[:, JHMDB.joints.index('face'), 0])
    found = trained.open_trained(network)
    poses = watch(found, open_clip(found, '2'), None, None, keep=False).joints
    knee = JHMDB.joints.index('l_knee')
    refiner = refinement.load(trained.open_trained('hanet-s-jhmdb')).refiner
    refined = refiner(poses, example['boxes'], example['image_size'])
    np.testing.assert_allclose(drawn['l_knee, refined'], refined[:, knee, 0], atol=1e-3)
    sure = np.isfinite(drawn['l_knee, raw'])
    assert sure.any()
    np.testing.assert_allclose(drawn['l_knee, raw'][sure], poses[sure, knee, 0], atol=1e-3)


def test_a_folder_of_images(draw, network, clips, tmp_path, capsys):
    folder, out = tmp_path / 'clip', tmp_path / 'w.png'
    export_clip(clips[1], JHMDB, folder)
    box = ','.join(map(str, clips[1]['boxes'][0]))
    status, (figure,) = draw('correlation', f'--model={network}', folder, f'--box={box}', '--frames=3', f'--out={out}')
    assert (status, len(cells(figure))) == (0, 2)
    assert figure.get_suptitle() == 'net: temporal correlation on clip'
    assert draw('trajectories', f'--model={network}', folder, f'--box={box}', '--frames=4', f'--out={out}')[0] == 0
    header, *rows = out.with_suffix('.csv').read_text().splitlines()
    assert header.startswith('frame,poses,l_elbow,')
    assert len(rows) == 4
    assert draw('heatmaps', f'--model={network}', folder, f'--frames=0:{len(clips[1]["joints"]) + 1}')[0] == 2
    assert f'clip has only {len(clips[1]["joints"])} frames' in capsys.readouterr().err
    _, (figure,) = draw('heatmaps', f'--model={network}', folder, '--frames=1', f'--out={out}')
    assert 'all joints\ntarget' not in [axes.get_ylabel() for axes in figure.axes]


def test_time_is_in_seconds_where_a_video_has_a_rate(draw, network, clips, tmp_path):
    video, out = tmp_path / 'walk.mp4', tmp_path / 'a.svg'
    with video.open('wb') as file:
        writer = VideoWriter(file, 12.5)
        for frame in clips[1]['frames'][:6]:
            writer.write(decode_image(frame, 'frame'))
        writer.finish()
    box = ','.join(map(str, clips[1]['boxes'][0]))
    status, (figure,) = draw('trajectories', f'--model={network}', video, f'--box={box}', '--frames=2:', f'--out={out}')
    assert status == 0
    with out.with_suffix('.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [(row['frame'], row['time_s'], row['poses']) for row in rows] == [
        (str(t), f'{t / 12.5:.4f}', 'raw') for t in range(2, 6)
    ]
    np.testing.assert_allclose(figure.axes[0].lines[0].get_xdata(), np.arange(2, 6) / 12.5)
    assert figure.axes[2].get_ylabel() == 'speed (pixels / s)'


BAD = [
    ([], 'no picture given: choose one of correlation, heatmaps, compare, trajectories'),
    (['portrait', '--clip=0'], 'portrait: choose one of'),
    (['correlation'], 'give either --clip, of a built data set, or a video'),
    (['correlation', 'a.mp4', '--clip=0'], 'give either --clip'),
    (['correlation', 'a.mp4', 'b.mp4'], "unexpected argument 'b.mp4'"),
    (['correlation', '--clip=0', '--box=0,0,9,9'], '--box belongs to videos'),
    (['correlation', 'a.mp4', '--split=test'], '--split belongs to --clip'),
    (['correlation', '--clip=0', '--refine=hanet-s-jhmdb'], '--refine belongs to trajectories, not to correlation'),
    (['compare', '--clip=0', '--joints=l_knee'], '--joints belongs to heatmaps and trajectories, not to compare'),
    (['correlation', 'nowhere.mp4'], 'nowhere.mp4: no such video file'),
    (['correlation', '--clip=3'], "--clip 3: split 'test' has clips 0 to 2"),
    (['correlation', '--clip=dance'], "--clip dance: no such clip in split 'test'"),
    (['correlation', '--clip=0', '--dataset=puppets'], '--dataset puppets: give NAME/CONFIG'),
    (['correlation', '--clip=0', '--dataset=kinetic_puppets/other'], 'no built data set there'),
    (['correlation', '--clip=0', '--frames=1'], 'W_r is of two frames, and there is one'),
    (['correlation', '--clip=0', '--frames=0:8:2'], 'W_r is of a frame and the next'),
    (['trajectories', '--clip=0', '--frames=9000'], '--frames 0:9000: puppet_test_0000 has only'),
    (['heatmaps', '--clip=0', '--frames=9000:'], '--frames 9000:: puppet_test_0000 has only'),
    (['correlation', '--clip=CLIP', '--frames=0:51'], '--frames 0:51: a picture shows at most 50 frames'),
    (['correlation', '--clip=0', '--frames=5:5'], '--frames 5:5: there is no frame in it'),
    (['correlation', '--clip=0', '--frames=0:4:0'], '--frames 0:4:0: there is no frame in it'),
    (['correlation', '--clip=0', '--frames=0'], '--frames 0: there is no frame in it'),
    (['correlation', '--clip=0', '--frames=-3:'], '--frames -3:: give a number N, A:B or A:B:STEP'),
    (['correlation', '--clip=0', '--lines=l_knie'], "--lines: 'l_knie' is no joint of 'jhmdb'; choose from neck, belly"),
    (['heatmaps', '--clip=0', '--joints=head'], "--joints: 'head' is no joint of 'jhmdb'"),
    (['trajectories', '--clip=0', '--frames=1'], 'at least two frames, and there is one'),
    (['trajectories', '--clip=0', '--frames=0:6:2'], 'speeds are from frame to frame'),
    (['trajectories', '--clip=0', '--refine=kimnet-s-jhmdb'], 'refines no poses'),
    (['correlation', '--clip=0', '--out=a.gif'], '--out a.gif: correlation is written as .png, .svg, .pdf, .webp'),
    (['correlation', '--clip=0', '--out=a.mp4'], '--out a.mp4: correlation is written as'),
    (['compare', '--clip=0', '--model=RUN,OTHER', '--out=a'], '--out a: compare is written as .png, .svg, .pdf, .webp, .mp4'),
    (['compare', '--clip=0'], 'compare takes two or more networks, as --model A,B'),
    (['compare', '--clip=0', '--model=RUN,RUN'], 'the same network twice'),
    (['compare', '--clip=0', '--model=RUN,'], 'one of these names is empty'),
    (['heatmaps', '--clip=0', '--model=RUN,OTHER'], 'heatmaps takes one network'),
    (['compare', '--clip=0', '--model=RUN,poseresnet-s-lsp'],
     "poseresnet-s-lsp: finds the joints of 'lsp', RUN has those of 'jhmdb'"),
    (['correlation', '--clip=0', '--model=poseresnet-s-lsp', '--dataset=kinetic_puppets/mini', '--data_dir=DATA'],
     'poseresnet-s-lsp: a pose_resnet, which has no KMM and so no W_r'),
    (['heatmaps', '--clip=0', '--model=poseresnet-s-lsp', '--dataset=kinetic_puppets/mini', '--data_dir=DATA'],
     'poseresnet-s-lsp: a pose_resnet, which predicts no heatmaps m^p'),
    (['trajectories', '--clip=0', '--model=poseresnet-s-lsp', '--dataset=kinetic_puppets/mini', '--data_dir=DATA'],
     "poseresnet-s-lsp: finds the joints of 'lsp', clip 'puppet_test_0000' has those of 'jhmdb'"),
    (['correlation', '--clip=0', '--model=hanet-s-jhmdb', '--dataset=kinetic_puppets/mini', '--data_dir=DATA'],
     "hanet-s-jhmdb: 'hanet' refines poses and reads no video"),
]  # fmt: skip


@pytest.mark.parametrize(('argv', 'told'), BAD)
def test_bad_input(draw, network, other, clips, data_dir, argv, told, capsys, tmp_path, monkeypatch):
    places = {'CLIP': max(range(3), key=clips.lengths.__getitem__), 'RUN': network, 'OTHER': other, 'DATA': data_dir}
    for name, place in places.items():
        argv = [part.replace(name, str(place)) for part in argv]
        told = told.replace(name, str(place))
    chosen = [] if any(part.startswith('--model') for part in argv) else [f'--model={network}']
    out = [] if any(part.startswith('--out') for part in argv) else [f'--out={tmp_path / "out.png"}']
    before = sorted(pathlib.Path().iterdir())
    assert draw(*argv, *chosen, *out) == (2, [])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith('error: ')
    assert told in line
    assert not list(tmp_path.iterdir())
    assert sorted(pathlib.Path().iterdir()) == before


def test_without_matplotlib(draw, network, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    values = flags.FlagValues()
    visualize.define_flags(values)
    argv = ['visualize', 'correlation', f'--model={network}', '--clip=0', f'--out={tmp_path / "a.png"}']
    with pytest.raises(SystemExit) as caught:
        run_command(visualize.run, values(argv), values)
    assert caught.value.code == 2
    assert capsys.readouterr().err == 'error: Matplotlib is needed for pictures: pip install "kimnet-jax[report]"\n'


def test_bad_videos(draw, network, tmp_path, capsys):
    folder = tmp_path / 'frames'
    folder.mkdir()
    (folder / '0.png').write_bytes(b'no image')
    assert draw('trajectories', f'--model={network}', folder, f'--out={tmp_path / "a.png"}') == (2, [])
    assert '0.png: not a readable image' in capsys.readouterr().err
    (folder / '0.png').write_bytes(encode_png(np.zeros((40, 40, 3), np.uint8)))
    assert draw('trajectories', f'--model={network}', folder, '--box=100,100,120,120', f'--out={tmp_path / "a.png"}') == (
        2,
        [],
    )
    assert 'outside the 40x40 image' in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ['frames']


def test_where_pictures_go():
    assert visualize._out('compare', 'clip', pathlib.Path('run'), None) == pathlib.Path('run/pictures/compare_clip.png')
    assert visualize._out('compare', 'a/b', None, None) == pathlib.Path('pictures/compare_a_b.png')
    assert visualize._out('compare', 'clip', None, None) == pathlib.Path('pictures/compare_clip.png')
    assert visualize._out('compare', 'clip', None, 'a/b.mp4') == pathlib.Path('a/b.mp4')


def test_the_view_holds_all_joints():
    joints = np.array([[[10.0, 20], [np.nan, np.nan]], [[110, 60], [30, 25]]])
    view = visualization._view(joints)
    image = np.zeros((100, 130, 3), np.uint8)
    image[60, 110] = 255
    panel = warp(image, view, 400)
    x, y = view @ [110, 60, 1]
    assert panel[round(y), round(x)].max() > 200
    corners = np.array([view @ [*point, 1] for point in joints[np.isfinite(joints).all(-1)]])
    assert corners.min() > 0
    assert corners.max() < 400
