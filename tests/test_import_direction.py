"""Who may import whom: every import, lazy and relative ones included, against the table of docs/architecture.md."""

import ast
import pathlib
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ('kimnet_jax', 'data_pipelines', 'configs')  # the others are part of the first, by two links in its folder
ENTRY = (
    'train',
    'evaluate',
    'predict',
    'refine',
    'convert',
    'parity',
    'reproduce',
    'export',
    'occlusion',
    'visualize',
    'report',
    'plan',
)
CORE = 'kimnet_jax.core'
BELOW_TASKS = ('models', 'losses', 'metrics', 'training', 'interop', 'inference', 'reporting', 'released', 'pretrained')

# area -> the other first-party areas that it may import
FIRST_PARTY = {
    'kimnet_jax': (CORE, 'kimnet_jax.pose'),  # `signals`, where a command begins; `Pose`, when it is asked for
    'kimnet_jax.configs': (
        'kimnet_jax.configs.common',
        'kimnet_jax.configs.models',
        CORE,
        'kimnet_jax.models',
        'kimnet_jax.tasks',
    ),  # the fields and defaults
    CORE: (),
    'kimnet_jax.data_pipelines': (CORE,),
    'kimnet_jax.models': (CORE,),
    'kimnet_jax.losses': (CORE,),
    'kimnet_jax.metrics': (CORE,),
    'kimnet_jax.pretrained': (CORE,),
    'kimnet_jax.training': (CORE, 'kimnet_jax.losses', 'kimnet_jax.metrics', 'kimnet_jax.pretrained'),
    'kimnet_jax.interop': (CORE, 'kimnet_jax.models'),
    'kimnet_jax.inference': (CORE,),
    'kimnet_jax.reporting': (CORE, 'kimnet_jax.metrics'),
    'kimnet_jax.released': (CORE, 'kimnet_jax.metrics', 'kimnet_jax.reporting'),
    'kimnet_jax.tasks': (CORE, 'kimnet_jax.data_pipelines', *(f'kimnet_jax.{area}' for area in BELOW_TASKS)),
    'kimnet_jax.pose': (CORE, 'kimnet_jax.inference', 'kimnet_jax.pretrained', 'kimnet_jax.tasks'),
    'kimnet_jax.command_line': (CORE, 'kimnet_jax.pretrained', 'kimnet_jax.training'),
    'kimnet_jax.config_flag': (CORE,),
    'kimnet_jax.completion': (CORE, 'kimnet_jax.__main__'),
    'kimnet_jax.__main__': (CORE,),  # names its commands by text, and loads one when it is asked for
} | {
    f'kimnet_jax.{name}': (
        CORE,
        'kimnet_jax.data_pipelines',
        *(f'kimnet_jax.{area}' for area in (*BELOW_TASKS, 'tasks', 'command_line', 'config_flag')),
    )
    for name in ENTRY
}
_COMMANDS = tuple(f'kimnet_jax.{name}' for name in ENTRY)
_NETWORKS = ('kimnet_jax.models', 'kimnet_jax.losses', 'kimnet_jax.metrics')
# third-party package -> the areas or modules that may import it
CONFINED = {
    'tensorflow': (),
    'torch': ('kimnet_jax.interop',),
    'orbax': ('kimnet_jax.training',),
    'optax': ('kimnet_jax.training',),
    'tensorboardX': ('kimnet_jax.training',),
    'wandb': ('kimnet_jax.training',),
    'grain': ('kimnet_jax.data_pipelines',),
    'apache_beam': ('kimnet_jax.data_pipelines.build', 'kimnet_jax.data_pipelines.clip_builder'),
    'tensorflow_datasets': ('kimnet_jax.data_pipelines',),
    'scipy': (
        'kimnet_jax.data_pipelines',
        'kimnet_jax.inference.detected',
        'kimnet_jax.reporting.calibration',
    ),
    'jax': (
        *_NETWORKS,
        'kimnet_jax.training',
        'kimnet_jax.interop',
        'kimnet_jax.inference',
        'kimnet_jax.tasks',
        'kimnet_jax.parity',
        'kimnet_jax.data_pipelines.loader',
    ),
    'flax': (*_NETWORKS, 'kimnet_jax.training', 'kimnet_jax.interop', 'kimnet_jax.tasks'),
    'cv2': ('kimnet_jax.core.image',),  # others take it from core.image.opencv
    'fsspec': ('kimnet_jax.core.paths',),
    'upath': ('kimnet_jax.core.paths',),
    'simplejpeg': ('kimnet_jax.core.image',),
    'av': ('kimnet_jax.data_pipelines', 'kimnet_jax.inference', 'kimnet_jax.core.decoding'),
    'matplotlib': ('kimnet_jax.reporting',),
    'jinja2': ('kimnet_jax.reporting',),
    'pandas': ('kimnet_jax.data_pipelines.pose_tables',),
    'tables': ('kimnet_jax.data_pipelines.pose_tables',),
    'h5py': ('kimnet_jax.data_pipelines.pose_tables',),
    'absl': (
        'kimnet_jax.command_line',
        'kimnet_jax.config_flag',
        'kimnet_jax.completion',
        *_COMMANDS,
        'kimnet_jax.data_pipelines',
    ),
    'ml_collections': ('kimnet_jax.configs', 'kimnet_jax.config_flag'),
    'libtpu': ('kimnet_jax.tasks.ahead_of_time',),
    'jax_cuda13_plugin': ('kimnet_jax.tasks.ahead_of_time',),
}
# (module, package): only inside a function, so that importing the module stays light
LAZY = {
    ('kimnet_jax.core.image', 'cv2'),
    ('kimnet_jax.core.image', 'simplejpeg'),
    ('kimnet_jax.core.decoding', 'av'),
    ('kimnet_jax.core.paths', 'upath'),
    ('kimnet_jax.data_pipelines.loader', 'jax'),
    ('kimnet_jax.training.writers', 'wandb'),
    *(('kimnet_jax.data_pipelines.pose_tables', name) for name in ('pandas', 'tables', 'h5py')),
} | {(f'kimnet_jax.data_pipelines.{name}', 'apache_beam') for name in ('build', 'clip_builder')}
NO_FILES = ('io', 'logging', 'os', 'pathlib', 'shutil', 'tempfile', 'absl')  # not in models, losses, metrics
BY_NAME = (
    'kimnet_jax.__main__',
    'kimnet_jax.completion',
    'kimnet_jax.tasks',
    'kimnet_jax.data_pipelines.builders',
    'kimnet_jax.config_flag',
)  # may look modules up by a text


