"""Spoilt inputs of every kind, on every command: status 0 or 2, one line that says why, nothing half-written, under a minute.

With the other tests each kind gets a few cases, always the same ones. `make fuzz` runs them for an hour, on new ones; where one
fails, hypothesis prints what it drew.
"""

import collections
import importlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable

import driver
import mutations
import pytest
import world
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kimnet_jax.core import files
from kimnet_jax.data_pipelines import checksums
from kimnet_jax.models import abstract_model
from kimnet_jax.tasks import fit, heatmaps
from kimnet_jax.training import sweep

SECONDS = float(os.environ.get('KIMNET_FUZZ_SECONDS', 0))  # for all kinds together; 0: the few cases of the tests
ROUND = 50  # cases between two looks at the clock
pytestmark = pytest.mark.filterwarnings('ignore::hypothesis.errors.HypothesisWarning')  # of large cases, which it prints
COUNTS: collections.Counter[str] = collections.Counter()


@pytest.fixture(scope='module')
def valid(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp('world')
    world.write_world(folder)
    return folder


@pytest.fixture(scope='module')
def networks(valid):
    with world.quick_networks(valid):
        yield


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path, networks):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('KIMNET_MAX_PIXELS', '1000000')
    monkeypatch.setenv(files.MAX_BYTES, '100000000')
    return networks


@pytest.fixture(scope='module', autouse=True)
def _told():
    yield
    if SECONDS:
        for kind, count in sorted(COUNTS.items()):
            print(f'{count:8} {kind}')


def fuzz(cases: st.SearchStrategy, few: int, kinds: int, check: Callable[[object], None]) -> None:
    """Runs `check` on a few cases, or on new ones for this test's share of the time; `kinds`: as many tests share it."""
    relaxed = {'deadline': None, 'database': None, 'suppress_health_check': list(HealthCheck)}
    if not SECONDS:
        settings(max_examples=few, derandomize=True, phases=[Phase.generate], **relaxed)(given(cases)(check))()
        return
    end = time.monotonic() + SECONDS / kinds
    while time.monotonic() < end:
        settings(max_examples=ROUND, phases=[Phase.generate], **relaxed)(given(cases)(lambda case: check(case)))()


def judge(kind: str, command: str, *arguments: object, writes: pathlib.Path, allowed=(0, 2)) -> driver.Outcome:
    """Runs a command; fails unless it ends as it should, with its output in `writes` whole or not there."""
    before = snapshot(writes)
    outcome = driver.start(importlib.import_module(command), [*map(str, arguments)])
    COUNTS[kind] += 1
    fault = outcome.fault(allowed)
    left = [str(path) for path in writes.parent.rglob('.*') if path.name.startswith(driver.HIDDEN)]
    if not fault and left:
        fault = f'left behind: {left[0]}'
    if not fault and outcome.status == 2 and snapshot(writes) != before:
        fault = f'status 2, and {writes} is not as it was: {before} -> {snapshot(writes)}'
    assert not fault, f'{command} {" ".join(map(repr, map(str, arguments)))}\n{fault}'
    return outcome


def snapshot(path: pathlib.Path) -> dict[str, object]:
    """The files at a path, with their times and sizes."""
    found = [path, *path.rglob('*')] if path.is_dir() else [path] if path.exists() else []
    return {str(file): (file.stat().st_mtime_ns, file.stat().st_size) for file in found if file.is_file()}


def spoil(source: pathlib.Path, target: pathlib.Path, data: bytes) -> pathlib.Path:
    world.copy(source, target)
    target.write_bytes(data)
    return target


