"""What the user gets wrong is one line on stderr, status 2, and nothing in the folder."""

import json
import pathlib
import sys

import pytest
from absl import flags

from kimnet_jax import config_flag, evaluate, train
from kimnet_jax.command_line import parse_flags
from kimnet_jax.core.command import run_command
from kimnet_jax.core.errors import InputError
from kimnet_jax.training import workdir as run_folder

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def fails(command, tmp_path, capsys, monkeypatch):
    """Runs the command in this process; returns the line that it ends with."""

    def message(settings: dict[str, object] | None = None, *extra: str, arguments: list[str] | None = None) -> str:
        values, argv = flags.FlagValues(), ['train', *(arguments or command(tmp_path / 'run', settings, *extra))]
        train.define_flags(values)
        monkeypatch.setattr(sys, 'argv', argv)  # where ml_collections looks for settings
        with pytest.raises(SystemExit) as ended:
            run_command(train.run, parse_flags(values, argv), values)
        assert ended.value.code == 2
        assert not (tmp_path / 'run').exists()
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith('error: ')
        return line.removeprefix('error: ')

    return message


@pytest.mark.quick_compilation
@pytest.mark.parametrize(
    ('settings', 'told'),
    [
        ({'unknown': 1}, '--config.unknown: the config has no such field'),
        ({'train.batchsize': 1}, '--config.train.batchsize: the config has no such field'),
        ({'train.batch_size': 'abc'}, "flag --config.train.batch_size=abc: invalid literal for int() with base 10: 'abc'"),
        ({'train.batch_size': 0}, 'config.train.batch_size=0: must be 1 to 1000000'),
        ({'eval.batch_size': -2}, 'config.eval.batch_size=-2: must be 1 to 1000000'),
        ({'dataset.data_dir': '/nowhere'}, '/nowhere/kinetic_puppets/mini: no built data set there; build it with'),
        ({'dataset.train_split': 'train[:0]'}, "split 'train[:0]' has no clips"),
        ({'dataset.eval_split': 'valid'}, "no split 'valid'; it has test, train"),
        ({'eval.select': 'pck'}, "config.eval.select='pck': no such metric; known: clips, frames, "),
        ({'eval.decoding': 'best'}, "config.eval.decoding='best': choose one of argmax, quarter, dark"),
        ({'eval.segment': 0}, 'config.eval.segment=0: must be 1 to'),
        ({'train.eval_every': 0.0}, 'config.train.eval_every=0.0: must be 1e-09 to 1e+09'),
        ({'train.save_every': -1.0}, 'config.train.save_every=-1.0: must be 1e-09 to 1e+09'),
        ({'train.log_every': 0}, 'config.train.log_every=0: must be 1 to 2147483647'),
        ({'train.average_decay': 1.0}, 'config.train.average_decay=1.0: must be 0 to 0.999999'),
        ({'data.box_scale': float('inf')}, 'config.data.box_scale=inf: must be a finite number'),
        ({'data.box_scale': 1e30}, 'config.data.box_scale=1e+30: must be 0.1 to 10'),
        ({'data.box_scale': 1e-30}, 'config.data.box_scale=1e-30: must be 0.1 to 10'),
        ({'data.augment_rotation': float('nan')}, 'config.data.augment_rotation=nan: must be a finite number'),
        ({'data.augment_rotation': 1e30}, 'config.data.augment_rotation=1e+30: must be 0 to 180'),
        ({'data.augment_scale': '(1e-9,1e9)'}, 'config.data.augment_scale=(1e-09, 1000000000.0): must be 0.1 to 10'),
        ({'data.input_size': 33}, 'config.data.input_size=33: not a size that KIMNet halves evenly; take a multiple of 64'),
        ({'data.input_size': 48}, 'config.data.input_size=48: not a size that KIMNet halves evenly; take a multiple of 64'),
        ({'data.input_size': 1 << 30}, 'config.data.input_size=1073741824: must be 1 to 4096'),
        ({'data.frames': 1 << 30}, 'config.data.frames=1073741824: must be 1 to 10000'),
        ({'optimizer.drop_epochs': '(-3,5)'}, 'config.optimizer.drop_epochs=(-3, 5): must be 0 to 1000000000'),
        ({'optimizer.drop_epochs': '(5,3)'}, 'config.optimizer.drop_epochs=(5, 3): must be epochs, each after'),
        ({'optimizer.learning_rate': float('inf')}, 'config.optimizer.learning_rate=inf: must be a finite number'),
        ({'optimizer.clip_norm': float('nan')}, 'config.optimizer.clip_norm=nan: must be a finite number'),
        ({'loader.threads': 10_000_000}, 'config.loader.threads=10000000: must be 1 to 1024'),
        ({'loader.workers': 10_000_000}, 'config.loader.workers=10000000: must be 0 to 1024'),
        ({'loader.prefetch': 1 << 40}, 'config.loader.prefetch=1099511627776: must be 1 to 1024'),
        ({'target.sigma': 1e-30}, 'config.target.sigma=1e-30: must be 0.1 to 1000'),
        ({'train.steps': 1 << 40}, 'config.train.steps=1099511627776: must be 0 to 2147483647'),
        ({'train.epochs': 1e300, 'train.steps': 0}, 'config.train.epochs=1e+300: must be 0 to 1e+09'),
        ({'train.epochs': float('nan')}, 'config.train.epochs=nan: must be a finite number'),
        ({'train.batch_size': 1 << 40}, 'config.train.batch_size=1099511627776: must be 1 to 1000000'),
        ({'train.steps': -1}, 'config.train.steps=-1: must be 0 to 2147483647'),
        ({'seed': -1}, 'config.seed=-1: must be 0 to 4294967295'),
        ({'train.epochs': 1e9, 'train.steps': 0}, 'config.train.epochs=1000000000.0, config.train.steps=0: must be at most'),
        ({'model.width': 0}, 'config.model.width=0: must be 1 to 4096'),
        ({'model.width': 10**18}, 'config.model.width=1000000000000000000: must be 1 to 4096'),
        ({'model.features': -3}, 'config.model.features=-3: must be 1 to 4096'),
        ({'model.output_scale': float('nan')}, 'config.model.output_scale=nan: must be a finite number'),
        ({'dtype': 'int8'}, "config.dtype='int8': choose one of"),
        ({'data.frames': 0}, 'config.data.frames=0: must be 1 to 10000'),
        ({'loader.threads': 0}, 'config.loader.threads=0: must be 1 to 1024'),
        ({'target.centre': 'corner'}, "config.target.centre='corner': choose one of cell, subpixel"),
        ({'optimizer.schedule': 'linear'}, "config.optimizer.schedule='linear': choose one of constant, cosine, step, released"),
        ({'optimizer.accumulate': 0}, 'config.optimizer.accumulate=0: must be 1 to 1000000'),
        ({'optimizer.accumulate': 99}, 'config.optimizer.accumulate=99: the run has only 12 batches'),
        ({'model.feature_encoder': 'resnet17'}, "config.model.feature_encoder='resnet17': choose one of resnet18, "),
        ({'model.name': 'hourclass'}, "config.model.name='hourclass': choose one of kimnet, rpstn, dkd, "),
        ({'model.name': 'pose_resnet'}, "no such field in 'pose_resnet'; known: depth, width, features, remat; for a"),
        ({'init.model': '/nowhere'}, 'config.init.model=/nowhere: there is no such run or file'),
        ({'init.pose_initializer': 'configs/common.py'}, 'a file of weights ends with .npz or .safetensors'),
        ({'init.feature_encoder': 'configs'}, 'checkpoints: contains no checkpoint; train first'),
    ],
)
def test_setting(fails, settings, told):
    assert told in fails(settings)


