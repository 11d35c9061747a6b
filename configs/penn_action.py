"""KIMNet on Penn Action: `--config configs/penn_action.py:preset=full,recipe=ours`.

Build the data first: `kimnet build penn_action --manual_dir DOWNLOADS --data_dir data`.
The paper: 100 epochs, Adam at 5e-3, batch 16.
"""

from ml_collections import ConfigDict

from kimnet_jax.configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """`preset`: full, medium, small or tiny; `recipe`: `common.apply_recipe`; `model` or `row`: see `configs.models`;
    `swap`: `common.set_model`."""
    args = common.parse_arg(arg, preset='full', recipe='ours', model='', row='', swap='encoder')
    config = common.base()
    common.set_model(config, args.model, args.row, args.preset, args.swap)
    config.dataset.update(name='penn_action', config='official')
    common.apply_recipe(config, args.recipe, paper_rate=5e-3, paper_batch=16)
    return config