INPUTS = {  # file -> how it is spoilt, and the commands that read it; {} is the file, {out} what they write
    'boxes.json': (mutations.json_text, ['kimnet_jax.predict --model {world}/run --boxes {} --out {out} {world}/jpg']),
    'boxes.csv': (mutations.csv_text, ['kimnet_jax.predict --model {world}/run --boxes {} --out {out} {world}/jpg']),
    'tracks.txt': (mutations.csv_text, ['kimnet_jax.predict --model {world}/run --tracks {} --out {out} {world}/jpg']),
    'tracks.json': (mutations.json_text, ['kimnet_jax.predict --model {world}/run --tracks {} --out {out} {world}/jpg']),
    'poses.json': (
        mutations.json_text,
        ['kimnet_jax.refine --model {world}/hanet {} {out}.json', 'kimnet_jax.refine --smooth one_euro {} {out}.csv'],
    ),
    **{
        f'poses{ending}': (spoil_file, [f'kimnet_jax.refine --smooth savgol {{}} {{out}}{ending}'])
        for ending, spoil_file in (
            ('.csv', mutations.csv_text),
            ('.dlc.csv', mutations.csv_text),
            ('.trc', mutations.csv_text),
            ('.h5', mutations.spoilt_bytes),
        )
    },
    'predictions.npz': (mutations.npz_bytes, ['kimnet_jax.refine --model {world}/hanet {} {out}.npz']),
    'sequences/clip_detected.npz': (mutations.npz_bytes, ['kimnet_jax.refine --model {world}/hanet {} {out}.npz']),
    'run.safetensors': (
        mutations.safetensors_bytes,
        [
            'kimnet_jax.predict --model {} --out {out} {world}/jpg',
            'kimnet_jax.convert --source {} --target {out}.npz --to flax',
        ],
    ),
    'run.npz': (
        mutations.npz_bytes,
        [
            'kimnet_jax.predict --model {} --out {out} {world}/jpg',
            'kimnet_jax.convert --source {} --target {out}.safetensors --to flax',
        ],
    ),
    'hanet.npz': (mutations.npz_bytes, ['kimnet_jax.refine --model {} {world}/poses.json {out}.json']),
    'video.mp4': (mutations.spoilt_bytes, ['kimnet_jax.predict --model {world}/run --out {out} {}']),
}
IN_FOLDERS = {  # file in a folder -> how it is spoilt, the command that reads the folder, and allowed statuses
    'run/config.json': (mutations.json_text, ['kimnet_jax.predict --model {} --out {out} {world}/jpg']),
    'hanet/config.json': (mutations.json_text, ['kimnet_jax.refine --model {} {world}/poses.json {out}.json']),
    **{
        f'{suffix}/1.{suffix}': (mutations.spoilt_bytes, ['kimnet_jax.predict --model {world}/run --out {out} {}'])
        for suffix in ('jpg', 'png', 'webp', 'bmp', 'tif')
    },
    'penn_action/Penn_Action/labels/0001.mat': (mutations.spoilt_bytes, ['data_pipelines.doctor penn_action {}']),
    'penn_action/Penn_Action/frames/0001/000001.jpg': (mutations.spoilt_bytes, ['data_pipelines.doctor penn_action {} --pixels']),
    'poses_openpose/v_000000000000_keypoints.json': (
        mutations.json_text,
        ['kimnet_jax.refine --smooth savgol {} {out}', 'kimnet_jax.refine --smooth one_euro {} {out}.trc'],
    ),
    'mpii/annot/train.json': (mutations.json_text, ['data_pipelines.doctor mpii {}']),
    **{
        f'data/{world.DATASET}/{name}': (
            mutations.json_text,
            [
                'data_pipelines.export kinetic_puppets/mini --data_dir {} --clip 0 --out {out}',
                'data_pipelines.doctor kinetic_puppets {}',
            ],
        )
        for name in ('metadata.json', 'features.json', 'dataset_info.json', 'checksums.json')
    },
}
PLACES = {  # path that a user names -> the command
    'predict --out': 'kimnet_jax.predict --model {world}/run --out {} {world}/jpg',
    'predict VIDEO': 'kimnet_jax.predict --model {world}/run --out {out} {}',
    'predict --model': 'kimnet_jax.predict --model {} --out {out} {world}/jpg',
    'predict --refine': 'kimnet_jax.predict --model {world}/run --refine {} --out {out} {world}/jpg',
    'predict --boxes': 'kimnet_jax.predict --model {world}/run --boxes {} --out {out} {world}/jpg',
    'predict --tracks': 'kimnet_jax.predict --model {world}/run --tracks {} --out {out} {world}/jpg',
    'predict --detect': 'kimnet_jax.predict --model {world}/run --detect {}.onnx --out {out} {world}/jpg',
    'refine IN': 'kimnet_jax.refine --model {world}/hanet {} {out}.json',
    'refine OUT': 'kimnet_jax.refine --model {world}/hanet {world}/poses.json {}.json',
    'refine OUT in': 'kimnet_jax.refine --model {world}/hanet {world}/poses.json {}/x.json',
    'evaluate --model': 'kimnet_jax.evaluate --model {} --out {out}',
    'evaluate --data_dir': 'kimnet_jax.evaluate --model {world}/run --data_dir {} --out {out}',
    'export --model': 'kimnet_jax.export --model {} --platforms cpu --out {out}',
    'convert --source': 'kimnet_jax.convert --source {} --target {out}.npz',
    'convert --target': 'kimnet_jax.convert --source {world}/run.npz --to flax --target {}.safetensors',
    'convert --target in': 'kimnet_jax.convert --source {world}/run.npz --to flax --overwrite --target {}/x.npz',
    'train --config': 'kimnet_jax.train --config={} --workdir {out}',
    'train --workdir': 'kimnet_jax.train {train} --workdir {}',
    'train data_dir': 'kimnet_jax.train {train} --workdir {out} --config.dataset.data_dir={}',
    'train init': 'kimnet_jax.train {train} --workdir {out} --config.init.model={}',
    'reproduce --workdir': 'kimnet_jax.reproduce --preset tiny --workdir {} table5',
    'export clip --out': 'data_pipelines.export kinetic_puppets/mini --data_dir {world}/data --clip 0 --out {}',
    'export clip --out again': 'data_pipelines.export kinetic_puppets/mini --data_dir {world}/data --clip 0 --overwrite --out {}',
    'export clip --data_dir': 'data_pipelines.export kinetic_puppets/mini --data_dir {} --clip 0 --out {out}',
    'compact --data_dir': 'data_pipelines.compact kinetic_puppets/mini --data_dir {} --out {out}',
    'build --manual_dir': 'data_pipelines.build sub_jhmdb/fold1 --manual_dir {} --data_dir {out}',
    'build --data_dir': 'data_pipelines.build mpii/simple_baseline --manual_dir {world}/jpg --data_dir {}',
    'doctor PATH': 'data_pipelines.doctor kinetic_puppets {}',
    'doctor download': 'data_pipelines.doctor sub_jhmdb {}',
    'posetrack --manual_dir': 'data_pipelines.builders.posetrack.official {world}/run.npz --manual_dir {} --out {out}',
    'doctor --json': 'data_pipelines.doctor kinetic_puppets {world}/data --json {}',
    'doctor --json in': 'data_pipelines.doctor kinetic_puppets {world}/data --json {}/x.json',
}
KINDS = len(INPUTS) + len(IN_FOLDERS) + 3


