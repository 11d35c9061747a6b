"""What all configs share: the fields, the recipes, and the parsing of the text after the colon.

A config names everything that a run depends on; values are plain data. Its fields, with their defaults and what they mean, are
those of `kimnet_jax.tasks.heatmaps.Settings` and, of `model`, of the network's own config (`kimnet_jax.models.MODELS`).
"""

from ml_collections import ConfigDict

from kimnet_jax.configs.models import ROWS, TINY_BACKBONES
from kimnet_jax.core.config import plain
from kimnet_jax.models import VIDEO_MODELS, model_fields
from kimnet_jax.tasks.heatmaps import Settings

PRESETS = ('full', 'medium', 'small', 'tiny')


def parse_arg(arg: str | None, **defaults: int | str) -> ConfigDict:
    """The text after the colon, `key=value,...`, over its defaults; values take the type of the default."""
    values: dict[str, int | str] = dict(defaults)
    for part in filter(None, (arg or '').split(',')):
        key, _, value = part.partition('=')
        if key not in defaults:
            raise ValueError(f'config argument {key!r}: no such key; known: {", ".join(defaults)}')
        try:
            values[key] = type(defaults[key])(value)
        except ValueError as error:
            raise ValueError(f'config argument {key}={value!r}: not of type {type(defaults[key]).__name__}') from error
    return ConfigDict(values)


def base() -> ConfigDict:
    """The paper's setting (KIMNet Sec. IV-A) with our training recipe: the defaults of `tasks.heatmaps.Settings`."""
    return ConfigDict(plain(Settings()))


def set_model(config: ConfigDict, model: str, row: str, preset: str, swap: str = 'encoder') -> None:
    """Makes `config.model` that of an argument, `model` (default KIMNet) or `row` of a table of the paper, in a preset's size.

    Presets: `full` (the paper's), `medium` (runs on a CPU in real time), `small` (trains on a CPU in minutes), `tiny` (for tests;
    learns little). In the rows of Table III that name a backbone, it is the feature `encoder`, or `both` it and the pose
    initializer (`swap`); the paper does not say which.
    """
    if swap not in ('encoder', 'both'):
        raise ValueError(f"swap {swap!r}: choose 'encoder' or 'both'")
    if swap == 'both' and not row:
        raise ValueError('swap=both: belongs to the rows of Table III, such as row=encoder_resnet18')
    if model and row:
        raise ValueError(f'model={model} and row={row}: choose one of them')
    if row and row not in ROWS:
        raise ValueError(f'row {row!r}: choose one of {", ".join(ROWS)}')
    changes = dict(ROWS[row]) if row else {}
    if swap == 'both' and row.startswith('encoder_'):
        changes['pose_initializer'] = changes['feature_encoder']
    name = changes.pop('name', model or 'kimnet')
    if name not in VIDEO_MODELS:
        raise ValueError(f'model {name!r}: choose one of {", ".join(VIDEO_MODELS)}')
    if preset not in PRESETS:
        raise ValueError(f'preset {preset!r}: choose one of {", ".join(PRESETS)}')
    if preset == 'tiny':
        changes = {key: TINY_BACKBONES.get(value, value) for key, value in changes.items()}
    config.model = ConfigDict(model_fields(name, preset) | changes)
    if preset == 'medium':
        config.data.input_size = 192
    elif preset == 'small':
        config.data.input_size = 128
    elif preset == 'tiny':
        config.data.update(input_size=64, frames=min(config.data.frames, 3))
        config.eval.update(segment=min(config.eval.segment, 4), batch_size=8)


def set_pose_resnet(config: ConfigDict, depth: int, preset: str) -> None:
    """Makes `config.model` SimpleBaseline's network in a preset's size, of a ResNet of that depth; 0: the preset's."""
    if depth not in (0, 18, 34, 50, 101, 152):
        raise ValueError(f'depth {depth}: choose 18, 34, 50, 101 or 152')
    set_model(config, 'pose_resnet', '', preset)
    if depth:
        config.model.depth = depth


PRETRAINED = 'pretrained:poseresnet-s-lsp'  # a ResNet-18 of preset `medium`


def apply_recipe(config: ConfigDict, recipe: str, *, paper_rate: float, paper_batch: int) -> None:
    """Sets the optimisation.

    `ours`; `finetune`: for preset `medium`, from the pretrained network of single images, as `kimnet-s-jhmdb` was made; `paper`
    (as stated: constant rate); `released` (RPSTN's, with its odd schedule).
    """
    if recipe == 'finetune':
        parts = [part for part in ('pose_initializer', 'feature_encoder') if config.model.get(part, 'none') != 'none']
        widths = {(config.model.get(part), config.model.get('width'), config.model.get('features')) for part in parts}
        if widths != {('resnet18', 32, 96)}:
            raise ValueError('recipe=finetune: for networks whose backbones are the ResNet-18 of preset=medium')
        config.init.update(dict.fromkeys(parts, PRETRAINED))
        config.optimizer.learning_rate = 3e-4
        config.train.update(epochs=60.0, average_decay=0.997)  # some thousand steps in all
        return
    if recipe == 'paper':
        config.optimizer.update(schedule='constant', learning_rate=paper_rate, clip_norm=0.0)
        config.train.update(epochs=100.0, batch_size=paper_batch, average_decay=0.0)
    elif recipe == 'released':
        config.optimizer.update(schedule='released', learning_rate=5e-4, clip_norm=0.0)
        config.train.update(epochs=100.0, batch_size=8, average_decay=0.0)
    elif recipe == 'ours':
        return
    else:
        raise ValueError(f"recipe {recipe!r}: choose 'ours', 'finetune', 'paper' or 'released'")
    config.eval.decoding = 'argmax'
    if 'output_scale' in config.model:
        config.model.update(output_scale=1.0, first_statistics='shared')
    config.target.centre = 'cell'
    config.data.update(augment_shift=0.0, augment_colour=0.0, augment_closeup=0.0, augment_background=0.0)