@pytest.mark.parametrize(
    ('config', 'told'),
    [
        ('configs/sub_jhmdb.py:fold=9', 'fold 9: choose 1, 2 or 3'),
        ('configs/sub_jhmdb.py:fold=one', "config argument fold='one': not of type int"),
        ('configs/kinetic_puppets.py:preset=huge', "preset 'huge': choose"),
        ('configs/kinetic_puppets.py:presett=tiny', "config argument 'presett': no such key; known: joints, preset, model"),
    ],
)
@pytest.mark.parametrize('override', [[], ['--config.train.steps=3']])
def test_config_argument(fails, tmp_path, config, told, override):
    line = fails(arguments=[f'--config={config}', f'--workdir={tmp_path / "run"}', *override])
    assert line.startswith(f'--config={config}: {told}')


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('def get_config(): return None', 'its get_config returns a NoneType; it must be an ml_collections.ConfigDict'),
        ("def get_config(): return {'model': {'name': 'kimnet'}}", 'its get_config returns a dict; it must be'),
        ('import sys\ndef get_config(): sys.exit(0)', 'the file fails with SystemExit: 0'),
        ("raise SystemExit('bye')", 'the file fails with SystemExit: bye'),
        ("def get_config(): raise KeyError('x')", "the file fails with KeyError: 'x'"),
        ("def get_config(): raise AttributeError('a\\nb')", 'the file fails with AttributeError: a b'),
        ('import nothing_of_that_name', 'the file fails with ModuleNotFoundError: No module named'),
        ('def get_config(:', 'the file fails with SyntaxError: invalid syntax'),
        ('get_config = 3', 'it defines no function get_config'),
    ],
)
@pytest.mark.parametrize('override', [[], ['--config.train.steps=3']])
def test_config_file_that_gives_no_config(fails, tmp_path, text, told, override):
    file = tmp_path / 'mine.py'
    file.write_text(text)
    line = fails(arguments=[f'--config={file}', f'--workdir={tmp_path / "run"}', *override])
    assert line.startswith(f'--config={file}: {told}')