def line(template: str, spoilt: object, root: pathlib.Path, out: pathlib.Path) -> list[str]:
    """The command of a template, in words; a path may have spaces."""
    train = [f'--config={world.ROOT}/configs/kinetic_puppets.py:preset=tiny', '--config.dataset.config=mini']
    train += [f'--config.dataset.data_dir={root}/data', '--config.train.steps=1', '--config.eval.batch_size=1']
    words: list[str] = []
    for word in template.split():
        words += (
            train
            if word == '{train}'
            else [word.replace('{world}', str(root)).replace('{out}', str(out)).replace('{}', str(spoilt))]
        )
    return words


def allowed(template: str) -> tuple[int, ...]:
    return (0, 1, 2) if 'doctor' in template else (0, 2)


@pytest.mark.parametrize('name', INPUTS)
def test_spoilt_files(name, valid, tmp_path):
    how, commands = INPUTS[name]
    spoilt, out = tmp_path / 'in' / pathlib.Path(name).name, tmp_path / 'written' / 'out'
    spoilt.parent.mkdir()
    out.parent.mkdir()

    def check(case: tuple[bytes, str]) -> None:
        data, command = case
        spoilt.write_bytes(data)
        module, *words = line(command, spoilt, valid, out)
        judge(name, module, *words, writes=out.parent)
        empty(out.parent)

    fuzz(st.tuples(how((valid / name).read_bytes()), st.sampled_from(commands)), 10, KINDS, check)


