"""KIMNet on the embedded data set: no download, trains on two CPU cores in minutes. The default of `make demo`.

`--config configs/kinetic_puppets.py:joints=15,preset=small`. Build the data first:
`kimnet build kinetic_puppets --data_dir data`.

Preset `small` on 2 CPU cores: some 4 minutes, 55 % held-out mPCK@0.2 by torso (mean pose 34 %). In `benchmarks/choices.py`
rates of 2e-3 and 4e-3 did equally well, 1e-3 a little worse.
"""

from ml_collections import ConfigDict

from kimnet_jax.configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """`joints`: 13 (Penn Action) or 15 (JHMDB); `preset`: full, medium, small or tiny; `model` or `row`: see `configs.models`;
    `swap`: `common.set_model`."""
    args = common.parse_arg(arg, joints=15, preset='small', model='', row='', swap='encoder')
    if args.joints not in (13, 15):
        raise ValueError(f'joints {args.joints}: choose 13 or 15')
    config = common.base()
    common.set_model(config, args.model, args.row, args.preset, args.swap)
    config.dataset.update(name='kinetic_puppets', config=f'joints{args.joints}')
    config.data.update(augment_scale=(0.85, 1.2), augment_rotation=20.0)
    config.optimizer.learning_rate = 2e-3
    config.train.update(batch_size=4, epochs=70.0, average_decay=0.995, eval_every=70.0, save_every=10.0)
    return config
