"""The whole of the training learns: four real clips by heart."""

import json
import os
import pathlib
import subprocess
import sys

import pytest


def run(folder: pathlib.Path, module: str, *argv: object) -> None:
    environment = os.environ | {'PYTHONPATH': str(pathlib.Path(__file__).resolve().parents[1]), 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run(
        [sys.executable, '-m', module, *map(str, argv)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow  # about 6 minutes on 2 cores
def test_four_real_clips_are_learnt_by_heart(shared_dir, tmp_path):
    run(tmp_path, 'data_pipelines.build', 'sub_jhmdb/fold1', '--manual_dir', shared_dir / 'data/jhmdb', '--data_dir', 'data')
    flags = [
        '--config=configs/sub_jhmdb.py:fold=1,preset=small',
        '--workdir=run',
        '--config.dataset.train_split=train[:4]',
        '--config.dataset.eval_split=train[:4]',
        '--config.dataset.allow_overlap=True',
        '--config.data.augment_scale=(1.0, 1.0)',
        '--config.data.augment_rotation=0.0',
        '--config.data.augment_flip=0.0',
        '--config.data.augment_shift=0.0',
        '--config.train.batch_size=4',
        '--config.train.steps=200',
        '--config.train.eval_every=200.0',
        '--config.train.save_every=200.0',
        '--config.optimizer.warmup_epochs=10.0',
        '--config.eval.batch_size=4',
    ]
    run(tmp_path, 'kimnet_jax.train', *flags)
    run(tmp_path, 'kimnet_jax.evaluate', '--workdir=run')
    (report,) = (tmp_path / 'run/evaluation').glob('*.json')
    rows = json.loads(report.read_text())['rows']
    shares = {name: row['values']['torso']['pck']['0.2']['mPCK'] for name, row in rows.items()}
    assert shares.pop('KIMNet (ours)') >= 0.95
    assert max(shares.values()) < 0.6  # the mean pose of four clips is not enough
