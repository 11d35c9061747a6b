"""The commands for a machine with a GPU, at the smallest size on the CPU."""

import json
import os
import pathlib
import subprocess
import sys
import tarfile

import pytest
from fake_jhmdb import write_jhmdb

from kimnet_jax.data_pipelines import build, compact
from kimnet_jax.interop.weight_files import read_weights

pytestmark = pytest.mark.quick_compilation

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALL = ('--config.train.batch_size=2', '--config.eval.batch_size=2', '--config.loader.threads=1')


@pytest.fixture(scope='module')
def clips(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp('clips')
    root = write_jhmdb(folder / 'download')
    build.main(['build', 'sub_jhmdb/fold1', '--manual_dir', str(root), '--data_dir', str(folder / 'data')])
    compact.main(['compact', 'sub_jhmdb/fold1', '--data_dir', str(folder / 'data'), '--out', str(folder / 'compact')])
    return folder / 'compact'


def run(script: str, *arguments: object, cwd: pathlib.Path, **variables: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key not in ('CLIPS', 'WHEELS', 'PYTHONPATH')}
    environment |= {'JAX_PLATFORMS': 'cpu', 'PYTHON': sys.executable, 'PRESET': 'tiny'} | variables
    command = [ROOT / 'benchmarks' / script, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=cwd, env=environment, check=False)


def test_session(clips, tmp_path):
    variables = {'STAGES': 'environment check train evaluate', 'CHECK': 'kmm,relation_decoder', 'SESSION_SECONDS': '1800'}
    done = run('gpu_session.sh', os.path.relpath(clips, tmp_path), cwd=tmp_path, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == ['session.tar.gz', 'summary.json']
    summary = json.loads((tmp_path / 'out/summary.json').read_text())
    assert summary['preset'] == 'tiny'
    assert [(stage['stage'], stage['rc']) for stage in summary['stages']] == [
        (name, 0) for name in ('environment', 'check', 'train', 'evaluate')
    ]
    with tarfile.open(tmp_path / 'out/session.tar.gz') as archive:
        names = set(archive.getnames())
        found = json.load(archive.extractfile('results/gpu_check_tiny_cpu.json'))
    assert {'logs/train.log', 'results/test_step2.json', 'results/metrics.jsonl', 'summary.json'} <= names
    statuses = {(check['network'], check['precision']): check['status'] for check in found['checks']}
    assert statuses == {
        ('kmm', 'float32'): 'agrees',
        ('kmm', 'bf16'): 'agrees',
        ('relation_decoder', 'float32'): 'agrees',
        ('relation_decoder', 'bf16'): 'has no bfloat16',
    }


def test_session_goes_on_after_a_failure(tmp_path):
    (tmp_path / 'empty').mkdir()
    variables = {'STAGES': 'train evaluate', 'OUT': 'results'}
    done = run('gpu_session.sh', 'empty', cwd=tmp_path, **variables)
    assert done.returncode == 1
    assert 'no built data set there' in done.stdout
    stages = json.loads((tmp_path / 'results/summary.json').read_text())['stages']
    assert [(stage['stage'], stage['rc']) for stage in stages] == [('train', 2), ('evaluate', 2)]


def train(clips, folder, *arguments):
    script = [
        sys.executable,
        ROOT / 'benchmarks/gpu_train.py',
        '--data',
        clips,
        '--work',
        'work',
        '--out',
        'out',
        '--preset',
        'tiny',
    ]
    limits = ['--seconds', '900', '--workers', '0', '--jobs', '1', '--length', '0.1']
    environment = {**os.environ, 'PYTHONPATH': str(ROOT)}
    command = list(map(str, [*script, *limits, *arguments]))
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)


def test_trainings(clips, tmp_path):
    name = 'claim_kimnet_none_seed1'
    done = train(clips, tmp_path, '--only', 'claim', '--names', name, *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    results = tmp_path / 'out' / name
    assert {'config.json', 'metrics.jsonl', 'poses.npz', 'log.txt'} <= {path.name for path in results.iterdir()}
    record = json.loads((results / 'config.json').read_text())['config']
    assert (record['model']['temporal'], record['seed']) == ('none', 1)
    (table,) = results.glob('test_step*.md')
    assert 'distances in pixels are not those in the original frames' in table.read_text()
    arrays, metadata, _ = read_weights(tmp_path / f'out/{name}.safetensors')
    assert json.loads(metadata['run'])['config'] == record
    assert any(path.startswith('transition.') for path in arrays)
    summary = json.loads((tmp_path / 'out/summary.json').read_text())
    assert list(summary['jobs']) == [name]
    done = train(clips, tmp_path, '--only', 'claim', '--names', name, *SMALL)
    assert (done.returncode, done.stdout) == (0, '')  # it has ended already


def test_a_training_that_fails_is_told_with_its_last_lines(clips, tmp_path):
    done = train(clips, tmp_path, '--only', 'claim', '--names', 'claim_kimnet_none_seed1', '--config.train.batch_size=0')
    assert done.returncode == 1
    assert 'claim_kimnet_none_seed1 FAILED' in done.stdout
    assert 'config.train.batch_size=0' in done.stdout
