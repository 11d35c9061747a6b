"""`kimnet report` on a run, and what a training shows in TensorBoard."""

import html
import json
import pathlib
import re
import shutil
import struct

import cv2
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from kimnet_jax.tasks.trained import open_trained

STEP = 12


@pytest.fixture(scope='module')
def pages(whole_run, run, tmp_path_factory) -> tuple[pathlib.Path, dict[str, str], dict[str, str]]:
    """(folder of a copy of the run, the page before and after an evaluation, what stderr said)."""
    folder = tmp_path_factory.mktemp('report')
    workdir = shutil.copytree(whole_run[0], folder / 'run')
    texts, told = {}, {}
    for name, flags in {'before': [], 'after': ['--evaluate', '--checkpoint=last']}.items():
        done = run('-m', 'kimnet_jax.report', workdir, f'--out={folder / name}.html', *flags)
        assert done.returncode == 0, done.stderr
        assert f'written: {folder / name}.html' in done.stdout
        texts[name], told[name] = (folder / f'{name}.html').read_text(), done.stderr
    return workdir, texts, told


def cells(text: str) -> dict[str, list[str]]:
    """Name of a row -> its cells, of the last table that has it."""
    rows = (re.findall(r'<t[hd]>(.*?)</t[hd]>', row, re.DOTALL) for row in re.findall(r'<tr[^>]*>(.*?)</tr>', text, re.DOTALL))
    return {
        re.sub('<.*?>', '', row[0]): [html.unescape(re.sub('<small>.*', '', cell)) for cell in row[1:]] for row in rows if row
    }


def test_before_an_evaluation_the_page_says_how_to_get_one(pages):
    workdir, texts, told = pages
    assert 'note: run: no tables, since checkpoint' in told['before']
    assert f'<code>kimnet report {workdir} --evaluate</code> does it.' in texts['before']
    facts = cells(texts['before'])
    parameters = sum(
        array.size for path, array in open_trained(workdir).arrays.items() if path.rpartition('.')[2] not in ('mean', 'var')
    )
    assert facts['Parameters'] == [f'{parameters:,}']
    assert facts['Evaluation clips'][0].startswith('test: 3 clips, ')
    assert facts['Seed'] == ['0']
    assert '<h2>Training</h2>' in texts['before']
    assert '<h2>Evaluation</h2>' not in texts['before']


def test_the_page_shows_what_evaluate_found(pages):
    workdir, texts, told = pages
    assert 'note:' not in told['after']
    report = json.loads((workdir / f'evaluation/test_step{STEP}.json').read_text())
    share = report['rows']['KIMNet (ours)']['values']['torso']['pck']['0.2']
    found = cells(texts['after'])
    assert found['Checkpoint'] == [f'step {STEP} of {STEP} trained']
    rows = re.search(r'<h3>By torso length</h3>(.*?)</table>', texts['after'], re.DOTALL).group(1)
    assert cells(rows)['run: KIMNet (ours)'][0] == f'{100 * share["mPCK"]:.1f}'
    assert len(cells(rows)) == 4  # heading, network, mean pose, random
    assert texts['after'].count('src="data:image/jpeg;base64,') == 2  # of 3 clips the worst and the best one
    assert '<h2>Temporal correlation</h2>' in texts['after']
    assert 'http' not in texts['after']


def test_predictions_that_the_tables_are_not_of(pages, run, tmp_path):
    workdir = shutil.copytree(pages[0], tmp_path / 'run')
    file = workdir / f'evaluation/predictions_step{STEP}.npz'
    with np.load(file) as saved:
        arrays = dict(saved)
    np.savez(file, **arrays | {'joints': arrays['joints'] * 0})
    done = run('-m', 'kimnet_jax.report', workdir, f'--out={tmp_path / "page.html"}', '--checkpoint=last')
    assert done.returncode == 0, done.stderr
    assert f'no actions, errors and clips: {file} has other poses than those that the tables are of' in done.stderr
    np.savez(file, **arrays | {'clips': np.array(['a', 'b', 'c'])})
    done = run('-m', 'kimnet_jax.report', workdir, f'--out={tmp_path / "other.html"}', '--checkpoint=last')
    assert done.returncode == 2
    assert done.stderr.startswith(f'error: {file}: poses of other clips than those of ')
    assert not (tmp_path / 'other.html').exists()


def test_a_data_set_that_is_gone(pages, run, tmp_path):
    workdir = shutil.copytree(pages[0], tmp_path / 'run')
    config = json.loads((workdir / 'config.json').read_text())
    config['config']['dataset']['data_dir'] = str(tmp_path / 'nowhere')
    (workdir / 'config.json').write_text(json.dumps(config))
    line = ('-m', 'kimnet_jax.report', workdir, f'--out={tmp_path / "page.html"}', '--checkpoint=last')
    done = run(*line)
    assert done.returncode == 0, done.stderr
    assert 'no built data set there' in done.stderr
    assert 'or give --data_dir' in done.stderr
    page = (tmp_path / 'page.html').read_text()
    assert '<h2>Evaluation</h2>' in page
    assert '<img' not in page
    (tmp_path / 'page.html').unlink()
    done = run(*line, f'--data_dir={tmp_path / "nothing"}')
    assert done.returncode == 2
    assert 'no built data set there' in done.stderr
    assert not (tmp_path / 'page.html').exists()


def test_tensorboard_shows_poses_after_every_evaluation_and_the_config(whole_run):
    images, texts = {}, {}
    for file in sorted((whole_run[0] / 'tensorboard').iterdir()):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack('<Q', data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                if value.HasField('image'):
                    images[event.step, value.tag] = value.image
                elif value.tag.startswith('config'):
                    texts[event.step] = value.tensor.string_val[0].decode()
    clips = {tag for _, tag in images}
    assert images.keys() == {(step, tag) for step in (6, STEP) for tag in clips}
    assert len(clips) == 3
    assert all(tag.startswith('eval/') for tag in clips)
    first, last = (
        cv2.imdecode(np.frombuffer(images[step, min(clips)].encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
        for step in (6, STEP)
    )
    assert first.shape == (256, 3 * 256, 3)
    changed = (np.abs(first.astype(int) - last) > 32).any(-1).mean()
    assert 0 < changed < 0.5  # the frames and the truth stay, the predicted joints move
    shown = json.loads(texts[0])
    assert shown == json.loads((whole_run[0] / 'config.json').read_text())['config']
