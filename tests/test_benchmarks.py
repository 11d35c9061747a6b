"""The benchmarks run, say what they are to say, and refuse to time two networks that do not compute the same."""

import ast
import importlib.util
import json
import math
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from kimnet_jax.core import heatmap

pytestmark = pytest.mark.quick_compilation

BENCHMARKS = pathlib.Path(__file__).parents[1] / 'benchmarks'
RUNS = {  # script: what to time of it, and the stages that its JSON then has
    'train_step': (['--stages=train step'], {'train step'}),
    'inference': ([], {'stream', 'crop on the host', 'clips'}),
    'hanet': (['--stages=windows,train step'], {'windows', 'train step'}),
    'memory': (['--stages=clips'], {'clips'}),
}


def run(script: pathlib.Path, out: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess:
    """On one core each: PyTorch's threads wait for each other where others need the cores."""
    command = [sys.executable, str(script), '--preset=tiny', '--rounds=1', '--cores=1', '--contenders=jax,eager', f'--out={out}']
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def sides(monkeypatch):
    """The module of the benchmarks."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import sides

    return sides


SLOW = pytest.param('hanet', marks=pytest.mark.slow)  # compiles long for what it tells beside the others


@pytest.mark.parametrize('script', [name if name != 'hanet' else SLOW for name in RUNS])
def test_script(script, tmp_path):
    arguments, stages = RUNS[script]
    done = run(BENCHMARKS / f'{script}.py', tmp_path, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = tmp_path.glob(f'{script}_tiny_cpu_*.json')
    assert str(file) in done.stdout
    result = json.loads(file.read_text())
    assert result['device']['backend'] == 'cpu'
    assert not result['not_run']
    assert {stage for case in result['cases'] for stage in case['stages']} == stages
    for case in result['cases']:
        assert not case['failed']
        assert not case['not_run']
        assert case['errors']
        assert all(error <= 1e-3 for error in case['errors'].values())
        for stage, found in case['stages'].items():
            assert set(found['contenders']) == ({'jax'} if stage == 'crop on the host' else {'jax', 'eager'})
            for row in found['contenders'].values():
                numbers = [value for value in row.values() if value is not None]
                assert all(math.isfinite(value) and value > 0 for value in numbers)
                assert row['ratio'] > 0
            if script != 'memory' and found['costs']:
                rows = found['contenders'].values()
                assert all({'utilisation', 'times_floor', 'frames_per_s'} <= set(row) for row in rows)
    if script != 'memory':
        measured = result['ceilings']['float32']
        assert measured['flops_per_s'] > 0
        assert measured['bytes_per_s'] > 0


@pytest.mark.parametrize('script', sorted(BENCHMARKS.glob('*.py')), ids=lambda path: path.stem)
def test_what_is_imported_of_the_package_is_there(script):
    """Of all scripts, also those that no test runs."""
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module.startswith('kimnet_jax'):
            module = importlib.import_module(node.module)
            names = [name.name for name in node.names if not hasattr(module, name.name)]
            if hasattr(module, '__path__'):  # a package, whose modules need not be imported yet
                names = [name for name in names if importlib.util.find_spec(f'{node.module}.{name}') is None]
            assert not names


def test_two_that_disagree_are_not_timed(tmp_path):
    """One per cent of difference in what PyTorch gives; the contenders without processes of their own."""
    script = tmp_path / 'wrong.py'
    script.write_text(
        f'import sys\nsys.path.insert(0, {str(BENCHMARKS)!r})\n'
        'import contextlib, math\nimport harness, hanet, timing\nimport numpy as np\nfrom absl import app\n\n'
        'class Workers(contextlib.nullcontext):\n'
        '    left, cores = math.inf, [0]\n'
        '    def start(self, _):\n        pass\n'
        '    def __init__(self, *_):\n'
        '        super().__init__(self)\n'
        '    def ask(self, contender, kind, function, *rest):\n'
        '        return function(contender, None, *rest)\n'
        '    def ask_all(self, names, *_, limit=None):\n'
        "        poses = {'jax': np.ones(3), 'eager': 1.01 * np.ones(3)}\n"
        "        return {name: ({'poses': poses[name]}, {}, {}, ['windows']) for name in names}\n"
        '\nharness.Workers = Workers\n'
        "app.run(lambda argv: sys.exit(timing.run('wrong', None, hanet.CONTENDERS, hanet.cases)))\n"
    )
    done = run(script, tmp_path, '--stages=windows')
    assert done.returncode == 1
    assert 'error: poses: PyTorch is 1.0e-02 from JAX in float32, tolerance 1e-03' in done.stderr
    assert 'median ms' not in done.stdout
    assert not list(tmp_path.glob('*.json'))


def test_time_that_is_over_is_no_traceback(tmp_path):
    done = run(BENCHMARKS / 'hanet.py', tmp_path, '--seconds=0.001')
    assert done.returncode == 1
    assert done.stderr.endswith('error: the time was over\n')


def test_pytorch_reads_and_draws_maps_as_we_do(sides):
    """Peaks near the border, a joint outside, and noise, in which the parabola is to be refused."""
    joints = np.array([[[3.2, 4.9], [30.1, 62.7], [70.0, 5.0], [33.6, 20.2]]], np.float32)
    maps = heatmap.encode(joints, (16, 18), centre='cell')
    drawn = sides.torch_targets(torch.from_numpy(joints), (16, 18), 4)
    np.testing.assert_allclose(np.moveaxis(drawn.numpy(), -3, -1), maps, atol=1e-6)
    noisy = heatmap.encode(joints, (16, 18), centre='subpixel') + np.random.default_rng(0).uniform(0, 0.2, maps.shape)
    noisy = noisy.astype(np.float32)
    cells, scores = heatmap.decode(noisy, 'dark')
    assert (cells != np.round(cells)).any()
    found = sides.torch_decode(torch.from_numpy(np.moveaxis(noisy, -1, -3).copy()))
    np.testing.assert_allclose(found[0].numpy(), cells, atol=1e-3)
    np.testing.assert_allclose(found[1].numpy(), scores, atol=1e-6)


@pytest.mark.usefixtures('sides')
def test_costs_are_counted():
    """Products by hand: 2 * 3 * 4 * 5 once, 2 * 3 * 5 * 5 in each of 7 rounds of a loop, a 3x3 convolution over 8 x 8 cells."""
    import costs

    def program(a, b, c, image, kernel):
        _, rows = jax.lax.scan(lambda carry, _: (carry @ c, carry), a @ b, None, length=7)
        maps = jax.lax.conv_general_dilated(image, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
        return rows, maps

    shapes = ((3, 4), (4, 5), (5, 5), (2, 8, 8, 3), (3, 3, 3, 6))
    traced = jax.jit(program).trace(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    found = costs.count(traced.jaxpr, traced.lower().compile())
    convolution = 2 * 2 * 64 * 27 * 6
    assert found['flops'] == 120 + 7 * 150 + convolution
    assert (120, 4 * (12 + 20 + 15), 1) in found['work']
    assert (150, 4 * (15 + 25 + 15), 7) in found['work']
    assert (convolution, 4 * (384 + 162 + 768), 1) in found['work']
    # XLA leaves out what falls on the border, and counts the loop's own additions
    assert 0.8 * found['flops'] < found['compiled_flops'] < 1.2 * found['flops']
    assert found['compiled_bytes'] > 7 * 4 * (15 + 25 + 15)