@pytest.mark.parametrize('name', IN_FOLDERS)
def test_spoilt_files_in_folders(name, valid, tmp_path):
    how, commands = IN_FOLDERS[name]
    top, out = pathlib.Path(name).parts[0], tmp_path / 'written' / 'out'
    folder = world.copy(valid / top, tmp_path / top)
    out.parent.mkdir()
    file = tmp_path / name
    original, listed = file.read_bytes(), file.parent / 'checksums.json'

    def check(case: tuple[bytes, str]) -> None:
        data, command = case
        file.write_bytes(data)
        if listed.exists() and file != listed:
            listed.unlink()
            checksums.write(file.parent)  # else all that is said is that the file was altered
        module, *words = line(command, folder, valid, out)
        judge(name, module, *words, writes=out.parent, allowed=allowed(command))
        empty(out.parent)

    fuzz(st.tuples(how(original), st.sampled_from(commands)), 6, KINDS, check)


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')  # of TensorStore's threads, hushed in commands
def test_files_of_checkpoints(valid, tmp_path):
    out = tmp_path / 'written' / 'out'
    out.parent.mkdir()
    folder = world.copy(valid / 'run', tmp_path / 'run')
    inside = sorted(
        str(path.relative_to(folder)) for path in (folder / 'checkpoints').rglob('*') if 'optimizer' not in path.parts
    )
    hows = st.sampled_from(['removed', 'folder', 'empty', 'loop', 'bytes'])

    def check(case: tuple[str, str, bytes]) -> None:
        name, how, junk = case
        world.copy(valid / 'run', folder)
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        if how == 'folder':
            path.mkdir()
        elif how == 'loop':
            path.symlink_to(path.name)
        elif how != 'removed':
            path.write_bytes(b'' if how == 'empty' else junk)
        judge('checkpoint', 'kimnet_jax.predict', '--model', folder, '--out', out, valid / 'jpg', writes=out.parent)
        empty(out.parent)

    fuzz(st.tuples(st.sampled_from(inside), hows, st.binary(max_size=100)), 5, KINDS, check)


@pytest.fixture
def no_training(monkeypatch):
    """All that comes before the first step."""
    monkeypatch.setattr(fit, 'fit', lambda *_, **__: 0)
    monkeypatch.setattr(heatmaps, 'build_model', lambda fields, seed, **given: abstract_model(fields, **given))
    monkeypatch.setattr(sweep, 'find_slots', lambda jobs: ([], 'none'))
    monkeypatch.setattr(sweep, 'train_all', lambda *_: ({}, 0))


def test_paths(valid, tmp_path, no_training):
    folder, out = tmp_path / 'place', tmp_path / 'written' / 'out'
    out.parent.mkdir()

    def check(case: tuple[str, str]) -> None:
        place, kind = case
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        path = mutations.bad_path(kind, folder)
        module, *words = line(PLACES[place], path, valid, out)
        judge(f'path: {place}', module, *words, writes=out.parent, allowed=allowed(PLACES[place]))
        empty(out.parent)

    fuzz(st.tuples(st.sampled_from([*PLACES]), st.sampled_from(mutations.PATHS)), 30, KINDS, check)


def test_fields_of_configs(valid, tmp_path, no_training):
    out = tmp_path / 'written' / 'out'
    out.parent.mkdir()
    config = json.loads((valid / 'run/config.json').read_text())['config']
    fields = [f'{section}.{key}' for section, values in config.items() if isinstance(values, dict) for key in values]
    values = st.one_of(
        mutations.ODD_NUMBERS, mutations.ODD_FLOATS, mutations.ODD_TEXT, st.sampled_from(['None', 'True', '()', '(1,)'])
    )

    def check(case: tuple[str, object]) -> None:
        field, value = case
        module, *words = line('kimnet_jax.train {train} --workdir {out}', '', valid, out)
        judge('config field', module, *words, f'--config.{field}={value}', writes=out.parent)
        empty(out.parent)

    fuzz(st.tuples(st.sampled_from([*fields, 'seed', 'dtype', 'none.such']), values), 8, KINDS, check)


def empty(folder: pathlib.Path) -> None:
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