class Import(NamedTuple):
    target: str
    lazy: bool
    line: int


def module_name(file: pathlib.Path) -> str:
    parts = file.relative_to(ROOT).with_suffix('').parts
    parts = parts if parts[0] == 'kimnet_jax' else ('kimnet_jax', *parts)
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


FILES = {module_name(file): file for package in PACKAGES for file in sorted((ROOT / package).rglob('*.py'))}  # follows no links


def within(module: str, area: str) -> bool:
    return module == area or module.startswith(f'{area}.')


def area_of(module: str) -> str:
    return max((area for area in FIRST_PARTY if within(module, area)), key=len)


def imports(module: str, source: str, is_package: bool) -> Iterator[Import]:
    """Every import; `from a import b` is of a.b where that is a module. Lazy: in a function, or for the type checker only."""
    package = module if is_package else module.rpartition('.')[0]

    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, lazy, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                parents = package.split('.')
                base = '.'.join(parents[: len(parents) - node.level + 1] + ([node.module] if node.module else []))
            for alias in node.names:
                full = f'{base}.{alias.name}'
                yield Import(full if full in FILES else base, lazy, node.lineno)
        elif isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, 'id', '')
            if name in ('import_module', 'find_spec', '__import__'):
                yield Import('(by name)', lazy, node.lineno)
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        lazy = lazy or (isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test))
        for child in ast.iter_child_nodes(node):
            yield from visit(child, lazy)

    yield from visit(ast.parse(source), False)


def violations(module: str, source: str, is_package: bool = False) -> list[str]:
    area = area_of(module)
    found = []
    for target, lazy, line in imports(module, source, is_package):
        top = target.partition('.')[0]
        problem = ''
        if target == '(by name)':
            problem = '' if module in BY_NAME else 'looks a module up by name'
        elif top in PACKAGES and top != 'kimnet_jax':
            problem = f'imports {target}; take kimnet_jax.{target}, its name where the wheel is installed'
        elif top == 'kimnet_jax':
            allowed = (area, *FIRST_PARTY[area]) if area != 'kimnet_jax.configs' else FIRST_PARTY[area]
            version = target == 'kimnet_jax'  # `from kimnet_jax import __version__`
            if not version and not any(within(target, other) and area_of(target) in (area, other) for other in allowed):
                problem = f'imports {target}; {area} may import {", ".join(FIRST_PARTY[area]) or "nothing first-party"}'
            elif version and area == 'kimnet_jax':
                problem = 'the package imports itself'
        elif top in CONFINED:
            if not any(within(module, place) for place in CONFINED[top]):
                problem = f'imports {top}, which is confined to {", ".join(CONFINED[top]) or "nowhere"}'
            elif (module, top) in LAZY and not lazy:
                problem = f'imports {top} outside a function'
        elif within(module, CORE) and top not in sys.stdlib_module_names and top != 'numpy':
            problem = f'imports {top}; core is NumPy only'
        elif (area in _NETWORKS or module == 'kimnet_jax.released.metrics') and top in NO_FILES:
            problem = f'imports {top}; networks, losses and metrics know no files and no logging'
        if problem:
            found.append(f'{module}:{line} {problem}')
    return found


@pytest.mark.parametrize('module', FILES)
def test_imports_go_one_way(module):
    file = FILES[module]
    assert violations(module, file.read_text(), file.name == '__init__.py') == []