@pytest.mark.parametrize(
    ('fields', 'told'),
    [
        ('', 'config.model.name: missing; choose one of kimnet, '),
        ("{'model': 3}", 'config.model.name: missing; choose one of kimnet, '),
        ("{'model': {'name': ['kimnet']}}", "config.model.name=['kimnet']: choose one of kimnet, "),
        ("{'model': {'name': 'kimnet'}}", "config: field 'seed' is missing"),
    ],
)
def test_config_without_what_it_takes(fails, tmp_path, fields, told):
    file = tmp_path / 'mine.py'
    file.write_text(f'import ml_collections\ndef get_config(): return ml_collections.ConfigDict({fields})')
    assert fails(arguments=[f'--config={file}', f'--workdir={tmp_path / "run"}']).startswith(told)


def test_needed_flags(fails, tmp_path):
    assert fails(arguments=[f'--workdir={tmp_path / "run"}']) == '--config and --workdir are needed; see --help'
    assert fails({}, 'configs/other.py').startswith("unexpected argument 'configs/other.py'")
    assert fails({}, '--wrkdir=x').startswith("Unknown command line flag 'wrkdir'")


def test_workdir_that_is_a_file(command, tmp_path, capsys, monkeypatch):
    (tmp_path / 'run').write_text('')
    values = flags.FlagValues()
    train.define_flags(values)
    monkeypatch.setattr(sys, 'argv', ['train', *command(tmp_path / 'run')])
    with pytest.raises(SystemExit):
        run_command(train.run, values(sys.argv), values)
    assert 'a file is in the way' in capsys.readouterr().err


def test_shipped_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = config_flag.shipped_config('configs/sub_jhmdb.py:fold=2')
    assert found.endswith('/configs/sub_jhmdb.py:fold=2')
    assert found != 'configs/sub_jhmdb.py:fold=2'
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs' / 'sub_jhmdb.py').touch()
    assert config_flag.shipped_config('configs/sub_jhmdb.py') == 'configs/sub_jhmdb.py'
    for absent in ('sub_jhmdb.py', 'mine/sub_jhmdb.py:fold=2', 'configs/nofile.py'):  # no other file of that name is taken
        with pytest.raises(InputError, match='there is no file'):
            config_flag.shipped_config(absent)


