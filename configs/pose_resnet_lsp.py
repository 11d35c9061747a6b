"""SimpleBaseline's network (Xiao et al., ECCV 2018) on LSP, to pretrain KIMNet's pose initializer and feature encoder.

`--config configs/pose_resnet_lsp.py:depth=50,preset=full`. Build the data first:
`python -m data_pipelines.build lsp/extended --manual_dir DOWNLOADS --data_dir data`.

Our recipe of `configs/common.py`: Adam with a cosine schedule and a moving average of the weights. Targets are centred on the
joint, not on the nearest cell, and joints are weighted by their visibility. Images are rotated by up to 60 degrees: gymnasts are
often upside down. It is evaluated on `valid` of LSP Extended, which is held out, or on `test` of LSP. The network may begin
with an ImageNet ResNet: `--config.init.model=resnet50.npz --config.init.partial=True`.
"""

from ml_collections import ConfigDict

from kimnet_jax.configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """`depth`: 18, 34, 50, 101, 152, or 0: the preset's; `preset`: full, medium, small, tiny; `data`: extended, original."""
    args = common.parse_arg(arg, depth=0, preset='full', data='extended')
    if args.data not in ('extended', 'original'):
        raise ValueError(f"data {args.data!r}: choose 'extended' or 'original'")
    config = common.base()
    config.dataset.update(name='lsp', config=args.data, eval_split='valid' if args.data == 'extended' else 'test')
    config.data.update(frames=1, augment_scale=(0.7, 1.4), augment_rotation=60.0)
    config.target.update(centre='subpixel', visibility_weighting=True)
    config.train.update(batch_size=32)
    config.eval.update(batch_size=32, segment=1)
    common.set_pose_resnet(config, args.depth, args.preset)
    return config
