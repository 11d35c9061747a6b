"""Every config in every variant: plain data that builds its model and its settings; no field without a reader."""

import ast
import dataclasses
import functools
import importlib
import json
import pathlib

import jax
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from kimnet_jax.configs import common
from kimnet_jax.configs.models import ROWS
from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.skeleton import COCO, JHMDB, LSP, MPII, PENN_ACTION, Skeleton
from kimnet_jax.data_pipelines.loader import LoaderConfig
from kimnet_jax.data_pipelines.transforms import DataConfig
from kimnet_jax.models import GIVEN, MODELS, VIDEO_MODELS, abstract_model, build_model, model_fields
from kimnet_jax.training import loop
from kimnet_jax.training.initial import InitConfig
from kimnet_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from kimnet_jax.training.steps import TargetConfig

ROOT = pathlib.Path(__file__).resolve().parents[1]
PRESETS = ('full', 'small', 'tiny')
VARIANTS = {
    'kinetic_puppets': [None, 'joints=13', 'joints=15', *(f'preset={preset}' for preset in PRESETS)]
    + [f'preset={preset},model={model}' for model in VIDEO_MODELS for preset in PRESETS if model != 'kimnet']
    + [f'preset=tiny,row={row}' for row in ROWS],
    'penn_action': [None, 'preset=tiny', 'recipe=paper', 'recipe=released,model=pose_resnet']
    + [f'row={row}' for row in ROWS]
    + ['row=encoder_hrnet,swap=both'],
    'pose_resnet_mpii': [None, *(f'preset={preset}' for preset in PRESETS), 'split=held_out']
    + [f'depth={depth},preset=small' for depth in (18, 34, 50, 101, 152)],
    'pose_resnet_lsp': [None, *(f'preset={preset}' for preset in PRESETS), 'data=original', 'depth=18,preset=small'],
    'own_data': ['data=mine', 'data=mine,eval=valid', *(f'data=mine,start=none,preset={preset}' for preset in PRESETS)],
    'sub_jhmdb': [None, 'fold=1', 'fold=2', 'fold=3', 'recipe=ours', 'recipe=paper', 'recipe=released']
    + [f'fold=2,preset={preset},recipe=paper' for preset in PRESETS],
}
SECTIONS = {'init': InitConfig, 'data': DataConfig, 'loader': LoaderConfig, 'optimizer': OptimizerConfig, 'target': TargetConfig}


def get_config(name: str, arg: str | None = None) -> ConfigDict:
    return importlib.import_module(f'kimnet_jax.configs.{name}').get_config(arg)


def test_every_config_is_among_the_variants():
    files = {file.stem for file in (ROOT / 'configs').rglob('*.py')} - {'__init__', 'common', 'models', 'hanet'}  # no video model
    assert files == set(VARIANTS)


@pytest.mark.parametrize(('name', 'arg'), [(name, arg) for name, args in VARIANTS.items() for arg in args])
def test_variant(name, arg):
    config = get_config(name, arg)
    plain = config.to_dict()
    assert json.loads(json.dumps(plain)) == _with_lists(plain)

    joints = _skeleton(config.dataset).num_joints
    size, frames = config.data.input_size, config.data.frames
    shape = _heatmap_shape(json.dumps(plain['model']), config.dtype, joints, frames, size)
    cells = size // 8 - 1 if plain['model']['name'] == 'lstm_pm' else size // 4
    assert shape == (2, frames, cells, cells, joints)

    settings = {section: make(kind, config[section], section) for section, kind in SECTIONS.items()}
    schedule = make_schedule(settings['optimizer'], steps=100, steps_per_epoch=10)
    assert 0 <= float(schedule(0)) <= 1.001 * settings['optimizer'].learning_rate
    make_optimizer(settings['optimizer'], schedule)
    train = make(loop.TrainConfig, config.train, 'train')
    plan = loop.make_plan(160, train)
    assert plan.steps == (train.steps or train.epochs * 160 / train.batch_size)