@pytest.mark.parametrize(
    ('module', 'source', 'problem'),
    [
        ('kimnet_jax.core.heatmap', 'from kimnet_jax import metrics', 'imports kimnet_jax.metrics'),
        ('kimnet_jax.core.heatmap', 'from .. import metrics', 'imports kimnet_jax.metrics'),
        ('kimnet_jax.core.heatmap', 'def f():\n  from ..models.kmm import KMM', 'imports kimnet_jax.models.kmm'),
        ('kimnet_jax.core.heatmap', 'import jax.numpy as jnp', 'imports jax'),
        ('kimnet_jax.core.heatmap', 'import tqdm', 'NumPy only'),
        ('kimnet_jax.core.image', 'import cv2', 'outside a function'),
        ('kimnet_jax.models.kmm', 'from kimnet_jax.losses import heatmap_loss', 'imports kimnet_jax.losses'),
        ('kimnet_jax.models.kmm', 'import pathlib', 'no files'),
        ('kimnet_jax.released.metrics', 'import pathlib', 'no files'),
        ('kimnet_jax.released.metrics', 'import jax', 'confined to'),
        ('kimnet_jax.training.loop', 'from kimnet_jax.models import build_model', 'imports kimnet_jax.models'),
        ('kimnet_jax.training.loop', 'from kimnet_jax.data_pipelines import loader', 'imports kimnet_jax.data_pipelines.loader'),
        ('kimnet_jax.training.loop', 'from kimnet_jax.train import train', 'imports kimnet_jax.train'),
        ('kimnet_jax.evaluate', 'from kimnet_jax import train', 'imports kimnet_jax.train'),
        ('kimnet_jax.tasks.heatmaps', 'from kimnet_jax import command_line', 'imports kimnet_jax.command_line'),
        ('kimnet_jax.tasks.heatmaps', 'from absl import flags', 'confined to'),
        ('kimnet_jax.training.loop', 'from kimnet_jax.tasks import fit', 'imports kimnet_jax.tasks'),
        ('kimnet_jax.train', 'from kimnet_jax.configs import common', 'imports kimnet_jax.configs.common'),
        ('kimnet_jax.train', 'import torch', 'confined to kimnet_jax.interop'),
        ('kimnet_jax.tasks.heatmaps', 'from data_pipelines import loader', 'take kimnet_jax.data_pipelines'),
        ('kimnet_jax.predict', 'def f():\n  import grain', 'confined to kimnet_jax.data_pipelines'),
        ('kimnet_jax.data_pipelines.clips', 'def f():\n  import jax', 'confined to'),
        ('kimnet_jax.data_pipelines.loader', 'import jax', 'outside a function'),
        ('kimnet_jax.data_pipelines.schema', 'import tensorflow as tf', 'confined to nowhere'),
        ('kimnet_jax.data_pipelines.schema', 'from kimnet_jax import metrics', 'imports kimnet_jax.metrics'),
        (
            'kimnet_jax.configs.sub_jhmdb',
            'from kimnet_jax.configs import kinetic_puppets',
            'imports kimnet_jax.configs.kinetic_puppets',
        ),
        ('kimnet_jax.configs.sub_jhmdb', 'from kimnet_jax.training import loop', 'imports kimnet_jax.training'),
        ('kimnet_jax.tasks.heatmaps', 'from kimnet_jax.configs import common', 'imports kimnet_jax.configs.common'),
        ('kimnet_jax.data_pipelines.clips', 'import importlib\nimportlib.import_module("jax")', 'by name'),
    ],
)
def test_a_violation_is_seen(module, source, problem):
    (found,) = violations(module, source)
    assert problem in found


@pytest.mark.parametrize(
    ('module', 'source'),
    [
        ('kimnet_jax.core.image', 'def f():\n  import cv2'),
        ('kimnet_jax.core.heatmap', 'from .types import Array\nfrom . import geometry'),
        ('kimnet_jax.training.workdir', 'from kimnet_jax import __version__, losses'),
        ('kimnet_jax.data_pipelines.loader', 'from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  import jax'),
        ('kimnet_jax.configs.sub_jhmdb', 'from kimnet_jax.configs import common'),
    ],
)
def test_what_is_allowed(module, source):
    assert violations(module, source) == []


@pytest.mark.parametrize('command', ENTRY)
def test_commands_hold_flags_and_nothing_else(command):
    """They define no class, and of functions those that every command has and small ones that read its flags."""
    tree = ast.parse(FILES[f'kimnet_jax.{command}'].read_text())
    assert not [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {'define_flags', 'run', 'cli'} <= functions
    reading = {
        'predict': {'requested_people'},
        'occlusion': {'_counts'},
        'reproduce': {'_length'},
        'visualize': {'_bounds', '_request', '_out'},
    }
    assert functions - {'define_flags', 'run', 'cli'} == reading.get(command, set())
