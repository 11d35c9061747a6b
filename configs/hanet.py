"""HANet, which refines the poses of any estimator: `--config configs/hanet.py:preset=small,source=noise`.

`source=noise` makes the estimates from the truth of `config.dataset`; all it needs is
`python -m data_pipelines.build kinetic_puppets --data_dir data`. `source=predictions` takes files that `evaluate --predictions`
wrote, `source=sequences` DeciWatch's npz files; name them in `config.poses.train` and `config.poses.eval` (docs/refine.md).
"""

from ml_collections import ConfigDict

from kimnet_jax.configs import common
from kimnet_jax.core.config import plain
from kimnet_jax.models import MODELS, model_fields
from kimnet_jax.tasks.refinement import Settings

PRESETS = MODELS['hanet'].presets

KINDS = {'h36m_3d': '3d', 'pw3d': '3d', 'aist_smpl': 'smpl'}  # of other presets: 2d
FINAL_WEIGHT = {'2d': 5.0, '3d': 1.0, 'smpl': 2.0}


def get_config(arg: str | None = None) -> ConfigDict:
    """`preset`: small, tiny (for tests) or a released size; `source`: noise, predictions, sequences; `recipe`: ours, released;
    `kind`: 2d, 3d or smpl, if not given the preset's."""
    args = common.parse_arg(arg, preset='small', source='noise', recipe='ours', kind='')
    if args.preset not in PRESETS:
        raise ValueError(f'preset {args.preset!r}: choose {", ".join(PRESETS)}')
    kind = args.kind or KINDS.get(args.preset, '2d')
    if kind not in FINAL_WEIGHT:
        raise ValueError(f'kind {kind!r}: choose {", ".join(FINAL_WEIGHT)}')
    config = ConfigDict(plain(Settings()))
    config.model.update(model_fields('hanet', args.preset))
    config.dataset.update(name='kinetic_puppets', config='joints15')
    config.poses.update(source=args.source, kind=kind, root=(0,) if args.preset == 'h36m_3d' else ())  # joint 0: the hip
    config.loss.final_weight = FINAL_WEIGHT[kind]
    config.optimizer.update(learning_rate=3e-3, warmup_epochs=5.0, drop_epochs=(), final_rate=0.01, weight_decay=0.01)
    config.train.update(epochs=600.0, batch_size=16, average_decay=0.995, eval_every=100.0, save_every=20.0)
    if kind == 'smpl':
        config.poses.update(normalise='none', augment_scale=(1.0, 1.0), augment_shift=0.0)
    if kind != '2d':
        config.eval.select = 'negative_mpjpe'
    if args.recipe == 'released':
        config.model.update(memory_mask='released', dropout=0.1, pre_norm=kind == '3d')
        config.optimizer.learning_rate = 1e-3
        config.loss.mutual = 'released'
        config.poses.update(
            normalise='image' if kind == '2d' else 'none',
            augment_scale=(1.0, 1.0),
            augment_rotation=0.0,
            augment_flip=0.0,
            augment_shift=0.0,
        )
        config.optimizer.update(amsgrad=True, clip_norm=0.0)
        config.train.update(epochs=70.0, average_decay=0.0)
        config.eval.step = config.model.interval
    elif args.recipe != 'ours':
        raise ValueError(f"recipe {args.recipe!r}: choose 'ours' or 'released'")
    return config
