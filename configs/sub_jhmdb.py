"""KIMNet on Sub-JHMDB: `--config configs/sub_jhmdb.py:fold=1,preset=full,recipe=ours`.

Build the data first: `kimnet build sub_jhmdb --manual_dir DOWNLOADS --data_dir data`.
The paper: 100 epochs, Adam at 1e-3, batch 8, mean of the three folds.
"""

from ml_collections import ConfigDict

from kimnet_jax.configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """`fold`: 1, 2, 3; `preset`: `common.PRESETS`; `recipe`: `common.apply_recipe`; `model` or `row`: see `configs.models`;
    `swap`: `common.set_model`."""
    args = common.parse_arg(arg, fold=1, preset='full', recipe='ours', model='', row='', swap='encoder')
    if args.fold not in (1, 2, 3):
        raise ValueError(f'fold {args.fold}: choose 1, 2 or 3')
    config = common.base()
    common.set_model(config, args.model, args.row, args.preset, args.swap)
    config.dataset.update(name='sub_jhmdb', config=f'fold{args.fold}')
    common.apply_recipe(config, args.recipe, paper_rate=1e-3, paper_batch=8)
    return config