def _skeleton(dataset: ConfigDict) -> Skeleton:
    if dataset.name == 'kinetic_puppets':
        return {'joints13': PENN_ACTION, 'joints15': JHMDB}[dataset.config]
    return {'sub_jhmdb': JHMDB, 'penn_action': PENN_ACTION, 'mpii': MPII, 'lsp': LSP, 'coco_keypoints': COCO}[dataset.name]


@functools.cache  # most variants have the same network
def _heatmap_shape(model: str, dtype: str, joints: int, frames: int, size: int) -> tuple[int, ...]:
    network = abstract_model(json.loads(model), num_joints=joints, dtype=dtype)
    network.eval()  # its chain is traced once, not frame by frame
    images = jax.ShapeDtypeStruct((2, frames, size, size, 3), np.float32)
    return nnx.eval_shape(lambda network, images: network(images)[0], network, images).shape


def _with_lists(tree: dict) -> dict:
    return {
        key: _with_lists(value) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
        for key, value in tree.items()
    }


def test_own_data_have_a_name_and_the_shipped_weights_their_size():
    config = get_config('own_data', 'data=mine,eval=valid')
    assert (config.dataset.name, config.dataset.config, config.dataset.eval_split) == ('coco_keypoints', 'mine', 'valid')
    assert config.init.model == 'pretrained:kimnet-s-jhmdb'
    with pytest.raises(ValueError, match='data: give the name that your data set was built by'):
        get_config('own_data')
    with pytest.raises(ValueError, match='preset=tiny: kimnet-s-jhmdb has the size of preset=medium'):
        get_config('own_data', 'data=mine,preset=tiny')


def test_fold_joints_and_preset_reach_their_fields():
    assert get_config('sub_jhmdb', 'fold=3').dataset.config == 'fold3'
    assert get_config('kinetic_puppets', 'joints=13').dataset.config == 'joints13'
    assert get_config('sub_jhmdb').model.pose_initializer == 'resnet101'
    assert get_config('sub_jhmdb', 'preset=small').model.pose_initializer == 'resnet18'
    assert get_config('sub_jhmdb', 'recipe=released').optimizer.schedule == 'released'


def test_the_papers_recipe():
    config = get_config('sub_jhmdb', 'recipe=paper')
    assert (config.optimizer.schedule, config.optimizer.learning_rate, config.train.batch_size) == ('constant', 1e-3, 8)
    assert (config.train.epochs, config.train.average_decay, config.eval.decoding) == (100, 0, 'argmax')
    assert (config.data.frames, config.data.input_size, config.data.augment_rotation) == (5, 256, 40)


@pytest.mark.parametrize(
    ('name', 'arg', 'message'),
    [
        ('sub_jhmdb', 'split=1', "'split': no such key; known: fold, preset, recipe, model"),
        ('sub_jhmdb', 'fold=one', "fold='one': not of type int"),
        ('sub_jhmdb', 'fold=4', 'choose 1, 2 or 3'),
        ('sub_jhmdb', 'preset=big', "preset 'big': choose one of full, medium, small, tiny"),
        ('sub_jhmdb', 'recipe=finetune', 'the ResNet-18 of preset=medium'),
        ('sub_jhmdb', 'recipe=mine', "choose 'ours', 'finetune', 'paper' or 'released'"),
        ('kinetic_puppets', 'fold=1', 'known: joints, preset'),
        ('kinetic_puppets', 'joints=14', 'choose 13 or 15'),
        ('penn_action', 'model=resnet', "model 'resnet': choose one of kimnet, rpstn, dkd"),
        ('penn_action', 'row=table3', "row 'table3': choose one of without_p"),
        ('penn_action', 'row=dkd,model=dkd', 'choose one of them'),
        ('pose_resnet_mpii', 'depth=20', 'choose 18, 34, 50, 101 or 152'),
        ('pose_resnet_lsp', 'depth=20', 'choose 18, 34, 50, 101 or 152'),
        ('pose_resnet_lsp', 'data=held_out', "choose 'extended' or 'original'"),
        ('pose_resnet_mpii', 'split=test', "choose 'simple_baseline' or 'held_out'"),
    ],
)
def test_a_wrong_argument_is_explained(name, arg, message):
    with pytest.raises(ValueError, match=message):
        get_config(name, arg)


