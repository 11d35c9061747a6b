"""SimpleBaseline on MPII (Xiao et al., ECCV 2018), to pretrain KIMNet's pose initializer and feature encoder.

`--config configs/pose_resnet_mpii.py:depth=101,preset=full`. Build the data first:
`python -m data_pipelines.build mpii/simple_baseline --manual_dir DOWNLOADS --data_dir data`.

The recipe of the release: Adam at 1e-3, a tenth of it from epochs 90 and 120 on, 140 epochs, batch 32, one 256x256 image a
sample, targets of sigma 2 about the nearest cell, joints weighted by their visibility. It begins with an ImageNet ResNet:
`--config.init.model=resnet101.npz --config.init.partial=True`; without it the network begins at random.

What differs from the release: the loss divides by the joints that count, not by all of them, and has no factor 1/2 (to Adam a
constant makes no difference); images are RGB, not BGR; the crop is the same to half a pixel, as pixel centres are at integers.
"""

from ml_collections import ConfigDict

from kimnet_jax.configs import common


def get_config(arg: str | None = None) -> ConfigDict:
    """`depth`: 18, 34, 50, 101, 152, or 0: the preset's; `preset`: `common.PRESETS`; `split`: simple_baseline, held_out."""
    args = common.parse_arg(arg, depth=0, preset='full', split='simple_baseline')
    if args.split not in ('simple_baseline', 'held_out'):
        raise ValueError(f"split {args.split!r}: choose 'simple_baseline' or 'held_out'")
    config = common.base()
    config.dataset.update(name='mpii', config=args.split, eval_split='valid')
    config.data.update(
        frames=1,
        augment_draw='clipped_normal',
        augment_scale=(1 / 1.25, 1 / 0.75),
        augment_rotation=60.0,
        augment_shift=0.0,
        augment_colour=0.0,
        augment_closeup=0.0,
        augment_background=0.0,
    )
    config.target.update(centre='cell', visibility_weighting=True, outside='ignored')
    config.optimizer.update(schedule='step', drop_epochs=(90, 120), clip_norm=0.0)
    config.train.update(epochs=140.0, batch_size=32, average_decay=0.0)
    config.eval.update(batch_size=32, segment=1, decoding='quarter')
    common.set_pose_resnet(config, args.depth, args.preset)
    return config