def test_folder_of_another_run(whole_run, command, run):
    folder = whole_run[0]
    before = (folder / 'config.json').read_bytes()
    other = {'model.features': 16, 'train.steps': 13}
    done = run('-m', 'kimnet_jax.train', *command(folder, other))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f'error: {folder} contains a run with other settings (')
    assert 'config.model.features: 8 there, 16 now; config.train.steps: 12 there, 13 now' in line
    assert (folder / 'config.json').read_bytes() == before


def test_settings_that_change_no_number_may_change(tmp_path):
    config = {
        'loader': {'threads': 1},
        'train': {'log_every': 1, 'steps': 3},
        'eval': {'batch_size': 2},
        'data': {'scale': (1, 2)},
    }
    run_folder.write_config(tmp_path, config, 'jhmdb')
    changed = {**config, 'loader': {'threads': 8}, 'train': {'log_every': 5, 'steps': 3}}
    run_folder.write_config(tmp_path, changed, 'jhmdb')
    assert run_folder.read_config(tmp_path) == (json.loads(json.dumps(changed)), 'jhmdb')
    with pytest.raises(InputError, match=r'config\.train\.steps: 3 there, 4 now'):
        run_folder.write_config(tmp_path, {**config, 'train': {'log_every': 1, 'steps': 4}}, 'jhmdb')
    assert [path.name for path in tmp_path.iterdir()] == ['config.json']


def test_a_run_that_made_no_checkpoint_may_begin_with_other_settings(tmp_path):
    config = {'data': {'augment_rotation': 40.0}, 'train': {'log_every': 1}}
    run_folder.write_config(tmp_path, config, 'jhmdb', ['random weights'])
    corrected = {'data': {'augment_rotation': 30.0}, 'train': {'log_every': 1}}
    run_folder.write_config(tmp_path, corrected, 'jhmdb', ['random weights'], begins=True)
    assert run_folder.read_config(tmp_path)[0] == corrected


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('{"config": {"data": {"box_scale": NaN}}, "skeleton": "jhmdb"}', 'not valid JSON .NaN is no number'),
        ('{"config": {}}', 'not a config written by train .skeleton is missing'),
        ('{', 'not valid JSON'),
        ('[]', 'not a config written by train'),
        ('[' * 100_000, 'not valid JSON .nested more than 100 deep'),
        ('{"config": 1, "skeleton": "jhmdb"}', 'not a config written by train .config is missing or of another kind'),
    ],
)
def test_damaged_config(tmp_path, text, told):
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(InputError, match=rf'config\.json: {told}'):
        run_folder.read_config(tmp_path)


@pytest.mark.quick_compilation
def test_divergence_stops_the_run(command, run, tmp_path):
    settings = {'optimizer.schedule': 'constant', 'optimizer.learning_rate': 1e30, 'train.save_every': 0.1}
    done = run('-m', 'kimnet_jax.train', *command(tmp_path / 'run', settings))
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith('error: parameter_norm is inf at step 1, on the clips puppet_train_000')
    assert 'Traceback' not in done.stderr
    assert list((tmp_path / 'run' / 'checkpoints').iterdir()) == []


@pytest.mark.parametrize(
    ('arguments', 'told'),
    [
        ([], '--model is needed'),
        (['--workdir=/nowhere'], '/nowhere: not the folder of a run'),
        (['--workdir=/nowhere', '--model=kimnet-s-jhmdb'], '--model and --workdir: give one of them'),
    ],
)
def test_evaluate(arguments, told, capsys):
    values = flags.FlagValues()
    evaluate.define_flags(values)
    with pytest.raises(SystemExit) as ended:
        run_command(evaluate.run, values(['evaluate', *arguments]), values)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