def test_a_wrong_field_is_explained():
    config = common.base()
    with pytest.raises(AttributeError, match='Did you mean'):
        config.lock().train.epoch = 3
    with pytest.raises(InputError, match=r'config\.target\.sigmas: no such field; known: sigma, centre'):
        make(TargetConfig, {'sigmas': 2.0}, 'target')
    with pytest.raises(InputError, match=r"config\.target: field 'centre' is missing"):
        make(TargetConfig, {'sigma': 2.0, 'visibility_weighting': False}, 'target')
    with pytest.raises(InputError, match=r'config\.model\.depth: no such field in .kimnet.; known: .*feature_encoder'):
        build_model({'depth': 50}, num_joints=15)


def _fields(tree: dict, path: str = '') -> list[str]:
    return [
        leaf
        for key, value in tree.items()
        for leaf in (_fields(value, f'{path}{key}.') if isinstance(value, dict) else [f'{path}{key}'])
    ]


@functools.cache
def _names_read() -> set[str]:
    """Attributes read and texts used as keys in the code; the definitions of fields are neither."""
    names = set()
    for package in ('kimnet_jax', 'data_pipelines'):
        for file in (ROOT / package).rglob('*.py'):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                    names.add(node.attr)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    names.add(node.value)
    return names


def _all_fields() -> set[str]:
    of_models = {f'model.{field}' for name in VIDEO_MODELS for field in model_fields(name)}
    return {*_fields(common.base().to_dict()), *of_models}


@pytest.mark.parametrize('field', sorted(_all_fields()))
def test_every_field_is_read(field):
    assert field.rpartition('.')[2] in _names_read()


@pytest.mark.parametrize('name', MODELS)
def test_every_network_has_all_presets_of_fields_that_it_has(name):
    fields = {field.name for field in dataclasses.fields(MODELS[name].config)}
    assert {'small', 'tiny'} <= set(MODELS[name].presets)
    for preset in ('full', *MODELS[name].presets):
        assert set(model_fields(name, preset)) == fields - set(GIVEN) | {'name'}


def test_simple_baselines_recipe():
    config = get_config('pose_resnet_mpii', 'depth=152')
    schedule = make_schedule(make(OptimizerConfig, config.optimizer, 'optimizer'), steps=140 * 7, steps_per_epoch=7)
    rates = [float(schedule(7 * epoch)) for epoch in (0, 89, 90, 119, 120, 139)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])
    assert (config.train.epochs, config.train.batch_size, config.train.average_decay) == (140, 32, 0)
    assert (config.optimizer.clip_norm, config.optimizer.accumulate) == (0, 1)
    assert (config.data.frames, config.data.input_size, config.data.box_scale) == (1, 256, 1.25)
    assert (config.target.sigma, config.target.centre, config.target.visibility_weighting) == (2, 'cell', True)
    assert (config.model.name, config.model.depth, config.model.width, config.model.features) == ('pose_resnet', 152, 64, 256)


def test_the_rows_of_table_3_name_the_encoder_or_both():
    for row in ROWS:
        encoder, both = (get_config('penn_action', f'row={row},swap={swap}').model.to_dict() for swap in ('encoder', 'both'))
        changed = {'pose_initializer': encoder['feature_encoder']} if row.startswith('encoder_') else {}
        assert both == encoder | changed
    for arg in ('swap=both', 'row=kimnet,swap=decoder'):
        with pytest.raises(ValueError, match='swap'):
            get_config('penn_action', arg)
